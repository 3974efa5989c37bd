//! `mbarrier` and `cp.async.mbarrier.arrive` against the PTX ISA's words.

mod warp;

use ptx_emulator::check::{Check, FaultKind};
use ptx_emulator::run::{Arg, Finished, RunError, Setup, run};
use warp::{Lanes, fault, lanes, refused, reported};

const BAR: &str = "
    .shared .align 8 .b64 bar;
    setp.eq.u32 %p0, %t0, 0;
";

fn bar(count: u32) -> String {
    format!("{BAR}@%p0 mbarrier.init.shared.b64 [bar], {count};\nbar.sync 0;\n")
}

fn flag(k: usize, p: &str) -> String {
    format!("selp.b32 %o{k}, 1, 0, {p};\n")
}

#[test]
fn a_phase_completes_with_its_last_arrival() {
    let body = format!(
        "{}
        mbarrier.arrive.shared.b64 %d1, [bar];
        mbarrier.test_wait.shared.b64 %p1, [bar], %d1;
        mbarrier.test_wait.parity.shared.b64 %p2, [bar], 0;
        mbarrier.test_wait.parity.shared.b64 %p3, [bar], 1;
        mbarrier.arrive.shared::cta.b64 %d2, [bar];
        mbarrier.try_wait.shared.b64 %p4, [bar], %d2;
        mbarrier.try_wait.parity.acquire.cta.shared.b64 %p5, [bar], 1, 1000;
        mbarrier.test_wait.parity.shared.b64 %p6, [bar], 0;
        {}{}{}{}{}{}",
        bar(32),
        flag(0, "%p1"),
        flag(1, "%p2"),
        flag(2, "%p3"),
        flag(3, "%p4"),
        flag(4, "%p5"),
        flag(5, "%p6"),
    );
    let out = lanes(&body, &[], 6);
    // After phase 0: it is complete, the phase of parity 1 (the one before, or the current) is not. After phase 1
    // the other way round.
    assert_eq!(out, [[1; 32], [1; 32], [0; 32], [1; 32], [1; 32], [0; 32]]);
}

#[test]
fn one_arrival_short_is_not_complete() {
    let body = format!(
        "{}
        mbarrier.arrive.shared.b64 %d1, [bar];
        mbarrier.test_wait.shared.b64 %p1, [bar], %d1;
        {}
        bar.warp.sync 0xffffffff;
        @%p0 mbarrier.arrive.shared.b64 %d2, [bar];
        bar.warp.sync 0xffffffff;
        mbarrier.test_wait.shared.b64 %p1, [bar], %d1;
        {}",
        bar(33),
        flag(0, "%p1"),
        flag(1, "%p1"),
    );
    assert_eq!(lanes(&body, &[], 2), [[0; 32], [1; 32]]);
}

#[test]
fn counts_and_tokens() {
    let body = format!(
        "{}
        mov.b32 %o0, 0; mov.b32 %o1, 0; mov.b32 %o2, 0;
        @!%p0 bra DONE;
        mbarrier.arrive.noComplete.shared.b64 %d1, [bar], 3;
        mbarrier.pending_count.b64 %o0, %d1;
        mbarrier.arrive.noComplete.shared.b64 %d2, [bar], 5;
        mbarrier.pending_count.b64 %o1, %d2;
        mbarrier.arrive.shared.b64 _, [bar], 2;
        mbarrier.test_wait.shared.b64 %p1, [bar], %d1;
        {}
    DONE:",
        bar(10),
        flag(2, "%p1"),
    );
    let out = lanes(&body, &[], 3);
    // What was pending before each arrival.
    assert_eq!([out[0][0], out[1][0], out[2][0]], [10, 7, 1]);
}

#[test]
fn bytes_hold_a_phase_open() {
    let body = format!(
        "{}
        mov.b32 %o0, 9; mov.b32 %o1, 9; mov.b32 %o2, 9;
        @!%p0 bra DONE;
        mbarrier.arrive.expect_tx.shared.b64 %d1, [bar], 96;
        mbarrier.test_wait.shared.b64 %p1, [bar], %d1;
        {}
        mbarrier.complete_tx.relaxed.cluster.shared::cluster.b64 [bar], 64;
        mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [bar], 32;
        mbarrier.complete_tx.shared.b64 [bar], 32;
        mbarrier.test_wait.shared.b64 %p1, [bar], %d1;
        {}
        mbarrier.complete_tx.shared.b64 [bar], 32;
        mbarrier.test_wait.shared.b64 %p1, [bar], %d1;
        {}
    DONE:",
        bar(1),
        flag(0, "%p1"),
        flag(1, "%p1"),
        flag(2, "%p1"),
    );
    let out = lanes(&body, &[], 3);
    assert_eq!([out[0][0], out[1][0], out[2][0]], [0, 0, 1]);
}

