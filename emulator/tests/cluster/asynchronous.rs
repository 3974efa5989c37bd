//! `st.async`, `red.async` and `cp.reduce.async.bulk` by the ISA's words.

mod reports;

use super::*;
use half::{bf16, f16};

/// A kernel of two blocks of 32 threads. `%in` and `%out` are the buffers; `%t` is the thread, `%rank` the block's rank;
/// `room` and `more` are variables in shared memory, `bar` a barrier for one arrival and `bytes` bytes, `%room`, `%bar`
/// where those are in the other block, `%mine` where the room is here. `%p0` holds for thread 0, `%p1` for block 1, `%p2`
/// for thread 0 of block 1, `%p3` for block 0.
pub fn kernel(before: &str, bytes: u32, body: &str) -> String {
    format!(
        ".version 8.7\n.target sm_90\n.address_size 64
.shared .align 16 .b8 room[1024]; .shared .align 16 .b8 more[1024]; .shared .align 8 .b64 bar;
.visible .entry k(.param .u64 pin, .param .u64 pout) .reqnctapercluster 2, 1, 1
{{
    .reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<20>; .reg .b64 %d<20>; .reg .b64 %in; .reg .b64 %out;
    .reg .b32 %t; .reg .b32 %rank; .reg .b32 %room; .reg .b32 %bar; .reg .b32 %mine; .reg .b32 %at;
    ld.param.u64 %in, [pin]; ld.param.u64 %out, [pout];
    mov.u32 %t, %tid.x; mov.u32 %rank, %cluster_ctarank; xor.b32 %r0, %rank, 1;
    mov.u32 %mine, room; mapa.shared::cluster.u32 %room, %mine, %r0;
    mov.u32 %bar, bar; mapa.shared::cluster.u32 %bar, %bar, %r0;
    setp.eq.u32 %p0, %t, 0; setp.eq.u32 %p1, %rank, 1; setp.eq.and.u32 %p2, %t, 0, %p1; setp.eq.u32 %p3, %rank, 0;
    @%p0 mbarrier.init.shared.b64 [bar], 1;
    @%p0 mbarrier.arrive.expect_tx.shared.b64 _, [bar], {bytes};
    {before}
    {SYNC}
    {body}
    {SYNC}
    ret;
}}"
    )
}

pub const SYNC: &str = "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;\n";

/// Waits for the block's own barrier; then what it holds may be read.
pub const WAIT: &str = "WAIT: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p8, [bar], 0; @!%p8 bra WAIT;\n";

fn try_run(
    text: &str,
    input: &[u8],
    output: &[u8],
    seed: Option<u64>,
) -> Result<Finished, RunError> {
    let setup = Setup {
        grid: [2, 1, 1],
        seed,
        threads: 1,
        ..Setup::default()
    };
    let args = [Arg::Buffer(input.to_vec()), Arg::Buffer(output.to_vec())];
    run(text, "k", &args, &setup)
}

/// What the kernel leaves of `output`, the same under several orders.
#[track_caller]
pub fn left(text: &str, input: &[u8], output: &[u8]) -> Vec<u8> {
    let bytes = |seed| match try_run(text, input, output, seed) {
        Ok(done) => done.buffers[1].clone(),
        Err(e) => panic!("{e}\n{text}"),
    };
    let first = bytes(None);
    for seed in 0..5 {
        assert_eq!(bytes(Some(seed)), first, "seed {seed}");
    }
    first
}

#[track_caller]
pub fn reported(text: &str, check: Check, said: &str) {
    for seed in [None, Some(1), Some(2)] {
        match try_run(text, &[1; 1024], &[0; 1024], seed) {
            Err(RunError::Fault(fault)) => {
                assert_eq!(fault.kind, FaultKind::Check(check), "{fault}");
                assert!(fault.message.contains(said), "{fault}");
            }
            Err(e) => panic!("{e}\n{text}"),
            Ok(_) => panic!("no fault\n{text}"),
        }
    }
}

#[track_caller]
fn refused(instruction: &str, said: &str) {
    match try_run(&kernel("", 0, instruction), &[0; 16], &[0; 16], None) {
        Err(RunError::Load(error)) => {
            let text = error.to_string();
            assert!(text.contains(said), "{text}");
        }
        other => panic!("{other:?}\n{instruction}"),
    }
}

pub fn random(bytes: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2654435761) | 1;
    (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state >> 11) as u8
        })
        .collect()
}

