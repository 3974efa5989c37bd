//! Loads and stores where nothing is checked or counted: they take a shorter way through the emulator, and do the same.

mod warp;

use ptx_emulator::check::{Check, Checks, FaultKind};
use ptx_emulator::run::{RunError, Setup};
use warp::{Lanes, Random, lanes, try_lanes, unwatched};

/// Places of the lanes in a row of 64, in elements, by name.
fn patterns() -> Vec<(&'static str, Lanes)> {
    let mut random = Random(11);
    let lanes = |f: &mut dyn FnMut(u32) -> u32| -> Lanes { std::array::from_fn(|l| f(l as u32)) };
    vec![
        ("side by side", lanes(&mut |l| l)),
        ("side by side, further on", lanes(&mut |l| l + 7)),
        ("backwards", lanes(&mut |l| 31 - l)),
        (
            "side by side but for the middle",
            lanes(&mut |l| if l == 16 { 40 } else { l }),
        ),
        ("every second", lanes(&mut |l| 2 * l)),
        ("all the same", lanes(&mut |_| 5)),
        ("anywhere", lanes(&mut |_| random.below(64))),
    ]
}

/// Lanes that take part.
const GUARDS: [u32; 5] = [u32::MAX, 1, 1 << 31, 0x0f0f_3c01, 0x7fff_ffff];

/// A way to name places: the lane's in `%at`, which has so many bits.
struct Memory {
    space: &'static str,
    bits: u32,
    /// From the place's offset in `%t2` to its address in `%at`.
    address: &'static str,
}

const MEMORIES: [Memory; 4] = [
    Memory {
        space: ".shared",
        bits: 32,
        address: "mov.u32 %at, tile; add.u32 %at, %at, %t2;",
    },
    Memory {
        space: ".shared",
        bits: 64,
        address: "mov.u64 %at, tile; cvt.u64.u32 %d0, %t2; add.u64 %at, %at, %d0;",
    },
    Memory {
        space: "",
        bits: 64,
        address: "mov.u64 %d1, tile; cvta.shared.u64 %at, %d1; cvt.u64.u32 %d0, %t2; add.u64 %at, %at, %d0;",
    },
    Memory {
        space: ".global",
        bits: 64,
        address: "ld.param.u64 %at, [out]; cvt.u64.u32 %d0, %t2; add.u64 %at, %at, %d0;",
    },
];

/// Element types, their bytes, and a vector's registers.
const ELEMENTS: [(&str, &str, u32, &[&str]); 8] = [
    ("b32", "", 4, &["%w0"]),
    ("u8", "", 1, &["%w0"]),
    ("s8", "", 1, &["%w0"]),
    ("u16", "", 2, &["%w0"]),
    ("b32", ".v2", 8, &["%w0", "%w1"]),
    ("b32", ".v4", 16, &["%w0", "%w1", "%w2", "%w3"]),
    ("b64", "", 8, &["%x0"]),
    ("b64", ".v2", 16, &["%x0", "%x1"]),
];

/// A body that stores at the lanes' places (input 0) under a guard (input 1), loads from there likewise, and gives what
/// was loaded; `%o4` on are what the memory holds in the end.
fn body(memory: &Memory, element: usize, offset: i32) -> String {
    let (ty, vector, size, registers) = ELEMENTS[element];
    let list = registers.join(", ");
    let list = if vector.is_empty() {
        list
    } else {
        format!("{{{list}}}")
    };
    let Memory {
        space,
        bits,
        address,
    } = memory;
    let results = if registers[0].starts_with("%x") {
        "mov.b64 {%o0, %o1}, %x0; mov.b64 {%o2, %o3}, %x1;"
    } else {
        "mov.b32 %o0, %w0; mov.b32 %o1, %w1; mov.b32 %o2, %w2; mov.b32 %o3, %w3;"
    };
    let ends: String = (0..8)
        .map(|k| format!("ld{space}.b32 %o{}, [%mine+{}];", 4 + k, 128 * k))
        .collect();
    let begins: String = (0..8)
        .map(|k| format!("st{space}.b32 [%mine+{}], %t0;", 128 * k))
        .collect();
    format!(
        ".shared .align 16 .b8 tile[1024];
        .reg .b{bits} %at; .reg .b{bits} %mine; .reg .b32 %w<4>; .reg .b64 %x<2>;
        shl.b32 %t2, %t0, 2; {address}
        mov.b{bits} %mine, %at;
        {begins}
        bar.warp.sync 0xffffffff;
        mad.lo.u32 %w0, %t0, 77, 1; mad.lo.u32 %w1, %t0, 78, 2; mad.lo.u32 %w2, %t0, 79, 3; mad.lo.u32 %w3, %t0, 80, 4;
        mov.b64 %x0, {{%w0, %w1}}; mov.b64 %x1, {{%w2, %w3}};
        mul.lo.u32 %t2, %i0, {size}; {address}
        sub.s{bits} %at, %at, {offset};
        setp.ne.u32 %p0, %i1, 0;
        @%p0 st{space}{vector}.{ty} [%at+{offset}], {list};
        bar.warp.sync 0xffffffff;
        mov.b32 %w0, 5; mov.b32 %w1, 5; mov.b32 %w2, 5; mov.b32 %w3, 5; mov.b64 %x0, 5; mov.b64 %x1, 5;
        @%p0 ld{space}{vector}.{ty} {list}, [%at+{offset}];
        bar.warp.sync 0xffffffff;
        {ends}
        {results}"
    )
}