#[test]
fn who_drops_out_is_not_awaited_again() {
    let body = format!(
        "{}
        mov.b32 %o0, 9; mov.b32 %o1, 9;
        @!%p0 bra DONE;
        mbarrier.arrive_drop.shared.b64 %d1, [bar];
        mbarrier.arrive.shared.b64 %d1, [bar];
        mbarrier.test_wait.shared.b64 %p1, [bar], %d1;
        {}
        mbarrier.arrive.shared.b64 %d2, [bar];
        mbarrier.test_wait.shared.b64 %p1, [bar], %d2;
        {}
    DONE:",
        bar(2),
        flag(0, "%p1"),
        flag(1, "%p1"),
    );
    let out = lanes(&body, &[], 2);
    assert_eq!([out[0][0], out[1][0]], [1, 1]);
}

#[test]
fn misuse_is_reported() {
    let arrive = "mbarrier.arrive.shared.b64 %d1, [bar];\n";
    reported(
        &format!("{BAR}{arrive}"),
        &[],
        0,
        Check::Barrier,
        "no mbarrier has been initialised",
    );
    reported(
        &format!(
            "{}@%p0 mbarrier.inval.shared.b64 [bar];\nbar.sync 0;\n{arrive}",
            bar(32)
        ),
        &[],
        0,
        Check::Barrier,
        "invalidated",
    );
    reported(
        &format!("{}@%p0 mbarrier.init.shared.b64 [bar], 1;", bar(32)),
        &[],
        0,
        Check::Barrier,
        "initialised again",
    );
    reported(
        &format!("{}mbarrier.arrive.shared.b64 %d1, [bar], 40;", bar(32)),
        &[],
        0,
        Check::Barrier,
        "40 arrivals, where the phase takes 32",
    );
    reported(
        &format!(
            "{}@%p0 mbarrier.arrive.noComplete.shared.b64 %d1, [bar], 4;",
            bar(4)
        ),
        &[],
        0,
        Check::Barrier,
        ".noComplete",
    );
    reported(
        &format!("{BAR}@%p0 mbarrier.init.shared.b64 [bar+4], 1;"),
        &[],
        0,
        Check::Alignment,
        "past a multiple of 8",
    );
    let zero = fault(
        &format!("{BAR}@%p0 mbarrier.init.shared.b64 [bar], 0;"),
        &[],
        0,
        &Setup::default(),
    );
    assert_eq!(zero.kind, FaultKind::Illegal);
    // A place may hold another barrier after the first is invalidated.
    let twice = format!(
        "{}@%p0 mbarrier.inval.shared.b64 [bar];\n@%p0 mbarrier.init.shared.b64 [bar], 3;",
        bar(1)
    );
    lanes(&twice, &[], 0);
}

#[test]
fn odd_forms_are_refused() {
    refused(
        ".shared .b64 bar;\nmbarrier.arrive.expect_tx.noComplete.shared.b64 %d1, [bar], 3;",
        "exclude",
    );
    refused(
        ".shared .b64 bar;\nmbarrier.init.global.b64 [bar], 3;",
        "modifier .global",
    );
}

// --- Two warps.