/// Copies `bytes` of the room to the output, by the first threads of block 0.
fn out(bytes: u32) -> String {
    format!(
        "shl.b32 %at, %t, 4; setp.lt.and.u32 %p7, %at, {bytes}, %p3; cvt.u64.u32 %d1, %at; add.s64 %d1, %out, %d1;
         add.u32 %at, %at, %mine; @%p7 ld.shared.v4.b32 {{%r1, %r2, %r3, %r4}}, [%at];
         @%p7 st.global.v4.b32 [%d1], {{%r1, %r2, %r3, %r4}};\n"
    )
}

#[test]
fn stores_of_every_type_land_in_the_other_block() {
    for (ty, size, n) in [
        ("b32", 4, 1),
        ("u32", 4, 1),
        ("s32", 4, 1),
        ("f32", 4, 1),
        ("b64", 8, 1),
        ("u64", 8, 1),
        ("s64", 8, 1),
        ("f64", 8, 1),
        ("v2.b32", 4, 2),
        ("v2.f32", 4, 2),
        ("v2.u64", 8, 2),
        ("v4.s32", 4, 4),
        ("v4.f32", 4, 4),
    ] {
        let total = size * n;
        let (kind, first) = if size == 4 { ("r", 5) } else { ("d", 5) };
        let loads: String = (0..n)
            .map(|k| {
                format!(
                    "ld.global.b{} %{kind}{}, [%d2+{}];\n",
                    size * 8,
                    first + k,
                    k * size
                )
            })
            .collect();
        let list: Vec<String> = (0..n).map(|k| format!("%{kind}{}", first + k)).collect();
        let value = match n {
            1 => list[0].clone(),
            _ => format!("{{{}}}", list.join(", ")),
        };
        for generic in [false, true] {
            let store = if generic {
                format!(
                    "cvta.shared.u64 %d3, room; mapa.u64 %d3, %d3, 0; add.s64 %d3, %d3, %d0; cvta.shared.u64 %d4, bar; mapa.u64 %d4, %d4, 0;
                     @%p1 st.async.mbarrier::complete_tx::bytes.{ty} [%d3], {value}, [%d4];"
                )
            } else {
                format!(
                    "@%p1 st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.{ty} [%at], {value}, [%bar];"
                )
            };
            let body = format!(
                "mul.lo.u32 %at, %t, {total}; cvt.u64.u32 %d0, %at; add.s64 %d2, %in, %d0; add.u32 %at, %at, %room;
                 {loads} {store} @%p1 bra NEXT; {WAIT} NEXT: bar.sync 0; {}",
                out(32 * total)
            );
            let input = random(32 * total as usize, total);
            let found = left(
                &kernel("", 32 * total, &body),
                &input,
                &vec![0; input.len()],
            );
            assert_eq!(found, input, "{ty}, generic {generic}");
        }
    }
}

/// `old` reduced with `value` by `op`, as the ISA says of each type.
fn expected(op: &str, ty: &str, old: &[u8], value: &[u8]) -> Vec<u8> {
    macro_rules! integer {
        ($t:ident) => {{
            let a = $t::from_le_bytes(old.try_into().unwrap());
            let b = $t::from_le_bytes(value.try_into().unwrap());
            match op {
                "add" => a.wrapping_add(b),
                "min" => a.min(b),
                "max" => a.max(b),
                "inc" => {
                    if a >= b {
                        0
                    } else {
                        a + 1
                    }
                }
                "dec" => {
                    if a == 0 || a > b {
                        b
                    } else {
                        a - 1
                    }
                }
                "and" => a & b,
                "or" => a | b,
                "xor" => a ^ b,
                _ => panic!("{op}"),
            }
            .to_le_bytes()
            .to_vec()
        }};
    }
    let flushed = |x: f32| {
        if x.is_subnormal() {
            0f32.copysign(x)
        } else {
            x
        }
    };
    match ty {
        "u32" | "b32" => integer!(u32),
        "s32" => integer!(i32),
        "u64" | "b64" => integer!(u64),
        "s64" => integer!(i64),
        "f32" => {
            let a = flushed(f32::from_le_bytes(old.try_into().unwrap()));
            let b = flushed(f32::from_le_bytes(value.try_into().unwrap()));
            flushed(a + b).to_le_bytes().to_vec()
        }
        "f64" => {
            let a = f64::from_le_bytes(old.try_into().unwrap());
            let b = f64::from_le_bytes(value.try_into().unwrap());
            (a + b).to_le_bytes().to_vec()
        }
        "f16" => {
            let a = f16::from_le_bytes(old.try_into().unwrap()).to_f64();
            let b = f16::from_le_bytes(value.try_into().unwrap()).to_f64();
            f16::from_f64(float(op, a, b)).to_le_bytes().to_vec()
        }
        _ => {
            let a = bf16::from_le_bytes(old.try_into().unwrap()).to_f64();
            let b = bf16::from_le_bytes(value.try_into().unwrap()).to_f64();
            bf16::from_f64(float(op, a, b)).to_le_bytes().to_vec()
        }
    }
}

