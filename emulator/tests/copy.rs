//! `cp.async`, its groups and its waits against the PTX ISA's words.

mod warp;

use ptx_emulator::check::{Check, Checks, FaultKind};
use ptx_emulator::run::{Arg, RunError, Setup, run};
use warp::{Lanes, Random, fault, lanes, refused, reported, try_lanes, unwatched};

/// A tile in shared memory; `%at` is the lane's 16 bytes of it, `%d1` the lane's 16 bytes of the inputs.
const TILE: &str = "
    .shared .align 16 .b8 tile[2048];
    .reg .b32 %base; .reg .b32 %at; .reg .b64 %src;
    mov.u32 %base, tile;
    shl.b32 %at, %t0, 4;
    add.u32 %at, %at, %base;
    ld.param.u64 %src, [in];
    mul.wide.u32 %d0, %t0, 16;
    add.s64 %d1, %src, %d0;
";

/// Four words of each lane: lane l's 16 bytes are words 4 l to 4 l + 3 of all inputs in a row.
fn inputs() -> Vec<Lanes> {
    let mut random = Random(3);
    (0..8).map(|_| random.lanes()).collect()
}

fn flat(inputs: &[Lanes]) -> Vec<u32> {
    inputs.iter().flatten().copied().collect()
}

const READ: &str = "ld.shared.v4.b32 {%o0, %o1, %o2, %o3}, [%at];";

#[test]
fn copies_of_every_size() {
    let data = inputs();
    let words = flat(&data);
    for (size, operator) in [(4, "ca"), (8, "ca"), (16, "ca"), (16, "cg")] {
        for hint in ["", ".L2::64B", ".L2::128B", ".L2::256B"] {
            let body = format!(
                "{TILE}
                st.shared.v4.b32 [%at], {{%t0, %t0, %t0, %t0}};
                cp.async.{operator}.shared.global{hint} [%at], [%d1], {size};
                cp.async.commit_group;
                cp.async.wait_group 0;
                {READ}"
            );
            let out = lanes(&body, &data, 4);
            for (k, values) in out.iter().enumerate() {
                for lane in 0..32 {
                    let want = if 4 * k < size {
                        words[4 * lane + k]
                    } else {
                        lane as u32
                    };
                    assert_eq!(values[lane], want, "{size} bytes, word {k}, lane {lane}");
                }
            }
        }
    }
}

#[test]
fn the_rest_is_filled_with_zeros() {
    let data = inputs();
    let words = flat(&data);
    // Lane l reads l % 5 words; where it reads none, its address is nowhere.
    let body = format!(
        "{TILE}
        rem.u32 %t1, %t0, 5;
        shl.b32 %t2, %t1, 2;
        setp.eq.u32 %p0, %t1, 0;
        @%p0 mov.b64 %d1, 48;
        cp.async.cg.shared.global [%at], [%d1], 16, %t2;
        cp.async.wait_all;
        {READ}"
    );
    let out = lanes(&body, &data, 4);
    for lane in 0..32 {
        for k in 0..4 {
            let want = if k < lane % 5 { words[4 * lane + k] } else { 0 };
            assert_eq!(out[k][lane], want, "lane {lane} word {k}");
        }
    }
}

#[test]
fn a_predicate_ignores_the_source() {
    let data = inputs();
    let words = flat(&data);
    for (predicate, ignored) in [("%p0", 0), ("!%p0", 1)] {
        let body = format!(
            "{TILE}
            and.b32 %t1, %t0, 1;
            setp.eq.u32 %p0, %t1, 0;
            cp.async.ca.shared.global [%at], [%d1], 16, {predicate};
            cp.async.wait_all;
            {READ}"
        );
        let out = lanes(&body, &data, 4);
        for lane in 0..32 {
            let want = if lane % 2 == ignored {
                0
            } else {
                words[4 * lane + 1]
            };
            assert_eq!(out[1][lane], want, "lane {lane}");
        }
    }
}

