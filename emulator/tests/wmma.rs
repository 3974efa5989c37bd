//! `wmma` in every shape, type and layout, against plain loops over the matrices in memory.

use half::{bf16, f16};
use ptx_emulator::check::Checks;
use ptx_emulator::run::{Arg, Setup, run};

struct Case {
    shape: &'static str,
    factor: &'static str,
    c: &'static str,
    d: &'static str,
    /// Registers of A, B, C, D.
    registers: [usize; 4],
}

const fn case(
    shape: &'static str,
    factor: &'static str,
    c: &'static str,
    d: &'static str,
    registers: [usize; 4],
) -> Case {
    Case {
        shape,
        factor,
        c,
        d,
        registers,
    }
}

/// As `mma.h` and the ISA's tables of fragments have them.
const CASES: &[Case] = &[
    case("m16n16k16", "f16", "f32", "f32", [8, 8, 8, 8]),
    case("m16n16k16", "f16", "f16", "f16", [8, 8, 4, 4]),
    case("m16n16k16", "f16", "f16", "f32", [8, 8, 4, 8]),
    case("m16n16k16", "f16", "f32", "f16", [8, 8, 8, 4]),
    case("m8n32k16", "f16", "f32", "f32", [8, 8, 8, 8]),
    case("m32n8k16", "f16", "f16", "f16", [8, 8, 4, 4]),
    case("m16n16k16", "bf16", "f32", "f32", [4, 4, 8, 8]),
    case("m8n32k16", "bf16", "f32", "f32", [2, 8, 8, 8]),
    case("m32n8k16", "bf16", "f32", "f32", [8, 2, 8, 8]),
    case("m16n16k8", "tf32", "f32", "f32", [4, 4, 8, 8]),
    case("m8n8k4", "f64", "f64", "f64", [1, 1, 2, 2]),
    case("m16n16k16", "s8", "s32", "s32", [2, 2, 8, 8]),
    case("m8n32k16", "u8", "s32", "s32", [1, 4, 8, 8]),
    case("m32n8k16", "s8", "s32", "s32", [4, 1, 8, 8]),
    case("m8n8k32", "s4", "s32", "s32", [1, 1, 2, 2]),
    case("m8n8k32", "u4", "s32", "s32", [1, 1, 2, 2]),
    case("m8n8k128", "b1", "s32", "s32", [1, 1, 2, 2]),
];

fn bits(ty: &str) -> usize {
    match ty {
        "f64" => 64,
        "f32" | "tf32" | "s32" => 32,
        "f16" | "bf16" => 16,
        "s8" | "u8" => 8,
        "s4" | "u4" => 4,
        _ => 1,
    }
}

fn encode(ty: &str, x: i32) -> u64 {
    match ty {
        "f64" => f64::from(x).to_bits(),
        "f32" | "tf32" => u64::from((x as f32).to_bits()),
        "f16" => u64::from(f16::from_f32(x as f32).to_bits()),
        "bf16" => u64::from(bf16::from_f32(x as f32).to_bits()),
        _ => u64::from(x as u32) & ((1 << bits(ty)) - 1),
    }
}

fn decode(ty: &str, raw: u64) -> i32 {
    match ty {
        "f64" => f64::from_bits(raw) as i32,
        "f32" => f32::from_bits(raw as u32) as i32,
        "f16" => f16::from_bits(raw as u16).to_f32() as i32,
        _ => raw as u32 as i32,
    }
}

fn put(bytes: &mut [u8], ty: &str, at: usize, raw: u64) {
    let n = bits(ty);
    if n >= 8 {
        bytes[at * n / 8..][..n / 8].copy_from_slice(&raw.to_le_bytes()[..n / 8]);
    } else {
        bytes[at * n / 8] |= (raw << (at * n % 8)) as u8;
    }
}

fn get(bytes: &[u8], ty: &str, at: usize) -> u64 {
    let n = bits(ty) / 8;
    let mut raw = [0; 8];
    raw[..n].copy_from_slice(&bytes[at * n..][..n]);
    u64::from_le_bytes(raw)
}

fn extents(shape: &str) -> [usize; 3] {
    let (m, rest) = shape[1..].split_once('n').unwrap();
    let (n, k) = rest.split_once('k').unwrap();
    [m, n, k].map(|x| x.parse().unwrap())
}

/// Place of (row, column) in a matrix with `rows` and `columns`, `pad` more elements between its lines.
fn place(row_major: bool, rows: usize, columns: usize, pad: usize, r: usize, c: usize) -> usize {
    if row_major {
        r * (columns + pad) + c
    } else {
        c * (rows + pad) + r
    }
}

