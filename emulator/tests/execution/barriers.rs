//! Barriers of a block and of a warp.

use super::*;

/// A block of so many threads, in the order of a seed.
fn seeded(seed: u64, threads: u32) -> Setup {
    Setup {
        seed: Some(seed),
        ..block(threads)
    }
}

#[test]
fn shared_memory_across_a_barrier() {
    let text = kernel(
        ".shared .align 4 .b8 tile[512];",
        "    mov.u32 %r1, tile;
    shl.b32 %r2, %t, 2;
    add.u32 %r3, %r1, %r2;
    st.shared.u32 [%r3], %t;
    bar.sync 0;
    mov.u32 %r4, 508;
    sub.u32 %r4, %r4, %r2;
    add.u32 %r4, %r4, %r1;
    ld.shared.u32 %r5, [%r4];
    st.global.u32 [%mine], %r5;
    ret;",
    );
    for seed in 0..20 {
        let words = ok(&text, 512, &seeded(seed, 128)).words(0);
        assert!(
            words
                .iter()
                .enumerate()
                .all(|(t, &w)| w as usize == 127 - t)
        );
    }
    // The same without the barrier is a race, whatever the order, or a read of what nothing wrote.
    let broken = text.replace("    bar.sync 0;\n", "");
    for seed in 0..20 {
        let found = fault(&broken, 512, &seeded(seed, 128));
        assert!(
            matches!(
                found.kind,
                FaultKind::Check(Check::SharedRace | Check::UninitMemory)
            ),
            "{found}"
        );
    }
}

#[test]
fn lanes_of_a_warp_are_ordered_by_syncwarp_alone() {
    let text = kernel(
        ".shared .align 4 .b8 tile[128];",
        "    mov.u32 %r1, tile;
    shl.b32 %r2, %t, 2;
    add.u32 %r3, %r1, %r2;
    st.shared.u32 [%r3], %t;
    bar.warp.sync 0xffffffff;
    xor.b32 %r4, %r2, 4;
    add.u32 %r4, %r4, %r1;
    ld.shared.u32 %r5, [%r4];
    st.global.u32 [%mine], %r5;
    ret;",
    );
    let words = ok(&text, 128, &block(32)).words(0);
    assert!(words.iter().enumerate().all(|(t, &w)| w as usize == t ^ 1));
    is(
        &fault(
            &text.replace("    bar.warp.sync 0xffffffff;\n", ""),
            128,
            &block(32),
        ),
        Check::SharedRace,
    );
}

#[test]
fn barrier_reductions() {
    let text = kernel(
        "",
        "    setp.lt.u32 %p1, %t, 37;
    barrier.red.popc.u32 %r1, 0, %p1;
    barrier.red.and.pred %p2, 1, %p1;
    barrier.red.or.pred %p3, 2, !%p1;
    selp.u32 %r2, 1, 0, %p2;
    selp.u32 %r3, 1, 0, %p3;
    shl.b32 %r2, %r2, 8;
    shl.b32 %r3, %r3, 9;
    add.u32 %r1, %r1, %r2;
    add.u32 %r1, %r1, %r3;
    st.global.u32 [%mine], %r1;
    ret;",
    )
    .replace("barrier.red.popc", "bar.red.popc")
    .replace("barrier.red.and", "bar.red.and")
    .replace("barrier.red.or", "bar.red.or");
    let words = ok(&text, 4 * 96, &block(96)).words(0);
    assert!(words.iter().all(|&w| w == 37 + (1 << 9)), "{words:?}");
}

#[test]
fn producers_arrive_and_consumers_wait() {
    let text = kernel(
        ".shared .align 4 .b8 tile[128];",
        "    setp.ge.u32 %p1, %t, 32;
    mov.u32 %r1, tile;
    and.b32 %r9, %t, 31;
    shl.b32 %r2, %r9, 2;
    add.u32 %r3, %r1, %r2;
    @%p1 bra CONSUME;
    st.shared.u32 [%r3], %t;
    bar.arrive 1, 64;
    bra DONE;
CONSUME:
    bar.sync 1, 64;
    ld.shared.u32 %r5, [%r3];
    st.global.u32 [%mine+-128], %r5;
DONE:
    ret;",
    );
    for seed in 0..10 {
        let words = ok(&text, 128, &seeded(seed, 64)).words(0);
        assert!(words.iter().enumerate().all(|(t, &w)| w as usize == t));
    }
}

#[test]
fn a_barrier_that_some_warps_skip_is_reported() {
    let text = kernel(
        "",
        "    setp.ge.u32 %p1, %t, 32;
    @%p1 bra SKIP;
    bar.sync 0;
    bra DONE;
SKIP:
    bar.sync 1;
DONE:
    ret;",
    );
    let found = fault(&text, 4, &block(64));
    is(&found, Check::Barrier);
    assert!(found.message.contains("warp 1"), "{found}");
}

#[test]
fn a_barrier_in_a_divergent_warp_is_reported() {
    let text = kernel(
        "",
        "    setp.ge.u32 %p1, %t, 16;
    @%p1 bra SKIP;
    bar.sync 0;
    bra DONE;
SKIP:
    bar.sync 0;
DONE:
    ret;",
    );
    is(&fault(&text, 4, &block(32)), Check::Barrier);
    let guarded = kernel(
        "",
        "    setp.ge.u32 %p1, %t, 16;\n    @%p1 bar.sync 0;\n    ret;",
    );
    is(&fault(&guarded, 4, &block(32)), Check::Barrier);
}
