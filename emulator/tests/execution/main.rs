//! Control flow, barriers, calls, memory and the checks, on PTX written by hand.

mod barriers;
mod control;
mod lines;
mod memory;

use ptx_emulator::check::{Check, Checks, Fault, FaultKind};
use ptx_emulator::counters::MemoryCounts;
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

/// A kernel of 64 threads a block that counts the blocks begun, in `begun`, before `body`.
fn counting(body: &str) -> String {
    kernel(
        ".global .u32 begun;",
        &format!(
            "    mov.u64 %rd1, begun;
    mov.u32 %r1, %nctaid.x;
    setp.eq.u32 %p1, %t, 0;
    @%p1 red.release.gpu.global.add.u32 [%rd1], 1;
{body}
    ld.acquire.gpu.global.u32 %r2, [%rd1];
    mov.u32 %r3, %ctaid.x;
    mad.wide.u32 %rd2, %r3, 4, %out;
    @%p1 st.global.u32 [%rd2], %r2;
    ret;"
        ),
    )
}

#[test]
fn blocks_that_wait_for_others_let_them_begin() {
    // At barriers of their own, and asleep.
    for wait in ["bar.red.or.pred %p2, 0, %p2;", "nanosleep.u32 20;"] {
        let text = counting(&format!(
            "SPIN:
    ld.acquire.gpu.global.u32 %r2, [%rd1];
    setp.lt.u32 %p2, %r2, %r1;
    {wait}
    @%p2 bra SPIN;"
        ));
        let setup = Setup {
            grid: [12, 1, 1],
            ..block(64)
        };
        assert!(ok(&text, 48, &setup).words(0).iter().all(|&w| w == 12));
    }
}

#[test]
fn blocks_that_wait_for_no_other_run_one_after_another() {
    let setup = Setup {
        grid: [12, 1, 1],
        threads: 1,
        ..block(64)
    };
    let words = ok(&counting(&"    bar.sync 0;\n".repeat(100)), 48, &setup).words(0);
    assert_eq!(words, (1..=12).collect::<Vec<u32>>());
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
    let (issues, MemoryCounts { global, .. }) = done
        .counters
        .instructions()
        .nth(3)
        .expect("the load is the fourth instruction");
    assert_eq!((issues.issued, issues.lanes), (4, 128));
    assert_eq!(
        (global.requests, global.passes, global.ideal, global.bytes),
        (4, 16, 16, 512)
    );
}