fn regs(name: &str, count: usize) -> String {
    let list: Vec<String> = (0..count).map(|k| format!("%{name}{k}")).collect();
    format!("{{{}}}", list.join(", "))
}

fn class(ty: &str) -> &'static str {
    match ty {
        "f64" => ".f64",
        "f32" => ".f32",
        _ => ".b32",
    }
}

#[allow(clippy::too_many_arguments)]
fn check(
    case: &Case,
    a_row: bool,
    b_row: bool,
    c_row: bool,
    d_row: bool,
    pad: bool,
    shared: bool,
    op: &str,
) {
    let [m, n, k] = extents(case.shape);
    let mut state = 12345u32;
    let mut draw = |ty: &str| {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        let x = (state >> 20) as i32;
        match ty {
            "u8" | "u4" => x % (1 << bits(ty)),
            "s8" => x % 256 - 128,
            "s4" => x % 16 - 8,
            "b1" => x & 1,
            "s32" => x - 2000,
            _ => x % 9 - 4,
        }
    };
    // A padding of 16 bytes keeps every line aligned.
    let padding = |ty: &str| if pad { 128 / bits(ty) } else { 0 };
    let (pa, pc, pd) = (padding(case.factor), padding(case.c), padding(case.d));
    let size = |ty: &str, rows: usize, columns: usize, p: usize| {
        (rows + p) * (columns + p) * bits(ty) / 8 + 16
    };
    let mut a_bytes = vec![0; size(case.factor, m, k, pa)];
    let mut b_bytes = vec![0; size(case.factor, k, n, pa)];
    let mut c_bytes = vec![0; size(case.c, m, n, pc)];
    let a: Vec<Vec<i32>> = (0..m)
        .map(|_| (0..k).map(|_| draw(case.factor)).collect())
        .collect();
    let b: Vec<Vec<i32>> = (0..k)
        .map(|_| (0..n).map(|_| draw(case.factor)).collect())
        .collect();
    let c: Vec<Vec<i32>> = (0..m)
        .map(|_| (0..n).map(|_| draw(case.c)).collect())
        .collect();
    for r in 0..m {
        for x in 0..k {
            put(
                &mut a_bytes,
                case.factor,
                place(a_row, m, k, pa, r, x),
                encode(case.factor, a[r][x]),
            );
        }
        for x in 0..n {
            put(
                &mut c_bytes,
                case.c,
                place(c_row, m, n, pc, r, x),
                encode(case.c, c[r][x]),
            );
        }
    }
    for r in 0..k {
        for x in 0..n {
            put(
                &mut b_bytes,
                case.factor,
                place(b_row, k, n, pa, r, x),
                encode(case.factor, b[r][x]),
            );
        }
    }
    let layout = |row| if row { "row" } else { "col" };
    let line =
        |row: bool, rows: usize, columns: usize, p: usize| if row { columns + p } else { rows + p };
    let stride = |l: usize| if pad { format!(", {l}") } else { String::new() };
    let [ra, rb, rc, rd] = case.registers;
    let types = match case.factor {
        "f16" => format!("{}.{}", case.d, case.c),
        f => format!("{}.{f}.{f}.{}", case.d, case.c),
    };
    let rounding = if case.factor == "f64" { ".rn" } else { "" };
    let (head, tail) = match op {
        "satfinite" => ("", ".satfinite"),
        "xor" => (".xor.popc", ""),
        "and" => (".and.popc", ""),
        _ => ("", ""),
    };
    let space = if shared { ".shared" } else { ".global" };
    // From shared memory: A alone, copied there byte by byte by one thread.
    let stage = if shared {
        format!(
            ".shared .align 32 .b8 tile[{0}];
            .reg .b32 %x, %y; .reg .b64 %z; .reg .pred %q; .reg .b16 %h;
            mov.u32 %x, 0;
            LOOP: cvt.u64.u32 %z, %x; add.s64 %z, %z, %pa; ld.global.u8 %h, [%z]; mov.u32 %y, tile; add.u32 %y, %y, %x;
            st.shared.u8 [%y], %h; add.u32 %x, %x, 1; setp.lt.u32 %q, %x, {0}; @%q bra LOOP; bar.sync 0;",
            a_bytes.len()
        )
    } else {
        String::new()
    };
    let a_address = if shared { "tile" } else { "%pa" };
    let text = format!(
        ".version 8.0\n.target sm_90\n.address_size 64
.visible .entry k(.param .u64 a, .param .u64 b, .param .u64 c, .param .u64 d) {{
.reg .b64 %pa, %pb, %pc, %pd;
.reg {0} %a<{ra}>; .reg {0} %b<{rb}>; .reg {1} %c<{rc}>; .reg {2} %d<{rd}>;
ld.param.u64 %pa, [a]; ld.param.u64 %pb, [b]; ld.param.u64 %pc, [c]; ld.param.u64 %pd, [d];
{stage}
wmma.load.a.sync.aligned.{3}.{shape}{space}.{f} {4}, [{a_address}]{5};
wmma.load.b.sync.aligned.{6}.{shape}.global.{f} {7}, [%pb]{8};
wmma.load.c.sync.aligned.{9}.{shape}.{ct} {10}, [%pc]{11};
wmma.mma{head}.sync.aligned.{3}.{6}.{shape}{rounding}.{types}{tail} {12}, {4}, {7}, {10};
wmma.store.d.sync.aligned.{13}.{shape}.global.{dt} [%pd], {12}{14};
ret; }}",
        class(case.factor),
        class(case.c),
        class(case.d),
        layout(a_row),
        regs("a", ra),
        stride(line(a_row, m, k, pa)),
        layout(b_row),
        regs("b", rb),
        stride(line(b_row, k, n, pa)),
        layout(c_row),
        regs("c", rc),
        stride(line(c_row, m, n, pc)),
        regs("d", rd),
        layout(d_row),
        stride(line(d_row, m, n, pd)),
        shape = case.shape,
        f = case.factor,
        ct = case.c,
        dt = case.d,
    );
    let d_bytes = size(case.d, m, n, pd);
    let args = [
        Arg::Buffer(a_bytes),
        Arg::Buffer(b_bytes),
        Arg::Buffer(c_bytes),
        Arg::Uninit(d_bytes),
    ];
    // One thread's bytes in shared memory are for all lanes: the copy loop runs in every lane alike.
    let checks = if shared {
        Checks::ALL.without(ptx_emulator::check::Check::SharedRace)
    } else {
        Checks::ALL
    };
    let done = run(
        &text,
        "k",
        &args,
        &Setup {
            checks,
            ..Setup::default()
        },
    )
    .unwrap_or_else(|e| panic!("{e}\n{text}"));
    for r in 0..m {
        for x in 0..n {
            let sum: i32 = (0..k)
                .map(|z| {
                    if op == "xor" {
                        a[r][z] ^ b[z][x]
                    } else {
                        a[r][z] * b[z][x]
                    }
                })
                .sum();
            let got = decode(
                case.d,
                get(&done.buffers[3], case.d, place(d_row, m, n, pd, r, x)),
            );
            assert_eq!(got, sum + c[r][x], "row {r} column {x}\n{text}");
        }
    }
}

