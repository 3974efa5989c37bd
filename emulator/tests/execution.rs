//! Control flow, barriers, calls, memory and the checks, on PTX written by hand.

use ptx_emulator::check::{Check, Checks, Fault, FaultKind};
use ptx_emulator::run::{Arg, Finished, RunError, Setup, run};

fn ptx(body: &str) -> String {
    format!(".version 8.0\n.target sm_80\n.address_size 64\n{body}")
}

/// A kernel with one pointer parameter, already in `%out` with the thread's own word's address in `%mine`.
fn kernel(declarations: &str, body: &str) -> String {
    ptx(&format!(
        "{declarations}
.visible .entry k(.param .u64 p)
{{
    .reg .pred %p<9>; .reg .b32 %r<40>; .reg .b64 %rd<20>; .reg .b64 %out; .reg .b64 %mine; .reg .b32 %t;
    ld.param.u64 %out, [p];
    mov.u32 %t, %tid.x;
    mad.wide.u32 %mine, %t, 4, %out;
{body}
}}"
    ))
}

fn block(threads: u32) -> Setup {
    Setup {
        block: [threads, 1, 1],
        ..Setup::default()
    }
}

fn ok(text: &str, bytes: usize, setup: &Setup) -> Finished {
    run(text, "k", &[Arg::Buffer(vec![0; bytes])], setup).unwrap_or_else(|e| panic!("{e}"))
}

fn fault(text: &str, bytes: usize, setup: &Setup) -> Fault {
    match run(text, "k", &[Arg::Buffer(vec![0; bytes])], setup) {
        Err(RunError::Fault(fault)) => *fault,
        other => panic!("expected a fault, got {other:?}"),
    }
}

fn is(fault: &Fault, check: Check) {
    assert_eq!(fault.kind, FaultKind::Check(check), "{fault}");
}

#[test]
fn divergent_branches_join_again() {
    let text = kernel(
        "",
        "    and.b32 %r1, %t, 1;
    setp.eq.u32 %p1, %r1, 0;
    @%p1 bra EVEN;
    mul.lo.u32 %r2, %t, 10;
    bra JOIN;
EVEN:
    add.u32 %r2, %t, 1000;
JOIN:
    activemask.b32 %r3;
    add.u32 %r2, %r2, 0;
    st.global.u32 [%mine], %r2;
    st.global.u32 [%mine+128], %r3;
    ret;",
    );
    let done = ok(&text, 256, &block(32));
    let words = done.words(0);
    for (t, word) in words[..32].iter().enumerate() {
        assert_eq!(
            *word,
            if t % 2 == 0 {
                t as u32 + 1000
            } else {
                t as u32 * 10
            }
        );
    }
    assert!(
        words[32..].iter().all(|&m| m == u32::MAX),
        "the two sides did not meet: {words:x?}"
    );
}

#[test]
fn loops_with_a_trip_count_of_their_own() {
    let text = kernel(
        "",
        "    mov.u32 %r1, 0; mov.u32 %r2, 0;
LOOP:
    setp.ge.u32 %p1, %r1, %t;
    @%p1 bra DONE;
    add.u32 %r2, %r2, %r1;
    add.u32 %r1, %r1, 1;
    bra LOOP;
DONE:
    st.global.u32 [%mine], %r2;
    ret;",
    );
    let words = ok(&text, 4 * 70, &block(70)).words(0);
    for (t, &word) in words.iter().enumerate() {
        assert_eq!(word as usize, t * t.saturating_sub(1) / 2);
    }
}

#[test]
fn early_exits_leave_the_rest_running() {
    let text = kernel(
        "",
        "    setp.lt.u32 %p1, %t, 5;
    @%p1 exit;
    bar.sync 0;
    st.global.u32 [%mine], %t;
    ret;",
    );
    let words = ok(&text, 4 * 64, &block(64)).words(0);
    assert!(
        words
            .iter()
            .enumerate()
            .all(|(t, &w)| w as usize == if t < 5 { 0 } else { t })
    );
}

