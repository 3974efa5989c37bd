//! What is wrong with asynchronous operations and is said: by checks as they run, or at load.

use super::*;

#[test]
fn what_the_isa_leaves_undefined_is_reported() {
    let store = |to: &str, barrier: &str| {
        kernel(
            "",
            4,
            &format!(
                "@%p2 st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [{to}], %t, [{barrier}];"
            ),
        )
    };
    reported(&store("%mine", "%bar"), Check::Bounds, "own shared memory");
    reported(
        &store("%room", "%mine"),
        Check::Bounds,
        "have to be in the same",
    );
    reported(&store("%room+2", "%bar"), Check::Alignment, "multiple of 4");
    reported(&store("%room+8192", "%bar"), Check::Bounds, "past the");
    reported(
        &store("%room", "%room"),
        Check::Barrier,
        "no mbarrier has been initialised",
    );
    let reduce = |to: &str, from: &str, size: u32, barrier: &str| {
        let before = format!("{FILL} fence.proxy.async;");
        let body = format!(
            "@%p2 cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.add.u32 [{to}], [{from}], {size}, [{barrier}];
             @%p1 bra NEXT; {WAIT} NEXT:"
        );
        kernel(&before, 256, &body)
    };
    for ((to, from, size, barrier), check, said) in [
        (
            ("%room+4", "%mine", 16, "%bar"),
            Check::Alignment,
            "multiple of 16",
        ),
        (
            ("%room", "%mine+4", 16, "%bar"),
            Check::Alignment,
            "multiple of 16",
        ),
        (
            ("%room", "%mine", 2048, "%bar"),
            Check::UninitMemory,
            "never written",
        ),
        (
            ("%room+256", "%mine", 16, "%bar"),
            Check::UninitMemory,
            "never written",
        ),
        (
            ("%room", "%mine", 256, "%mine+256"),
            Check::Bounds,
            "have to be in the same",
        ),
    ] {
        reported(&reduce(to, from, size, barrier), check, said);
    }
    match try_run(
        &reduce("%room", "%mine", 20, "%bar"),
        &[1; 1024],
        &[0; 1024],
        None,
    ) {
        Err(RunError::Fault(fault)) => {
            assert_eq!(fault.kind, FaultKind::Illegal);
            assert!(fault.message.contains("whole multiples of 16"), "{fault}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_in_flight_is_nobodys() {
    // Block 0 touches the room before it waits; block 1 has stored into it, which a second barrier of the cluster tells.
    let flight = |operation: &str, touch: &str| {
        let body = format!("{operation} {SYNC} @%p1 bra NEXT; {touch} {WAIT} NEXT: ");
        kernel(&format!("{FILL} fence.proxy.async;"), 128, &body)
    };
    let store = "mad.lo.u32 %at, %t, 4, %room; @%p1 st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%at], %t, [%bar];";
    let reduce = "@%p2 cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.add.u32 [%room], [%mine], 128, [%bar];";
    let single = "mad.lo.u32 %at, %t, 4, %room; @%p1 red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [%at], %t, [%bar];";
    for operation in [store, reduce, single] {
        for touch in [
            "ld.shared.u32 %r1, [room]; st.global.u32 [%out], %r1;",
            "@%p0 st.shared.u32 [room], 0;",
        ] {
            reported(
                &flight(operation, touch),
                Check::AsyncCopy,
                "no wait has completed it",
            );
        }
    }
    reported(
        &flight(store, "@%p0 red.shared.add.u32 [room], 1;"),
        Check::AsyncCopy,
        "has not landed",
    );
    // Atomics may come between reductions, and more reductions too.
    for (operation, touch) in [
        (reduce, "@%p0 red.shared.add.u32 [room], 1;"),
        (single, "@%p0 red.shared.add.u32 [room], 1;"),
        (single, "@%p0 ld.relaxed.cta.shared.u32 %r1, [room];"),
    ] {
        left(&flight(operation, touch), &[1; 1024], &[0; 1024]);
    }
    // The source of a reduction belongs to it, and of two until both have read it.
    let twice = format!("{reduce} {}", reduce.replace("128", "64"));
    let overwrite = |wait: &str| {
        let body =
            format!("{twice} @%p1 bra NEXT; {wait} NEXT: {SYNC} @%p2 st.shared.u32 [%mine], 0;");
        kernel(&format!("{FILL} fence.proxy.async;"), 192, &body)
    };
    left(&overwrite(WAIT), &[1; 1024], &[0; 1024]);
    reported(&overwrite(""), Check::AsyncCopy, "has not read its source");
}

#[test]
fn refused_forms() {
    for (instruction, said) in [
        ("st.async.release.gpu.global.b32 [%out], %r1;", "modifier"),
        (
            "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b64 [%r1], {%d1, %d2, %d3, %d4}, [%r2];",
            "4 elements",
        ),
        (
            "st.async.shared::cluster.mbarrier::complete_tx::bytes.b16 [%r1], %h1, [%r2];",
            "B16",
        ),
        (
            "red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.min.u64 [%r1], %d1, [%r2];",
            ".min of .U64",
        ),
        (
            "red.async.release.gpu.global.add.u32 [%out], %r1;",
            "modifier",
        ),
        (
            "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f16 [%out], [%r1], %r2;",
            ".add of .F16",
        ),
        (
            "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.s64 [%out], [%r1], %r2;",
            ".add of .S64",
        ),
        (
            "cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.add.f32 [%r1], [%r2], %r3, [%r4];",
            ".add of .F32",
        ),
        (
            "cp.reduce.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.add.u32 [%r1], [%out], %r3, [%r4];",
            "spaces",
        ),
    ] {
        refused(instruction, said);
    }
}