#[test]
fn every_shape_type_and_layout() {
    for case in CASES {
        // Narrow factors have one layout.
        let fixed = matches!(case.factor, "s4" | "u4" | "b1");
        let op = if case.factor == "b1" { "xor" } else { "" };
        for bits in 0..16 {
            let on = |k: usize| bits >> k & 1 != 0;
            let (a_row, b_row) = if fixed { (true, false) } else { (on(0), on(1)) };
            check(case, a_row, b_row, on(2), on(3), bits % 3 == 0, false, op);
        }
        if case.factor == "b1" {
            check(case, true, false, true, true, false, false, "and");
        }
        if matches!(case.factor, "s8" | "u8" | "s4" | "u4") {
            check(case, true, false, true, true, false, false, "satfinite");
        }
    }
}

#[test]
fn fragments_from_shared_memory() {
    check(&CASES[0], true, false, true, true, true, true, "");
    check(&CASES[11], false, false, true, true, false, true, "");
}

#[test]
fn what_mma_h_does_not_have_is_refused() {
    let text = |line: &str| {
        format!(
            ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry k() {{ .reg .b32 %r<16>; .reg .b64 %p; mov.b64 %p, 0; {line} ret; }}"
        )
    };
    for (line, why) in [
        (
            "wmma.load.a.sync.aligned.row.m16n16k8.global.f16 {%r0,%r1,%r2,%r3,%r4,%r5,%r6,%r7}, [%p];",
            "shape and type",
        ),
        (
            "wmma.load.a.sync.aligned.row.m16n16k16.global.f16 {%r0,%r1,%r2,%r3}, [%p];",
            "4 registers, where 8 belong",
        ),
        (
            "wmma.load.d.sync.aligned.row.m16n16k16.global.f16 {%r0,%r1,%r2,%r3}, [%p];",
            "not loaded or stored",
        ),
    ] {
        let error = run(&text(line), "k", &[], &Setup::default())
            .expect_err("refused")
            .to_string();
        assert!(error.contains(why), "{error}");
    }
}
