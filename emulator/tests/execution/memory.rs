//! Bounds, what nothing has written, and races between blocks.

use super::*;

#[test]
fn bounds_are_exact() {
    let text = kernel("", "    st.global.u32 [%mine], %t;\n    ret;");
    ok(&text, 128, &block(32));
    let found = fault(&text, 124, &block(32));
    is(&found, Check::Bounds);
    assert_eq!(found.lanes, 1 << 31);
    assert_eq!(found.thread, [31, 0, 0]);
    assert!(
        found
            .message
            .contains("4 bytes past the end of the allocation of 124 bytes"),
        "{found}"
    );
    let shared = kernel(
        ".shared .align 4 .b8 s[64];",
        "    mov.u32 %r1, s;\n    st.shared.u32 [%r1+64], %t;\n    ret;",
    );
    is(&fault(&shared, 4, &block(1)), Check::Bounds);
    let local = kernel(
        "",
        "    .local .align 4 .b8 l[16];\n    mov.u64 %rd1, l;\n    st.local.u32 [%rd1+16], %t;\n    ret;",
    );
    is(&fault(&local, 4, &block(1)), Check::Bounds);
}

#[test]
fn misaligned_addresses_are_reported() {
    let text = kernel("", "    st.global.u32 [%out+2], %t;\n    ret;");
    is(&fault(&text, 16, &block(1)), Check::Alignment);
    let vector = kernel(
        "",
        "    ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%out+8];\n    ret;",
    );
    is(&fault(&vector, 32, &block(1)), Check::Alignment);
}

#[test]
fn unwritten_memory_is_reported() {
    let text = kernel(
        "",
        "    ld.global.u32 %r1, [%mine];\n    st.global.u32 [%mine], %r1;\n    ret;",
    );
    match run(&text, "k", &[Arg::Uninit(128)], &block(32)) {
        Err(RunError::Fault(found)) => is(&found, Check::UninitMemory),
        other => panic!("{other:?}"),
    }
    let off = Setup {
        checks: Checks::ALL.without(Check::UninitMemory),
        ..block(32)
    };
    assert!(run(&text, "k", &[Arg::Uninit(128)], &off).is_ok());
    let shared = kernel(
        ".shared .align 4 .b8 s[64];",
        "    ld.shared.u32 %r1, [s];\n    st.global.u32 [%mine], %r1;\n    ret;",
    );
    is(&fault(&shared, 4, &block(1)), Check::UninitMemory);
    let local = kernel(
        "",
        "    .local .align 4 .b8 l[16];\n    ld.local.u32 %r1, [l];\n    st.global.u32 [%mine], %r1;\n    ret;",
    );
    is(&fault(&local, 4, &block(1)), Check::UninitMemory);
}

#[test]
fn unwritten_registers_are_reported_in_the_lanes_concerned() {
    let text = kernel(
        "",
        "    setp.lt.u32 %p1, %t, 7;
    @%p1 mov.u32 %r1, 5;
    add.u32 %r2, %r1, 1;
    st.global.u32 [%mine], %r2;
    ret;",
    );
    let found = fault(&text, 128, &block(32));
    is(&found, Check::UninitRegister);
    assert_eq!(found.lanes, u32::MAX << 7);
    let whole = text.replace(
        "@%p1 mov.u32 %r1, 5;",
        "mov.u32 %r1, 6;\n    @%p1 mov.u32 %r1, 5;",
    );
    let words = ok(&whole, 128, &block(32)).words(0);
    assert!(
        words
            .iter()
            .enumerate()
            .all(|(t, &w)| w == if t < 7 { 6 } else { 7 })
    );
}

#[test]
fn races_between_blocks_are_reported() {
    let text = kernel(
        "",
        "    mov.u32 %r1, %ctaid.x;\n    st.global.u32 [%out], %r1;\n    ret;",
    );
    let setup = Setup {
        grid: [2, 1, 1],
        ..block(1)
    };
    is(&fault(&text, 4, &setup), Check::GlobalRace);
    let added = kernel("", "    red.global.add.u32 [%out], 1;\n    ret;");
    assert_eq!(
        ok(
            &added,
            4,
            &Setup {
                grid: [50, 1, 1],
                ..block(64)
            }
        )
        .words(0)[0],
        3200
    );
}

/// Thread 0 of warp 0 stores a `first` at byte 8, and then that of warp 1 a `second` at byte `at`.
fn two_stores(first: &str, second: &str, at: u32) -> String {
    kernel(
        "",
        &format!(
            "    and.b32 %r1, %t, 31;
    setp.ne.u32 %p1, %r1, 0;
    @%p1 exit;
    setp.eq.u32 %p2, %t, 0;
    @%p2 st.global.{first} [%out+8], %r1;
    @!%p2 st.global.{second} [%out+{at}], %r1;
    ret;"
        ),
    )
}

#[test]
fn warps_race_for_bytes_and_not_for_their_neighbours() {
    for (first, second, at, races) in [
        ("u8", "u8", 8, true),
        ("u8", "u8", 9, false),
        ("u8", "u16", 8, true),
        ("u8", "u16", 10, false),
        ("u16", "u8", 9, true),
        ("u16", "u8", 10, false),
        ("u32", "u8", 11, true),
        ("u32", "u8", 12, false),
        ("u32", "u16", 6, false),
    ] {
        let text = two_stores(first, second, at);
        if races {
            is(&fault(&text, 16, &block(64)), Check::GlobalRace);
        } else {
            ok(&text, 16, &block(64));
        }
    }
}

/// The last block to arrive sums what the others wrote: right only with fences on both sides.
fn last_block(release: &str, acquire: &str) -> String {
    kernel(
        ".global .u32 arrived;",
        &format!(
            "    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %nctaid.x;
    mad.wide.u32 %rd1, %r1, 4, %out;
    add.u32 %r3, %r1, 1;
    st.global.u32 [%rd1+4], %r3;
    {release}
    mov.u64 %rd2, arrived;
    atom.global.add.u32 %r4, [%rd2], 1;
    add.u32 %r4, %r4, 1;
    setp.ne.u32 %p1, %r4, %r2;
    @%p1 exit;
    {acquire}
    mov.u32 %r5, 0; mov.u32 %r6, 0;
LOOP:
    mad.wide.u32 %rd3, %r5, 4, %out;
    ld.global.u32 %r7, [%rd3+4];
    add.u32 %r6, %r6, %r7;
    add.u32 %r5, %r5, 1;
    setp.lt.u32 %p2, %r5, %r2;
    @%p2 bra LOOP;
    st.global.u32 [%out], %r6;
    ret;"
        ),
    )
}

#[test]
fn the_last_block_needs_its_fences() {
    let fence = "membar.gl;";
    for seed in 0..5 {
        let setup = Setup {
            grid: [9, 1, 1],
            seed: Some(seed),
            ..block(1)
        };
        assert_eq!(ok(&last_block(fence, fence), 40, &setup).words(0)[0], 45);
        is(
            &fault(&last_block("", fence), 40, &setup),
            Check::GlobalRace,
        );
        is(
            &fault(&last_block(fence, ""), 40, &setup),
            Check::GlobalRace,
        );
    }
}
