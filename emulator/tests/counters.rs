//! Counters of small kernels, worked by hand.

use ptx_emulator::check::{Check, Checks};
use ptx_emulator::counters::Counters;
use ptx_emulator::run::{Arg, Setup, run};

/// A kernel over one buffer, whose address is in `%buffer`; `%thread` and `%block` hold thread and block.
fn kernel(declarations: &str, body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 p)\n{{\n\
         .reg .pred %p<4>; .reg .b32 %r<16>; .reg .b64 %rd<16>; .reg .b64 %buffer; .reg .b32 %thread; .reg .b32 %block;\n\
         {declarations}\n\
         ld.param.u64 %buffer, [p];\nmov.u32 %thread, %tid.x;\nmov.u32 %block, %ctaid.x;\n{body}\nret;\n}}\n"
    )
}

fn count(text: &str, grid: u32, block: u32, seed: Option<u64>) -> Counters {
    let setup = Setup {
        grid: [grid, 1, 1],
        block: [block, 1, 1],
        // Blocks that write the same words are part of a case.
        checks: Checks::ALL.without(Check::GlobalRace),
        seed,
        ..Setup::default()
    };
    let done = run(text, "k", &[Arg::Buffer(vec![0; 1 << 18])], &setup);
    done.unwrap_or_else(|e| panic!("{e}\n{text}")).counters
}

/// Distinct sectors read and written.
fn sectors(counters: &Counters) -> (u64, u64) {
    (counters.touched.read.len(), counters.touched.written.len())
}

#[test]
fn a_sector_is_distinct_once_a_launch() {
    // Every warp of every block reads the same 128 bytes: four sectors, however often. It writes a word in a
    // sector of its own: 32 a warp.
    let text = kernel(
        "",
        "and.b32 %r0, %thread, 31; mul.wide.u32 %rd0, %r0, 4; add.s64 %rd0, %buffer, %rd0; ld.global.u32 %r1, [%rd0];
         mul.wide.u32 %rd1, %thread, 32; add.s64 %rd1, %buffer, %rd1; st.global.u32 [%rd1+65536], %r1;",
    );
    for seed in [None, Some(3)] {
        let counters = count(&text, 3, 64, seed);
        assert_eq!(sectors(&counters), (4, 64));
        let loads = counters
            .instructions()
            .map(|(_, memory)| memory.global.passes)
            .sum::<u64>();
        assert_eq!(loads, 3 * 2 * (4 + 32), "sectors moved, not distinct");
    }
}

#[test]
fn unaligned_and_strided_accesses_touch_what_they_straddle() {
    // 32 words from byte 16 on: the first and the last half sector make five.
    let text = kernel(
        "",
        "mul.wide.u32 %rd0, %thread, 4; add.s64 %rd0, %buffer, %rd0; ld.global.u32 %r1, [%rd0+16];",
    );
    assert_eq!(sectors(&count(&text, 1, 32, None)), (5, 0));
    // 16 bytes every 64: each a sector, with one left out between.
    let text = kernel(
        "",
        "mul.wide.u32 %rd0, %thread, 64; add.s64 %rd0, %buffer, %rd0; ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd0];",
    );
    assert_eq!(sectors(&count(&text, 1, 64, None)), (64, 0));
}

#[test]
fn atomics_write_and_prefetches_touch_nothing() {
    let text = kernel(
        "",
        "atom.global.add.u32 %r0, [%buffer+32], 1; red.global.add.u32 [%buffer+64], 1;
         prefetch.global.L2 [%buffer+4096];",
    );
    assert_eq!(sectors(&count(&text, 2, 32, None)), (0, 2));
}

/// Copies of 16 bytes a lane from the buffer's start, to the lane's place in stage `stage`.
fn copy(stage: u32) -> String {
    format!(
        "cp.async.cg.shared.global [%at+{}], [%from], 16;\n",
        stage * 2048
    )
}

fn copying(body: &str) -> String {
    let place = "mul.wide.u32 %from, %thread, 16; add.s64 %from, %buffer, %from;
        mov.u32 %at, tile; shl.b32 %r0, %thread, 4; add.u32 %at, %at, %r0;\n";
    kernel(
        ".shared .align 16 .b8 tile[8192]; .reg .b64 %from; .reg .b32 %at;",
        &format!("{place}{body}"),
    )
}

#[test]
fn copies_are_in_flight_until_a_wait_covers_them() {
    const COMMIT: &str = "cp.async.commit_group;\n";
    let stages = |n: u32| -> String { (0..n).map(|k| copy(k) + COMMIT).collect() };
    let wait = |pending: u32| format!("cp.async.wait_group {pending};\n");
    for (body, a_warp) in [
        (stages(1) + &wait(0), 512),
        (stages(3) + &wait(0), 3 * 512),
        // Two groups, the first awaited before the third is issued: two at a time.
        (stages(2) + &wait(1) + &copy(2) + COMMIT + &wait(0), 2 * 512),
        // A wait that leaves both in flight changes nothing.
        (stages(2) + &wait(2) + &copy(2) + COMMIT + &wait(0), 3 * 512),
        // What is not committed is not awaited either.
        (
            copy(0) + &wait(0) + &copy(1) + "cp.async.wait_all;\n",
            2 * 512,
        ),
        (copy(0) + "cp.async.wait_all;\n" + &copy(1), 512),
        // Zero-fill: four bytes a lane are read of the sixteen written.
        (
            "cp.async.cg.shared.global [%at], [%from], 16, 4;\ncp.async.wait_all;\n".into(),
            32 * 4,
        ),
    ] {
        let text = copying(&body);
        for (threads, grid) in [(32, 1), (128, 1), (128, 5)] {
            for seed in [None, Some(1), Some(2)] {
                let found = count(&text, grid, threads, seed).block_bytes_in_flight;
                assert_eq!(found, u64::from(threads / 32) * a_warp, "{body}");
            }
        }
    }
}

#[test]
fn the_fullest_block_counts() {
    // Block 2 copies two stages, the others one; only the first half of a warp's lanes copy at all.
    let text = copying(&format!(
        "setp.lt.u32 %p0, %thread, 16; setp.eq.u32 %p1, %block, 2; and.pred %p1, %p0, %p1;
         @%p0 {}@%p1 {}cp.async.wait_all;",
        copy(0),
        copy(1)
    ));
    assert_eq!(count(&text, 4, 32, None).block_bytes_in_flight, 2 * 256);
    assert_eq!(count(&text, 2, 32, None).block_bytes_in_flight, 256);
}