fn two_warps(body: &str, data: &[u32], seed: Option<u64>) -> Result<Finished, RunError> {
    let text = format!(
        ".version 8.0
.target sm_90
.address_size 64
.visible .entry k(.param .u64 in, .param .u64 out) {{
.reg .b32 %t<16>; .reg .pred %p<8>; .reg .b64 %d<16>;
.shared .align 16 .b8 tile[2048];
.shared .align 8 .b64 full; .shared .align 8 .b64 empty;
ld.param.u64 %d0, [in];
ld.param.u64 %d1, [out];
mov.u32 %t0, %tid.x;
and.b32 %t1, %t0, 31;
shl.b32 %t2, %t1, 4;
mov.u32 %t3, tile;
add.u32 %t3, %t3, %t2;
mul.wide.u32 %d2, %t2, 1;
add.s64 %d0, %d0, %d2;
mul.wide.u32 %d2, %t1, 4;
add.s64 %d1, %d1, %d2;
setp.eq.u32 %p0, %t0, 0;
setp.lt.u32 %p1, %t0, 32;
@%p0 mbarrier.init.shared.b64 [full], 32;
@%p0 mbarrier.init.shared.b64 [empty], 32;
bar.sync 0;
{body}
ret;
}}"
    );
    let setup = Setup {
        block: [64, 1, 1],
        seed,
        ..Setup::default()
    };
    run(
        &text,
        "k",
        &[Arg::words(data), Arg::words(&[0; 32])],
        &setup,
    )
}

fn data(words: usize) -> Vec<u32> {
    (0..words as u32)
        .map(|x| x.wrapping_mul(2654435761))
        .collect()
}

/// The first warp fills a tile, tile after tile; the second sums what it finds. `fill` fills the tile at `[%t3]`
/// from `[%d0]` and arrives at `full`.
fn pipeline(fill: &str) -> String {
    format!(
        "
    mov.u32 %t4, 0;   // tile
    mov.u32 %t5, 0;   // parity
    mov.u32 %t6, 0;   // sum
    @!%p1 bra CONSUMER;
PRODUCER:
    setp.eq.u32 %p2, %t4, 0;
    @%p2 bra FILL;
    xor.b32 %t7, %t5, 1;
WAIT_EMPTY:
    mbarrier.try_wait.parity.shared.b64 %p3, [empty], %t7;
    @!%p3 bra WAIT_EMPTY;
FILL:
    {fill}
    add.s64 %d0, %d0, 512;
    add.u32 %t4, %t4, 1;
    xor.b32 %t5, %t5, 1;
    setp.lt.u32 %p2, %t4, 5;
    @%p2 bra PRODUCER;
    bra DONE;
CONSUMER:
WAIT_FULL:
    mbarrier.try_wait.parity.shared.b64 %p3, [full], %t5;
    @!%p3 bra WAIT_FULL;
    // The words of another lane.
    xor.b32 %t8, %t3, 16;
    ld.shared.b32 %t9, [%t8];
    add.u32 %t6, %t6, %t9;
    mbarrier.arrive.shared.b64 _, [empty];
    add.u32 %t4, %t4, 1;
    xor.b32 %t5, %t5, 1;
    setp.lt.u32 %p2, %t4, 5;
    @%p2 bra CONSUMER;
    st.global.b32 [%d1], %t6;
DONE:"
    )
}

fn pipeline_sums(data: &[u32]) -> Lanes {
    std::array::from_fn(|l| (0..5).fold(0u32, |s, k| s.wrapping_add(data[128 * k + 4 * (l ^ 1)])))
}

const BY_STORES: &str = "
    ld.global.b32 %t10, [%d0];
    st.shared.b32 [%t3], %t10;
    mbarrier.arrive.shared.b64 _, [full];";

const BY_COPIES: &str = "
    cp.async.cg.shared.global [%t3], [%d0], 16;
    cp.async.mbarrier.arrive.noinc.shared.b64 [full];";

const BY_COUNTED_COPIES: &str = "
    cp.async.cg.shared.global [%t3], [%d0], 16;
    cp.async.mbarrier.arrive.shared.b64 [full];
    mbarrier.arrive.shared.b64 _, [full];";

#[test]
fn a_producer_and_a_consumer() {
    let data = data(640);
    for fill in [BY_STORES, BY_COPIES, BY_COUNTED_COPIES] {
        for seed in [None, Some(1), Some(2), Some(3)] {
            let done =
                two_warps(&pipeline(fill), &data, seed).unwrap_or_else(|e| panic!("{e}\n{fill}"));
            assert_eq!(
                done.words(1)[..32],
                pipeline_sums(&data),
                "seed {seed:?}{fill}"
            );
        }
    }
}

