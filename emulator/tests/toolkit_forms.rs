//! Forms and customs of the toolkit's own headers, each by itself: what CUB, libcu++ and cooperative groups were the
//! first to use.

mod warp;

use ptx_emulator::check::{Check, FaultKind};
use ptx_emulator::run::{Arg, Finished, RunError, Setup, run};
use warp::{kernel, lanes, reported};

const SHARED: &str = ".shared .align 16 .b8 room[256];\n";

/// Runs `body` in the kernel of [`warp::kernel`] with a variable of 256 bytes in shared memory.
fn shared(body: &str, threads: u32) -> Result<Finished, RunError> {
    let text = kernel(body, 0, 1).replace(".visible", &format!("{SHARED}.visible"));
    let setup = Setup {
        block: [threads, 1, 1],
        ..Setup::default()
    };
    let out = Arg::Buffer(vec![0; 4 * threads as usize]);
    run(&text, "k", &[Arg::Uninit(1), out], &setup)
}

#[track_caller]
fn shared_reported(body: &str, check: Check, text: &str) {
    match shared(body, 32) {
        Err(RunError::Fault(fault)) => {
            assert_eq!(fault.kind, FaultKind::Check(check), "{fault}");
            let all = fault.to_string();
            assert!(all.contains(text), "{all}");
        }
        other => panic!("no fault, but {other:?}\n{body}"),
    }
}

/// Every lane writes its own word, and lane 31's neighbour stays unwritten.
const FILL: &str = "mov.u32 %t1, room; shl.b32 %t2, %t0, 2; add.s32 %t1, %t1, %t2;
    st.shared.u32 [%t1], %t0; bar.warp.sync 0xffffffff;\n";

#[test]
fn unwritten_memory_may_be_read_and_the_value_thrown_away() {
    // Lane 31 reads past what was written, chooses the other value, and stores that.
    let done = shared(
        &format!(
            "{FILL} ld.shared.u32 %t3, [%t1+4]; setp.eq.u32 %p1, %t0, 31; selp.b32 %o0, 99, %t3, %p1;"
        ),
        32,
    )
    .unwrap_or_else(|e| panic!("{e}"));
    let expected: Vec<u32> = (1..32).chain([99]).collect();
    assert_eq!(done.words(1), expected);
    // Arithmetic on it passes the doubt on; writing over the result ends it.
    let done = shared(
        &format!(
            "{FILL} ld.shared.u32 %t3, [%t1+4]; add.u32 %o0, %t3, 1; setp.eq.u32 %p1, %t0, 31; @%p1 mov.u32 %o0, 7;"
        ),
        32,
    )
    .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(done.words(1)[30..], [32, 7]);
    // Elements of a vector are in doubt each for itself.
    let done = shared(
        "setp.eq.u32 %p1, %t0, 0; @!%p1 exit; mov.u32 %t1, room; st.shared.v2.u32 [%t1], {5, 6};
         ld.shared.v4.u32 {%t2, %t3, %t4, %t5}, [%t1]; add.u32 %o0, %t2, %t3;",
        32,
    )
    .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(done.words(1)[0], 11);
}

#[test]
fn acting_on_unwritten_memory_is_reported_at_the_load() {
    let load = "ld.shared.u32 %t3, [%t1+4]";
    for act in [
        "mov.u32 %o0, %t3;",
        "xor.b32 %t4, %t3, %t0; mov.u32 %o0, %t4;",
        "setp.eq.u32 %p1, %t3, 0; selp.b32 %o0, 1, 0, %p1;",
        "setp.eq.u32 %p1, %t0, 5; selp.b32 %o0, %t3, %t3, %p1;",
        "shfl.sync.idx.b32 %o0, %t3, 0, 31, 0xffffffff;",
        "and.b32 %t3, %t3, 4; add.u32 %t1, %t1, %t3; ld.shared.u32 %o0, [%t1];",
    ] {
        let body = format!("mov.u32 %o0, 0; {FILL} {load}; {act}");
        shared_reported(&body, Check::UninitMemory, load);
        shared_reported(&body, Check::UninitMemory, "acts on it at PTX line");
    }
    // Loads that others agree to share, and those by instructions that use what they read, are reported at once.
    shared_reported(
        &format!("mov.u32 %o0, 0; {FILL} ld.volatile.shared.u32 %t3, [%t1+4];"),
        Check::UninitMemory,
        "never written",
    );
}