#[test]
fn a_cache_policy_changes_nothing() {
    let data = inputs();
    let body = format!(
        "{TILE}
        createpolicy.fractional.L2::evict_last.b64 %d5, 1.0;
        cp.async.cg.shared.global.L2::cache_hint.L2::128B [%at], [%d1], 16, %d5;
        mov.u32 %t1, 8;
        cp.async.cg.shared.global.L2::cache_hint [%at+512], [%d1], 16, %t1, %d5;
        cp.async.wait_all;
        {READ}
        ld.shared.b32 %o3, [%at+520];"
    );
    let out = lanes(&body, &data, 4);
    assert_eq!(out[0], std::array::from_fn(|l| flat(&data)[4 * l]));
    assert_eq!(out[3], [0; 32]);
}

#[test]
fn what_lands_is_what_the_source_holds_when_it_does() {
    // The thread overwrites its own source between issue and wait: the copy sees the later value.
    let data = inputs();
    let body = format!(
        "{TILE}
        cp.async.ca.shared.global [%at], [%d1], 16;
        cp.async.commit_group;
        st.global.b32 [%d1], 77;
        cp.async.wait_group 0;
        {READ}"
    );
    assert_eq!(lanes(&body, &data, 4)[0], [77; 32]);
}

/// `n` copies, each its own group, to tiles 512 bytes apart.
fn groups(n: usize) -> String {
    (0..n)
        .map(|k| {
            format!(
                "cp.async.cg.shared.global [%at+{}], [%d1], 16;\ncp.async.commit_group;\n",
                512 * k
            )
        })
        .collect()
}

#[test]
fn a_wait_completes_all_groups_but_the_newest() {
    let data = inputs();
    let want: Lanes = std::array::from_fn(|l| flat(&data)[4 * l]);
    for pending in 0..4 {
        for tile in 0..4 {
            let body = format!(
                "{TILE}{}cp.async.wait_group {pending};\nld.shared.b32 %o0, [%at+{}];",
                groups(4),
                512 * tile
            );
            if tile + pending < 4 {
                assert_eq!(
                    lanes(&body, &data, 1)[0],
                    want,
                    "pending {pending} tile {tile}"
                );
            } else {
                reported(&body, &data, 1, Check::AsyncCopy, "has not landed");
            }
        }
    }
}

#[test]
fn groups_that_need_not_land_do_not_where_nothing_is_checked() {
    let data = inputs();
    let copied: Lanes = std::array::from_fn(|l| flat(&data)[4 * l]);
    let before: Lanes = std::array::from_fn(|l| l as u32);
    let each_tile = |text: &str| -> String {
        (0..4)
            .map(|k| {
                let at = format!("[%at+{}]", 512 * k);
                text.replace("AT", &at).replace("OUT", &format!("%o{k}"))
            })
            .collect()
    };
    for pending in 0..5 {
        let body = format!(
            "{TILE}{}{}cp.async.wait_group {pending};\n{}",
            each_tile("st.shared.b32 AT, %t0;\n"),
            groups(4),
            each_tile("ld.shared.b32 OUT, AT;\n")
        );
        let done = try_lanes(&body, &data, 4, &unwatched()).expect("nothing is checked");
        for (tile, found) in done.words(1).as_chunks::<32>().0.iter().enumerate() {
            let want = if tile + pending < 4 { copied } else { before };
            assert_eq!(*found, want, "{pending} pending, tile {tile}");
        }
    }
}

#[test]
fn empty_groups_count() {
    let data = inputs();
    let body = |pending| {
        format!(
            "{TILE}{}cp.async.commit_group;\ncp.async.commit_group;\ncp.async.wait_group {pending};\nld.shared.b32 %o0, [%at];",
            groups(1)
        )
    };
    assert_eq!(
        lanes(&body(2), &data, 1)[0],
        std::array::from_fn(|l| flat(&data)[4 * l])
    );
    reported(&body(3), &data, 1, Check::AsyncCopy, "has not landed");
}