fn float(op: &str, a: f64, b: f64) -> f64 {
    // −0 is less than +0.
    let less = a < b || a == b && a.is_sign_negative();
    match op {
        "add" => a + b,
        "min" => {
            if less {
                a
            } else {
                b
            }
        }
        _ => {
            if less {
                b
            } else {
                a
            }
        }
    }
}

/// Random elements of a type; floats without NaN, some of them subnormal.
fn elements(ty: &str, bytes: usize, seed: u32) -> Vec<u8> {
    let mut data = random(bytes, seed);
    // The upper bytes of a float: exponents low enough to add, every fourth with none at all.
    let (size, upper) = match ty {
        "f32" => (4, 0x3f),
        "f64" => (8, 0x3f),
        "f16" => (2, 0x3b),
        "bf16" => (2, 0x3f),
        // Counters near their bounds.
        "u32" => {
            for (k, word) in data.chunks_mut(4).enumerate() {
                if k % 2 == 0 {
                    word[1..].fill(0);
                    word[0] %= 4;
                }
            }
            return data;
        }
        _ => return data,
    };
    for (k, element) in data.chunks_mut(size).enumerate() {
        let sign = element[size - 1] & 0x80;
        element[size - 1] = sign | if k % 4 == 0 { 0 } else { upper };
        if k % 4 == 0 {
            // Subnormal in every format.
            element[size - 2] &= 3;
        }
    }
    data
}

/// Operations and types of `cp.reduce.async.bulk` into a block's shared memory, as the ISA's table has them.
const SHARED: &[(&str, &[&str])] = &[
    ("add", &["u32", "s32", "u64"]),
    ("min", &["u32", "s32"]),
    ("max", &["u32", "s32"]),
    ("inc", &["u32"]),
    ("dec", &["u32"]),
    ("and", &["b32"]),
    ("or", &["b32"]),
    ("xor", &["b32"]),
];

/// And into global memory.
const GLOBAL: &[(&str, &[&str])] = &[
    ("add", &["u32", "s32", "u64", "f32", "f64", "f16", "bf16"]),
    ("min", &["u32", "s32", "u64", "s64", "f16", "bf16"]),
    ("max", &["u32", "s32", "u64", "s64", "f16", "bf16"]),
    ("inc", &["u32"]),
    ("dec", &["u32"]),
    ("and", &["b32", "b64"]),
    ("or", &["b32", "b64"]),
    ("xor", &["b32", "b64"]),
];

fn forms(table: &'static [(&str, &[&str])]) -> impl Iterator<Item = (&'static str, &'static str)> {
    table
        .iter()
        .flat_map(|(op, types)| types.iter().map(move |ty| (*op, *ty)))
}

fn size_of(ty: &str) -> usize {
    match ty {
        "f16" | "bf16" => 2,
        "u64" | "s64" | "b64" | "f64" => 8,
        _ => 4,
    }
}

fn reduced(op: &str, ty: &str, old: &[u8], values: &[u8]) -> Vec<u8> {
    let size = size_of(ty);
    (old.chunks(size).zip(values.chunks(size)))
        .flat_map(|(a, b)| expected(op, ty, a, b))
        .collect()
}

/// Both blocks' rooms hold 256 bytes: block 0's the output's, block 1's the input's.
pub const FILL: &str = "selp.b64 %d1, %in, %out, %p1; mul.wide.u32 %d0, %t, 8; add.s64 %d1, %d1, %d0; ld.global.b64 %d2, [%d1];
    mad.lo.u32 %at, %t, 8, %mine; st.shared.b64 [%at], %d2;\n";