#[test]
fn an_atomic_after_another_lanes_plain_store() {
    let elected =
        "mov.u32 %o0, 0; mov.u32 %t1, room; setp.eq.u32 %p1, %t0, 0; @%p1 st.shared.u32 [%t1], 0;";
    shared_reported(
        &format!("{elected} red.shared.add.u32 [%t1], 1;"),
        Check::SharedRace,
        "lane 0 of the same warp",
    );
    let done = shared(
        &format!(
            "{elected} bar.warp.sync 0xffffffff; red.shared.add.u32 [%t1], 1; bar.warp.sync 0xffffffff; ld.shared.u32 %o0, [%t1];"
        ),
        32,
    )
    .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(done.words(1), [32; 32]);
    // Two stores by different lanes that nothing orders; in one instruction, one of the values stays.
    shared_reported(
        &format!("{elected} setp.eq.u32 %p1, %t0, 1; @%p1 st.shared.u32 [%t1], 1;"),
        Check::SharedRace,
        "lane 0 of the same warp",
    );
    shared(
        "mov.u32 %o0, 0; mov.u32 %t1, room; st.shared.u32 [%t1], %t0;",
        32,
    )
    .unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn bytes_that_a_pragma_calls_unused_do_not_race() {
    // Warp 1 writes the fourth word while warp 0 reads all four and uses three.
    let body = |pragma: &str| {
        format!(
            "mov.u32 %o0, 0; mov.u32 %t1, room; setp.ge.u32 %p1, %t0, 32; @%p1 bra OTHER;
             setp.ne.u32 %p2, %t0, 0; @%p2 bra END;
             st.shared.v2.u32 [%t1], {{1, 2}}; st.shared.u32 [%t1+8], 3;
             {pragma} ld.shared.v4.u32 {{%t2, %t3, %t4, %t5}}, [%t1];
             add.u32 %o0, %t2, %t3; add.u32 %o0, %o0, %t4; bra END;
             OTHER: setp.ne.u32 %p2, %t0, 32; @%p2 bra END; st.shared.u32 [%t1+12], 4;
             END:"
        )
    };
    let done =
        shared(&body(".pragma \"used_bytes_mask 4095\";"), 64).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(done.words(1)[0], 6);
    match shared(&body(""), 64) {
        Err(RunError::Fault(fault)) => {
            assert_eq!(fault.kind, FaultKind::Check(Check::SharedRace), "{fault}");
        }
        other => panic!("no fault, but {other:?}"),
    }
}

#[test]
fn clocks_advance() {
    let [first, second, high] = lanes(
        "mov.u32 %o0, %clock; mov.u32 %o1, %clock; mov.u32 %o2, %clock_hi;",
        &[],
        3,
    )[..] else {
        panic!("three results")
    };
    assert!((0..32).all(|l| second[l] > first[l] && high[l] == 0));
    let [before, after] = lanes(
        "mov.u64 %d1, %globaltimer; mov.u64 %d2, %clock64; nanosleep.u32 20; mov.u64 %d3, %globaltimer;
         setp.ge.u64 %p1, %d3, %d1; selp.u32 %o0, 1, 0, %p1; setp.ne.u64 %p1, %d1, 0; selp.u32 %o1, 1, 0, %p1;",
        &[],
        2,
    )[..] else {
        panic!("two results")
    };
    assert_eq!((before, after), ([1; 32], [1; 32]));
}

#[test]
fn the_systems_own_shared_memory_is_apart_from_the_blocks() {
    let places = "mov.u32 %t1, %reserved_smem_offset_1; mov.u32 %t2, %reserved_smem_offset_begin;
        mov.u32 %t3, %reserved_smem_offset_end; mov.u32 %t4, %total_smem_size;";
    let done = shared(
        &format!(
            "{places} setp.eq.u32 %p1, %t0, 0; @%p1 st.shared.u32 [%t1], 77; @%p1 st.shared.u32 [%t1+284], 1;
             bar.warp.sync 0xffffffff; ld.shared.u32 %o0, [%t1];
             setp.lo.u32 %p2, %t2, %t4; @%p2 trap; setp.lo.u32 %p2, %t3, %t1; @%p2 trap;"
        ),
        32,
    )
    .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(done.words(1), [77; 32]);
    for outside in ["%t2+-4", "%t3", "%t4"] {
        shared_reported(
            &format!("{places} mov.u32 %o0, 0; st.shared.u32 [{outside}], 1;"),
            Check::Bounds,
            "shared address",
        );
    }
    // A kernel that does not ask has none.
    reported(
        "mov.u32 %t1, 0; mov.u32 %o0, 0; st.shared.u32 [%t1+2048], %t1;",
        &[],
        1,
        Check::Bounds,
        "shared address",
    );
}

#[test]
fn the_grids_workspace() {
    let body =
        "mov.u32 %t1, %envreg1; mov.u32 %t2, %envreg2; mov.b64 %d1, {%t2, %t1}; mov.u32 %o0, 0;
        setp.eq.s64 %p1, %d1, 0; @%p1 bra END; setp.eq.u32 %p2, %t0, 0;
        @%p2 atom.add.release.gpu.u32 %t3, [%d1+4], 1; mov.u32 %o0, 5; END:";
    for (cooperative, expected) in [(true, 5), (false, 0)] {
        let setup = Setup {
            cooperative,
            ..Setup::default()
        };
        let args = [Arg::Uninit(1), Arg::Uninit(128)];
        let done = run(&kernel(body, 0, 1), "k", &args, &setup).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(done.words(1), [expected; 32]);
    }
}