#[test]
fn copies_that_are_not_committed_do_not_land_in_a_group_wait() {
    let data = inputs();
    let body = format!(
        "{TILE}cp.async.cg.shared.global [%at], [%d1], 16;\ncp.async.wait_group 0;\n{READ}"
    );
    reported(&body, &data, 4, Check::AsyncCopy, "has not landed");
    let body =
        format!("{TILE}cp.async.cg.shared.global [%at], [%d1], 16;\ncp.async.wait_all;\n{READ}");
    lanes(&body, &data, 4);
}

#[test]
fn threads_of_a_warp_count_their_own_groups() {
    // The lower half commits twice, the upper half once: a wait for all but one completes the first copy of the
    // lower half only.
    let data = inputs();
    let body = |read: &str| {
        format!(
            "{TILE}
            setp.lt.u32 %p0, %t0, 16;
            cp.async.cg.shared.global [%at], [%d1], 16;
            @%p0 cp.async.commit_group;
            cp.async.cg.shared.global [%at+512], [%d1], 16;
            cp.async.commit_group;
            cp.async.wait_group 1;
            mov.b32 %o0, 0;
            {read}"
        )
    };
    let want: Lanes = std::array::from_fn(|l| if l < 16 { flat(&data)[4 * l] } else { 0 });
    assert_eq!(
        lanes(&body("@%p0 ld.shared.b32 %o0, [%at];"), &data, 1)[0],
        want
    );
    let late = fault(
        &body("@!%p0 ld.shared.b32 %o0, [%at];"),
        &data,
        1,
        &Setup::default(),
    );
    assert_eq!(late.kind, FaultKind::Check(Check::AsyncCopy));
    assert_eq!(late.lanes.trailing_zeros(), 16);
    let newest = fault(
        &body("@%p0 ld.shared.b32 %o0, [%at+512];"),
        &data,
        1,
        &Setup::default(),
    );
    assert_eq!(newest.kind, FaultKind::Check(Check::AsyncCopy));
}

#[test]
fn a_wait_by_some_lanes_lands_their_copies_alone() {
    let data = inputs();
    let body = |read: &str| {
        format!(
            "{TILE}
            setp.lt.u32 %p0, %t0, 5;
            cp.async.cg.shared.global [%at], [%d1], 16;
            cp.async.commit_group;
            mov.b32 %o0, 1;
            @%p0 cp.async.wait_group 0;
            {read}"
        )
    };
    let want: Lanes = std::array::from_fn(|l| if l < 5 { flat(&data)[4 * l] } else { 1 });
    assert_eq!(
        lanes(&body("@%p0 ld.shared.b32 %o0, [%at];"), &data, 1)[0],
        want
    );
    reported(
        &body("ld.shared.b32 %o0, [%at];"),
        &data,
        1,
        Check::AsyncCopy,
        "has not landed",
    );
}

#[test]
fn others_need_a_barrier_after_the_wait() {
    let data = inputs();
    let neighbour = "xor.b32 %t1, %at, 16;\nld.shared.b32 %o0, [%t1];";
    let body = |sync: &str| {
        format!(
            "{TILE}{}cp.async.wait_group 0;\n{sync}\n{neighbour}",
            groups(1)
        )
    };
    let want: Lanes = std::array::from_fn(|l| flat(&data)[4 * (l ^ 1)]);
    assert_eq!(lanes(&body("bar.warp.sync 0xffffffff;"), &data, 1)[0], want);
    assert_eq!(lanes(&body("bar.sync 0;"), &data, 1)[0], want);
    reported(
        &body(""),
        &data,
        1,
        Check::SharedRace,
        "no __syncwarp between them",
    );
}