#[test]
fn a_lane_can_wait_for_another_of_its_warp() {
    // A lock taken lane by lane: the holder must get to run while the others spin.
    let text = kernel(
        ".global .u32 lock;",
        "AGAIN:
    mov.u64 %rd1, lock;
    atom.global.acquire.gpu.cas.b32 %r1, [%rd1], 0, 1;
    setp.ne.u32 %p1, %r1, 0;
    @%p1 bra AGAIN;
    ld.global.u32 %r2, [%out];
    add.u32 %r2, %r2, 1;
    st.global.u32 [%out], %r2;
    atom.global.release.gpu.exch.b32 %r3, [%rd1], 0;
    ret;",
    );
    for seed in [None, Some(1), Some(2)] {
        let setup = Setup {
            grid: [3, 1, 1],
            seed,
            ..block(64)
        };
        assert_eq!(ok(&text, 4, &setup).words(0)[0], 192);
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
        let words = ok(
            &text,
            512,
            &Setup {
                seed: Some(seed),
                ..block(128)
            },
        )
        .words(0);
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
        let found = fault(
            &broken,
            512,
            &Setup {
                seed: Some(seed),
                ..block(128)
            },
        );
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
        let words = ok(
            &text,
            128,
            &Setup {
                seed: Some(seed),
                ..block(64)
            },
        )
        .words(0);
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

const FACTORIAL: &str = ".func (.param .b32 r) fact(.param .b32 n)
{
    .reg .b32 %r<9>; .reg .pred %p1;
    ld.param.u32 %r1, [n];
    setp.gt.u32 %p1, %r1, 1;
    @%p1 bra RECURSE;
    st.param.b32 [r], 1;
    ret;
RECURSE:
    sub.u32 %r2, %r1, 1;
    {
    .param .b32 a; .param .b32 b;
    st.param.b32 [a], %r2;
    call.uni (b), fact, (a);
    ld.param.b32 %r3, [b];
    }
    mul.lo.u32 %r4, %r3, %r1;
    st.param.b32 [r], %r4;
    ret;
}";

#[test]
fn recursion_keeps_every_lane_its_own_frame() {
    let text = kernel(
        FACTORIAL,
        "    rem.u32 %r1, %t, 11;
    {
    .param .b32 a; .param .b32 b;
    st.param.b32 [a], %r1;
    call.uni (b), fact, (a);
    ld.param.b32 %r2, [b];
    }
    st.global.u32 [%mine], %r2;
    ret;",
    );
    for seed in [None, Some(7)] {
        let words = ok(&text, 4 * 64, &Setup { seed, ..block(64) }).words(0);
        for (t, &word) in words.iter().enumerate() {
            assert_eq!(word, (1..=(t % 11) as u32).product::<u32>(), "thread {t}");
        }
    }
}

#[test]
fn endless_recursion_ends_in_a_fault() {
    let text = kernel(
        ".func f() { call.uni f; ret; }",
        "    call.uni f;
    ret;",
    );
    assert_eq!(fault(&text, 4, &block(32)).kind, FaultKind::Illegal);
}

#[test]
fn calls_through_pointers_that_differ_by_lane() {
    let text = kernel(
        ".func (.param .b32 r) one(.param .b32 n) { .reg .b32 %r<4>; ld.param.u32 %r1, [n]; add.u32 %r1, %r1, 100; st.param.b32 [r], %r1; ret; }
.func (.param .b32 r) two(.param .b32 n) { .reg .b32 %r<4>; ld.param.u32 %r1, [n]; mul.lo.u32 %r1, %r1, 3; st.param.b32 [r], %r1; ret; }
.global .align 8 .u64 table[2] = {one, two};",
        "    and.b32 %r1, %t, 1;
    mov.u64 %rd1, table;
    mad.wide.u32 %rd1, %r1, 8, %rd1;
    ld.global.u64 %rd2, [%rd1];
    {
    .param .b32 a; .param .b32 b;
    st.param.b32 [a], %t;
    proto: .callprototype (.param .b32 _) _ (.param .b32 _);
    call (b), %rd2, (a), proto;
    ld.param.b32 %r2, [b];
    }
    st.global.u32 [%mine], %r2;
    ret;",
    );
    let words = ok(&text, 128, &block(32)).words(0);
    for (t, &word) in words.iter().enumerate() {
        assert_eq!(word as usize, if t % 2 == 0 { t + 100 } else { t * 3 });
    }
}

#[test]
fn branch_tables() {
    let text = kernel(
        "",
        "    and.b32 %r1, %t, 3;
    targets: .branchtargets A, B, C, A;
    brx.idx %r1, targets;
A:
    mov.u32 %r2, 10; bra DONE;
B:
    mov.u32 %r2, 20; bra DONE;
C:
    mov.u32 %r2, 30;
DONE:
    st.global.u32 [%mine], %r2;
    ret;",
    );
    let words = ok(&text, 128, &block(32)).words(0);
    assert!(
        words
            .iter()
            .enumerate()
            .all(|(t, &w)| w == [10, 20, 30, 10][t % 4])
    );
}

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

#[test]
fn an_endless_kernel_ends_with_its_budget() {
    let text = kernel("", "LOOP:\n    bra LOOP;");
    let setup = Setup {
        budget: Some(100_000),
        ..block(32)
    };
    assert_eq!(fault(&text, 4, &setup).kind, FaultKind::Budget);
}

#[test]
fn traps_stop_the_kernel() {
    let text = kernel("", "    trap;\n    ret;");
    let found = fault(&text, 4, &block(32));
    assert_eq!(found.kind, FaultKind::Trap);
    assert_eq!(found.ptx_line, 11);
}

#[test]
fn a_cooperative_grid_waits_for_every_block() {
    let text = kernel(
        ".global .u32 count;",
        "    mov.u64 %rd1, count;
    mov.u32 %r1, %nctaid.x;
    red.release.gpu.global.add.u32 [%rd1], 1;
SPIN:
    ld.acquire.gpu.global.u32 %r2, [%rd1];
    setp.lt.u32 %p1, %r2, %r1;
    @%p1 bra SPIN;
    mov.u32 %r3, %ctaid.x;
    mad.wide.u32 %rd2, %r3, 4, %out;
    st.global.u32 [%rd2], %r2;
    ret;",
    );
    let setup = Setup {
        grid: [100, 1, 1],
        cooperative: true,
        ..block(1)
    };
    assert!(ok(&text, 400, &setup).words(0).iter().all(|&w| w == 100));
    // Without the promise that all are resident, blocks that spin still let the others begin.
    assert!(
        ok(
            &text,
            400,
            &Setup {
                cooperative: false,
                ..setup
            }
        )
        .words(0)
        .iter()
        .all(|&w| w == 100)
    );
}

#[test]
fn special_registers() {
    let text = kernel(
        "",
        "    mov.u32 %r1, %tid.y; mov.u32 %r2, %ntid.x; mad.lo.u32 %r3, %r1, %r2, %t;
    mov.u32 %r4, %ctaid.y; mov.u32 %r5, %nctaid.x; mov.u32 %r6, %ctaid.x; mad.lo.u32 %r7, %r4, %r5, %r6;
    mov.u32 %r8, %laneid; mov.u32 %r9, %lanemask_lt;
    mad.lo.u32 %r10, %r7, 12, %r3;
    mul.wide.u32 %rd1, %r10, 8; add.s64 %rd1, %rd1, %out;
    st.global.v2.u32 [%rd1], {%r8, %r9};
    ret;",
    );
    let setup = Setup {
        grid: [2, 3, 1],
        block: [4, 3, 1],
        ..Setup::default()
    };
    let words = ok(&text, 6 * 12 * 8, &setup).words(0);
    for (k, pair) in words.chunks(2).enumerate() {
        let lane = k as u32 % 12;
        assert_eq!(pair, [lane, (1 << lane) - 1]);
    }
}

#[test]
fn what_is_not_executed_is_refused_by_name_and_line() {
    let text = kernel(
        "",
        "    tex.2d.v4.f32.s32 {%r1, %r2, %r3, %r4}, [%out, {%r5, %r6}];\n    ret;",
    );
    let error = run(&text, "k", &[Arg::Buffer(vec![0; 4])], &block(1))
        .expect_err("textures are refused")
        .to_string();
    assert!(
        error.contains("tex.2d.v4.f32.s32") && error.contains("line 11"),
        "{error}"
    );
}

#[test]
fn counters_of_a_kernel_counted_by_hand() {
    // 2 blocks of 64 threads: each warp issues 3 + 2 + 1 instructions.
    let text = kernel(
        "",
        "    ld.global.u32 %r1, [%mine];\n    st.global.u32 [%mine+256], %r1;\n    ret;",
    );
    let checks = Checks::ALL.without(Check::GlobalRace);
    let done = ok(
        &text,
        512,
        &Setup {
            grid: [2, 1, 1],
            checks,
            ..block(64)
        },
    );
    assert_eq!(done.counters.warp_instructions(), 4 * 6);
    let load = &done.counters.instructions[3];
    assert_eq!((load.issued, load.lanes), (4, 128));
    assert_eq!(
        (
            load.global.requests,
            load.global.passes,
            load.global.ideal,
            load.global.bytes
        ),
        (4, 16, 16, 512)
    );
}