#[test]
fn bulk_reductions_into_a_block() {
    for (op, ty) in forms(SHARED) {
        let body = format!(
            "@%p2 cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.{op}.{ty} [%room], [%mine], 256, [%bar];
             @%p1 bra NEXT; {WAIT} NEXT: {}",
            out(256)
        );
        let (input, output) = (elements(ty, 256, 3), elements(ty, 256, 4));
        let found = left(
            &kernel(&format!("{FILL} fence.proxy.async;"), 256, &body),
            &input,
            &output,
        );
        assert_eq!(found, reduced(op, ty, &output, &input), ".{op}.{ty}");
    }
}

#[test]
fn bulk_reductions_into_global_memory() {
    for (op, ty) in forms(GLOBAL) {
        let noftz = if op == "add" && size_of(ty) == 2 {
            ".noftz"
        } else {
            ""
        };
        for hint in [false, true] {
            let (modifier, operand) = if hint {
                (".L2::cache_hint", ", %d9")
            } else {
                ("", "")
            };
            let body = format!(
                "createpolicy.fractional.L2::evict_first.b64 %d9, 1.0;
                 @%p2 cp.reduce.async.bulk.global.shared::cta.bulk_group{modifier}.{op}{noftz}.{ty} [%out], [%mine], 256{operand};
                 cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;"
            );
            let (input, output) = (elements(ty, 256, 5), elements(ty, 256, 6));
            let found = left(
                &kernel(&format!("{FILL} fence.proxy.async;"), 0, &body),
                &input,
                &output,
            );
            assert_eq!(found, reduced(op, ty, &output, &input), ".{op}.{ty}");
        }
    }
}

#[test]
fn half_width_sums_keep_subnormals_and_f32_sums_do_not() {
    let add = |ty: &str, noftz: &str| {
        format!(
            "@%p2 cp.reduce.async.bulk.global.shared::cta.bulk_group.add{noftz}.{ty} [%out], [%mine], 16;
             cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;"
        )
    };
    let before = format!("{FILL} fence.proxy.async;");
    let words = |word: u32| word.to_le_bytes().repeat(64);
    let run = |ty, noftz, old: u32, value: u32| {
        let found = left(
            &kernel(&before, 0, &add(ty, noftz)),
            &words(value),
            &words(old),
        );
        assert_eq!(found[16..], words(old)[16..]);
        u32::from_le_bytes(found[..4].try_into().unwrap())
    };
    // 1 + 2 units in the last place of a subnormal; in f32 nothing, with the sign where both have it.
    assert_eq!(run("f16", ".noftz", 0x0001_8001, 0x0002_8002), 0x0003_8003);
    assert_eq!(run("bf16", ".noftz", 0x0001_8001, 0x0002_8002), 0x0003_8003);
    assert_eq!(run("f32", "", 1, 2), 0);
    assert_eq!(run("f32", "", 0x8000_0001, 0x8000_0002), 0x8000_0000);
    // A sum that comes out subnormal: 2^-126 * 1.5 less 2^-126.
    assert_eq!(run("f32", "", 0x00c0_0000, 0x8080_0000), 0);
}

#[test]
fn single_reductions_into_a_block() {
    // All 32 threads of block 1 reduce into one word of block 0, in whatever order.
    for (op, ty) in forms(SHARED).chain([("add", "s64")]) {
        let size = size_of(ty);
        let kind = if size == 8 { "d" } else { "r" };
        let body = format!(
            "mul.wide.u32 %d0, %t, {size}; add.s64 %d0, %in, %d0; ld.global.b{0} %{kind}5, [%d0];
             @%p1 red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.{op}.{ty} [%room], %{kind}5, [%bar];
             @%p1 bra NEXT; {WAIT} NEXT: {1}",
            size * 8,
            out(16)
        );
        let (mut input, output) = (elements(ty, 32 * size, 7), elements(ty, 256, 8));
        if matches!(op, "inc" | "dec") {
            // Their results depend on the order, unless all have the same bound.
            let bound = 9u32.to_le_bytes();
            input.chunks_mut(4).for_each(|c| c.copy_from_slice(&bound));
        }
        let mut old = output[..size].to_vec();
        input
            .chunks(size)
            .for_each(|value| old = expected(op, ty, &old, value));
        input.resize(256, 0);
        let found = left(&kernel(FILL, 32 * size as u32, &body), &input, &output);
        assert_eq!(found[..size], old, ".{op}.{ty}");
        assert_eq!(found[size..16], output[size..16], ".{op}.{ty}");
    }
}