#[test]
fn loads_and_stores_do_the_same() {
    // Several lanes may store to one place: the checked run is told to let them.
    let watched = Setup {
        checks: Checks::ALL
            .without(Check::SharedRace)
            .without(Check::GlobalRace),
        ..Setup::default()
    };
    for memory in &MEMORIES {
        for element in 0..ELEMENTS.len() {
            for (offset, (name, places)) in [0, 16, -16]
                .into_iter()
                .flat_map(|offset| patterns().into_iter().map(move |p| (offset, p)))
            {
                let text = body(memory, element, offset);
                for guard in GUARDS {
                    let inputs = [places, std::array::from_fn(|l| guard >> l & 1)];
                    let run = |setup| match try_lanes(&text, &inputs, 12, setup) {
                        Ok(done) => done.words(1),
                        Err(error) => panic!("{error}\n{name}, {guard:#x}\n{text}"),
                    };
                    let (slow, quick) = (run(&watched), run(&unwatched()));
                    assert_eq!(slow, quick, "{name}, {guard:#x}\n{text}");
                }
            }
        }
    }
}

/// What a store of the lanes' numbers to a tile of 256 bytes ends in.
fn store(address: &str) -> Result<Lanes, FaultKind> {
    let body = format!(
        ".shared .align 16 .b8 tile[256];
        mov.u32 %t1, tile; mad.lo.u32 %t2, %t0, 4, %t1; st.shared.u32 [%t2], %t0; st.shared.u32 [%t2+128], %t0;
        mov.u32 %t4, 1000;
        st.shared.u32 {address}, %t4;
        ld.shared.u32 %o0, [%t2];"
    );
    match try_lanes(&body, &[], 1, &unwatched()) {
        Ok(done) => Ok(done.words(1).as_chunks().0[0]),
        Err(RunError::Fault(fault)) => Err(fault.kind),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn memory_is_never_left() {
    for address in ["[%t2+132]", "[%t2+-4]", "[%t2+1000000]", "[%t2+-1000000]"] {
        let outside = Err(FaultKind::Check(Check::Bounds));
        assert_eq!(store(address), outside, "{address}");
    }
}

#[test]
fn addresses_of_32_bits_wrap() {
    // Register and offset make 4 more than a whole turn.
    let wrapped = "[%t3+2147483644]";
    let body = |address| {
        format!(
            ".shared .align 16 .b8 tile[256];
            mov.u32 %t1, tile; mad.lo.u32 %t2, %t0, 4, %t1; add.u32 %t3, %t2, -2147483644; add.u32 %t3, %t3, 4;
            st.shared.u32 [%t2], 7;
            bar.warp.sync 0xffffffff;
            st.shared.u32 {address}, %t0;
            bar.warp.sync 0xffffffff;
            ld.shared.u32 %o0, [%t2];"
        )
    };
    let moved = lanes(&body(wrapped), &[], 1)[0];
    assert_eq!(moved[0], 7);
    assert!((1..32).all(|l| moved[l] == l as u32 - 1), "{moved:?}");
}

#[test]
fn unaligned_accesses_go_through() {
    let body = ".shared .align 16 .b8 tile[256];
        mov.u32 %t1, tile; mad.lo.u32 %t2, %t0, 4, %t1; st.shared.u32 [%t2], %t0;
        bar.warp.sync 0xffffffff;
        ld.shared.u32 %o0, [%t1+6];";
    let read = match try_lanes(body, &[], 1, &unwatched()) {
        Ok(done) => done.words(1)[0],
        Err(error) => panic!("{error}"),
    };
    // The upper half of lane 1's word and the lower half of lane 2's.
    assert_eq!(read, 2 << 16);
}