#[test]
fn a_destination_is_nobodys_until_it_lands() {
    let data = inputs();
    let touch = |text: &str| format!("{TILE}{}{text}\ncp.async.wait_group 0;", groups(1));
    reported(
        &touch("st.shared.b32 [%at+4], %t0;"),
        &data,
        0,
        Check::AsyncCopy,
        "has not landed",
    );
    reported(
        &touch("atom.shared.add.u32 %t1, [%at], 1;"),
        &data,
        0,
        Check::AsyncCopy,
        "has not landed",
    );
    reported(
        &touch("cp.async.ca.shared.global [%at+8], [%d1], 4;"),
        &data,
        0,
        Check::AsyncCopy,
        "nothing orders the two",
    );
    reported(
        &touch("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%t1}, [%at];"),
        &data,
        0,
        Check::AsyncCopy,
        "has not landed",
    );
    // With the check off, the bytes are what was there before.
    let setup = Setup {
        checks: Checks::NONE,
        ..Setup::default()
    };
    let body = format!(
        "{TILE}st.shared.b32 [%at], %t0;\n{}ld.shared.b32 %o0, [%at];",
        groups(1)
    );
    let done = try_lanes(&body, &data, 1, &setup).expect("nothing is checked");
    assert_eq!(
        done.words(1)[..32],
        std::array::from_fn::<u32, 32, _>(|l| l as u32)
    );
}

#[test]
fn a_kernel_may_end_with_copies_in_flight() {
    lanes(&format!("{TILE}{}", groups(3)), &inputs(), 0);
}

#[test]
fn sources_and_destinations_are_checked_at_issue() {
    let data = inputs();
    let issue = |text: &str| format!("{TILE}{text}");
    let copy = |to: &str, from: &str, size| {
        issue(&format!(
            "cp.async.ca.shared.global [{to}], [{from}], {size};"
        ))
    };
    reported(
        &copy("%at", "%d1+1024", 16),
        &data,
        0,
        Check::Bounds,
        "past the end of",
    );
    reported(
        &copy("%at+1600", "%d1", 16),
        &data,
        0,
        Check::Bounds,
        "past the 2048 bytes",
    );
    reported(
        &copy("%at", "%d1+4", 16),
        &data,
        0,
        Check::Alignment,
        "past a multiple of 16",
    );
    reported(
        &copy("%at+4", "%d1", 8),
        &data,
        0,
        Check::Alignment,
        "past a multiple of 8",
    );
    let sizes = issue("mov.u32 %t1, 20;\ncp.async.ca.shared.global [%at], [%d1], 16, %t1;");
    let fault = fault(&sizes, &data, 0, &Setup::default());
    assert_eq!(fault.kind, FaultKind::Illegal);
    assert!(fault.message.contains("20 bytes into 16"), "{fault}");
}