#[track_caller]
fn two_warps_fault(body: &str, check: Check, text: &str) {
    match two_warps(body, &data(640), None) {
        Err(RunError::Fault(fault)) => {
            assert_eq!(fault.kind, FaultKind::Check(check), "{fault}");
            assert!(fault.message.contains(text), "{fault}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_consumer_that_does_not_wait_is_reported() {
    let read = "
        @%p1 bra FILL;
        nanosleep.u32 100;
        ld.shared.b32 %t9, [%t3];
        st.global.b32 [%d1], %t9;
        bra DONE;
    FILL:";
    two_warps_fault(
        &format!("{read}{BY_STORES}\nDONE:"),
        Check::SharedRace,
        "races",
    );
    two_warps_fault(
        &format!("{read}{BY_COPIES}\nDONE:"),
        Check::AsyncCopy,
        "has not landed",
    );
}

#[test]
fn a_barrier_used_by_others_before_they_can_know_of_it_is_reported() {
    let body = "
        @%p0 mbarrier.inval.shared.b64 [full];
        @%p0 mbarrier.init.shared.b64 [full], 64;
        @%p1 bra DONE;
        nanosleep.u32 100;
        mbarrier.arrive.shared.b64 _, [full];
    DONE:";
    two_warps_fault(body, Check::SharedRace, "races");
}

#[test]
fn a_producer_that_does_not_wait_for_empty_is_reported() {
    // The second tile is written over the first one, which nobody has said to be done with.
    let eager = pipeline(BY_STORES).replace("@!%p3 bra WAIT_EMPTY;", "");
    match two_warps(&eager, &data(640), Some(5)) {
        Err(RunError::Fault(fault)) => {
            assert_eq!(fault.kind, FaultKind::Check(Check::SharedRace), "{fault}")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn copies_land_for_the_phase_that_is_waited_for_alone() {
    // Two copies, each with its arrival; after a wait for the first phase the second copy is still in flight.
    let body = "
        @!%p1 bra DONE;
        cp.async.cg.shared.global [%t3], [%d0], 16;
        cp.async.mbarrier.arrive.noinc.shared.b64 [full];
        cp.async.cg.shared.global [%t3+512], [%d0], 16;
        cp.async.mbarrier.arrive.noinc.shared.b64 [empty];
    WAIT:
        mbarrier.try_wait.parity.shared.b64 %p3, [full], 0;
        @!%p3 bra WAIT;
        ld.shared.b32 %t9, [%t3+FIRST];
        st.global.b32 [%d1], %t9;
    DONE:";
    let data = data(640);
    let done =
        two_warps(&body.replace("FIRST", "0"), &data, None).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(
        done.words(1)[..32],
        std::array::from_fn::<u32, 32, _>(|l| data[4 * l])
    );
    two_warps_fault(
        &body.replace("FIRST", "512"),
        Check::AsyncCopy,
        "has not landed",
    );
}

const BY_BULK: &str = "
    @!%p0 bra ARRIVE;
    mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [full], 512;
    cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%t3], [%d0], 512, [full];
ARRIVE:
    bar.warp.sync 0xffffffff;
    mbarrier.arrive.shared.b64 _, [full];";

#[test]
fn a_bulk_copy_completes_its_bytes() {
    let data = data(640);
    for seed in [None, Some(1), Some(2)] {
        let done = two_warps(&pipeline(BY_BULK), &data, seed).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(done.words(1)[..32], pipeline_sums(&data), "seed {seed:?}");
    }
    let read = "
        @!%p0 bra DONE;
        cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%t3], [%d0], SIZE, [full];
        ld.shared.b32 %t9, [%t3+496];
        setp.eq.u32 %p3, %t9, 0;
    DONE:";
    two_warps_fault(
        &read.replace("SIZE", "512"),
        Check::AsyncCopy,
        "has not landed",
    );
    two_warps_fault(
        &read.replace("SIZE", "496"),
        Check::UninitMemory,
        "never written",
    );
    two_warps_fault(
        &read.replace("SIZE", "4096"),
        Check::Bounds,
        "past the end of",
    );
}

#[test]
fn bulk_copies_of_other_kinds_are_refused() {
    refused(
        ".shared .b64 t;\ncp.async.bulk.tensor.1d.shared::cluster.global.mbarrier::complete_tx::bytes [t], [%d0, {%t0}], [t];",
        "tensor maps",
    );
    lanes(
        "griddepcontrol.wait;\ngriddepcontrol.launch_dependents;\nsetmaxnreg.dec.sync.aligned.u32 64;",
        &[],
        0,
    );
}