#[test]
fn uninitialised_sources_are_reported() {
    let text = warp::kernel(&format!("{TILE}{}cp.async.wait_group 0;", groups(1)), 0, 0);
    match run(
        &text,
        "k",
        &[Arg::Uninit(512), Arg::Uninit(4)],
        &Setup::default(),
    ) {
        Err(RunError::Fault(fault)) => {
            assert_eq!(fault.kind, FaultKind::Check(Check::UninitMemory));
            assert!(fault.message.contains("never written"), "{fault}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn copies_count_as_global_reads_and_shared_writes() {
    let data = inputs();
    let body = format!("{TILE}{}cp.async.wait_group 0;", groups(1));
    let done = try_lanes(&body, &data, 0, &Setup::default()).expect("it runs");
    let counts = done
        .counters
        .instructions()
        .map(|(_, memory)| memory)
        .find(|c| c.global.bytes == 512)
        .expect("the copy is counted");
    assert_eq!(
        (
            counts.global.requests,
            counts.global.passes,
            counts.global.ideal
        ),
        (1, 16, 16)
    );
    assert_eq!(
        (
            counts.shared.requests,
            counts.shared.passes,
            counts.shared.ideal
        ),
        (1, 4, 4)
    );
}

#[test]
fn a_ring_of_stages_with_a_tail() {
    // Three stages, nine tiles, as a pipelined kernel does it; each lane sums its first words.
    let body = format!(
        "{TILE}
        .reg .b32 %i, %stage, %sum, %word, %load; .reg .b64 %from;
        mov.u32 %sum, 0;
        mov.b64 %from, %d1;
        mov.u32 %i, 0;
        cp.async.cg.shared.global [%at], [%from], 16;
        cp.async.commit_group;
        cp.async.cg.shared.global [%at+512], [%from+512], 16;
        cp.async.commit_group;
    LOOP:
        add.u32 %load, %i, 2;
        setp.lt.u32 %p0, %load, 9;
        rem.u32 %stage, %load, 3;
        shl.b32 %stage, %stage, 9;
        add.u32 %stage, %stage, %at;
        mul.wide.u32 %d3, %load, 512;
        add.s64 %d3, %d3, %from;
        @%p0 cp.async.cg.shared.global [%stage], [%d3], 16;
        cp.async.commit_group;
        cp.async.wait_group 2;
        rem.u32 %stage, %i, 3;
        shl.b32 %stage, %stage, 9;
        add.u32 %stage, %stage, %at;
        ld.shared.b32 %word, [%stage];
        add.u32 %sum, %sum, %word;
        add.u32 %i, %i, 1;
        setp.lt.u32 %p1, %i, 9;
        @%p1 bra LOOP;
        mov.b32 %o0, %sum;"
    );
    let mut random = Random(17);
    let data: Vec<Lanes> = (0..36).map(|_| random.lanes()).collect();
    let words = flat(&data);
    let want: Lanes =
        std::array::from_fn(|l| (0..9).fold(0u32, |s, k| s.wrapping_add(words[128 * k + 4 * l])));
    for seed in [None, Some(1), Some(2)] {
        let setup = Setup {
            seed,
            ..Setup::default()
        };
        let done = try_lanes(&body, &data, 1, &setup).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(done.words(1)[..32], want);
        let short = body.replace("wait_group 2", "wait_group 3");
        let fault = fault(&short, &data, 1, &setup);
        assert_eq!(
            fault.kind,
            FaultKind::Check(Check::AsyncCopy),
            "one group short"
        );
    }
}

#[test]
fn copies_land_out_of_order() {
    // The upper half never waits for its first copy; the lower half issues and lands twenty by itself meanwhile, then
    // both wait for everything.
    let body = format!(
        "{TILE}
        .reg .b32 %i, %sum, %word; .reg .b64 %from;
        mov.u32 %sum, 0;
        mov.u32 %i, 0;
        mov.b64 %from, %d1;
        setp.lt.u32 %p0, %t0, 16;
        cp.async.cg.shared.global [%at+512], [%d1], 16;
        cp.async.commit_group;
        @!%p0 bra JOIN;
    LOOP:
        cp.async.cg.shared.global [%at], [%from], 16;
        cp.async.commit_group;
        cp.async.cg.shared.global [%at+1024], [%from], 16;
        cp.async.wait_group 0;
        ld.shared.b32 %word, [%at];
        add.u32 %sum, %sum, %word;
        cp.async.wait_all;
        ld.shared.b32 %word, [%at+1028];
        add.u32 %sum, %sum, %word;
        add.s64 %from, %from, 512;
        add.u32 %i, %i, 1;
        setp.lt.u32 %p1, %i, 20;
        @%p1 bra LOOP;
    JOIN:
        cp.async.wait_all;
        ld.shared.b32 %word, [%at+512];
        add.u32 %sum, %sum, %word;
        mov.b32 %o0, %sum;"
    );
    let mut random = Random(19);
    let data: Vec<Lanes> = (0..80).map(|_| random.lanes()).collect();
    let words = flat(&data);
    let want: Lanes = std::array::from_fn(|l| {
        let rounds = if l < 16 { 20 } else { 0 };
        (0..rounds).fold(words[4 * l], |s, k| {
            let at = 128 * k + 4 * l;
            s.wrapping_add(words[at]).wrapping_add(words[at + 1])
        })
    });
    assert_eq!(lanes(&body, &data, 1)[0], want);
}

#[test]
fn malformed_copies_are_refused() {
    refused(
        ".shared .b8 t[64];\ncp.async.ca.shared.global [t], [%d0], 12;",
        "4, 8 or 16",
    );
    refused(
        ".shared .b8 t[64];\ncp.async.cg.shared.global [t], [%d0], 8;",
        "under .cg",
    );
    refused(
        ".shared .b8 t[64];\ncp.async.ca.shared.global.L3::64B [t], [%d0], 8;",
        "L3::64B",
    );
}
