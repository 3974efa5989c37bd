//! Each instruction of clusters by itself.

use super::*;

/// A kernel of blocks of 32 threads in clusters of `cluster`: `%out` has the thread's own word, `%t` its number in
/// the block, `%rank` the block's rank; `room` is a variable in shared memory.
fn kernel(cluster: u32, body: &str) -> String {
    format!(
        ".version 8.3\n.target sm_90\n.address_size 64
.shared .align 16 .b8 room[512];
.visible .entry k(.param .u64 p) .reqnctapercluster {cluster}, 1, 1
{{
    .reg .pred %p<9>; .reg .b32 %r<20>; .reg .b64 %rd<20>; .reg .b64 %out; .reg .b32 %t; .reg .b32 %rank; .reg .b16 %h;
    ld.param.u64 %out, [p];
    mov.u32 %t, %tid.x; mov.u32 %rank, %cluster_ctarank;
    mov.u32 %r0, %ctaid.x; mad.lo.u32 %r0, %r0, 32, %t; mad.wide.u32 %out, %r0, 4, %out;
{body}
}}"
    )
}

const SYNC: &str = "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;\n";

fn try_run(cluster: u32, blocks: u32, body: &str) -> Result<Finished, RunError> {
    let setup = Setup {
        grid: [blocks, 1, 1],
        ..Setup::default()
    };
    let out = Arg::Buffer(vec![0; blocks as usize * 128]);
    run(&kernel(cluster, body), "k", &[out], &setup)
}

#[track_caller]
fn words(cluster: u32, blocks: u32, body: &str) -> Vec<u32> {
    match try_run(cluster, blocks, body) {
        Ok(done) => done.words(0),
        Err(e) => panic!("{e}\n{body}"),
    }
}

#[track_caller]
fn reported(cluster: u32, body: &str, check: Check, text: &str) {
    match try_run(cluster, cluster, body) {
        Err(RunError::Fault(fault)) => {
            assert_eq!(fault.kind, FaultKind::Check(check), "{fault}");
            assert!(fault.message.contains(text), "{fault}");
        }
        Err(e) => panic!("{e}\n{body}"),
        Ok(_) => panic!("no fault\n{body}"),
    }
}

#[test]
fn addresses_map_between_blocks_and_back() {
    // Of the address in block 2: its rank by both widths, and that it is shared, but not the block's own elsewhere.
    let body = "mov.u32 %r1, room; mapa.shared::cluster.u32 %r2, %r1, 2; getctarank.shared::cluster.u32 %r3, %r2;
        cvta.shared.u64 %rd1, room; mapa.u64 %rd2, %rd1, 2; getctarank.u64 %r4, %rd2;
        getctarank.u64 %r5, %rd1;
        isspacep.shared::cluster %p1, %rd2; selp.u32 %r6, 1, 0, %p1;
        isspacep.shared::cta %p1, %rd2; selp.u32 %r7, 1, 0, %p1;
        isspacep.shared %p1, %rd1; selp.u32 %r8, 1, 0, %p1;
        isspacep.global %p1, %rd2; selp.u32 %r9, 1, 0, %p1;
        mad.lo.u32 %r10, %r3, 10, %r4; mad.lo.u32 %r10, %r10, 10, %r5; mad.lo.u32 %r10, %r10, 10, %r6;
        mad.lo.u32 %r10, %r10, 10, %r7; mad.lo.u32 %r10, %r10, 10, %r8; mad.lo.u32 %r10, %r10, 10, %r9;
        st.global.u32 [%out], %r10; ret;";
    let found = words(4, 8, body);
    for block in 0..8u32 {
        let rank = block % 4;
        let own = u32::from(rank == 2);
        let expected = 2_200_000 + rank * 10_000 + 1000 + own * 100 + 10;
        assert_eq!(found[block as usize * 32], expected, "block {block}");
    }
}

#[test]
fn stores_loads_and_atomics_in_another_blocks_memory() {
    let body = format!(
        "xor.b32 %r1, %rank, 1; mov.u32 %r2, room; mapa.shared::cluster.u32 %r3, %r2, %r1;
         mad.lo.u32 %r4, %t, 8, %r3; mov.u32 %r8, 0; st.shared.u32 [%r2+256], %r8;
         {SYNC}
         add.u32 %r5, %t, 100; st.shared::cluster.v2.u32 [%r4], {{%r5, %rank}};
         red.shared::cluster.add.u32 [%r3+256], 3;
         {SYNC}
         mad.lo.u32 %r2, %t, 8, %r2; ld.shared.v2.u32 {{%r6, %r7}}, [%r2]; ld.shared.u32 %r8, [room+256];
         mad.lo.u32 %r6, %r7, 1000, %r6; mad.lo.u32 %r6, %r8, 10000, %r6; ld.shared::cluster.u32 %r9, [%r4+4];
         mad.lo.u32 %r6, %r9, 100000000, %r6; st.global.u32 [%out], %r6;
         {SYNC} ret;"
    );
    let found = words(2, 4, &body);
    for (k, word) in found.iter().enumerate() {
        let (rank, t) = (k as u32 / 32 % 2, k as u32 % 32);
        // What the neighbour wrote here, and the rank that this block wrote there.
        assert_eq!(
            *word,
            100 + t + (1 - rank) * 1000 + 96 * 10000 + rank * 100_000_000
        );
    }
}

#[test]
fn a_generic_address_reaches_the_neighbour() {
    let body = format!(
        "cvta.shared.u64 %rd1, room; xor.b32 %r1, %rank, 1; mapa.u64 %rd2, %rd1, %r1; mul.wide.u32 %rd3, %t, 4;
         add.s64 %rd1, %rd1, %rd3; add.s64 %rd2, %rd2, %rd3; add.u32 %r2, %r0, 7; st.u32 [%rd1], %r2;
         {SYNC} ld.u32 %r3, [%rd2]; atom.add.u32 %r4, [%rd2], 1; {SYNC} ld.u32 %r5, [%rd1]; sub.u32 %r5, %r5, %r2;
         mad.lo.u32 %r3, %r5, 1000, %r3; st.global.u32 [%out], %r3; ret;"
    );
    let found = words(2, 2, &body);
    for (k, word) in found.iter().enumerate() {
        assert_eq!(*word, (k as u32 ^ 32) + 7 + 1000);
    }
}

#[test]
fn special_registers_of_clusters() {
    let body = "mov.u32 %r1, %clusterid.x; mov.u32 %r2, %nclusterid.x; mov.u32 %r3, %cluster_ctaid.x;
        mov.u32 %r4, %cluster_nctaid.x; mov.u32 %r5, %cluster_nctarank; mov.pred %p1, %is_explicit_cluster;
        selp.u32 %r6, 1, 0, %p1; mad.lo.u32 %r7, %r1, 10, %r2; mad.lo.u32 %r7, %r7, 10, %r3; mad.lo.u32 %r7, %r7, 10, %r4;
        mad.lo.u32 %r7, %r7, 10, %r5; mad.lo.u32 %r7, %r7, 10, %r6; st.global.u32 [%out], %r7; ret;";
    let found = words(3, 6, body);
    for block in 0..6 {
        assert_eq!(
            found[block * 32] as usize,
            block / 3 * 100_000 + 20_000 + block % 3 * 1000 + 331
        );
    }
    assert_eq!(words(1, 2, body)[32], 120_110);
}

#[test]
fn the_clusters_barrier_by_halves() {
    // Arrivals of diverged lanes, each with a wait of its own; exited threads are not waited for.
    let body = "setp.ge.u32 %p1, %t, 20; @%p1 ret; setp.ge.u32 %p2, %t, 10; mov.u32 %r1, 0; @%p2 bra LATER;
        barrier.cluster.arrive.release; mov.u32 %r1, 1; barrier.cluster.wait.acquire; bra END;
        LATER: barrier.cluster.arrive; mov.u32 %r1, 2; barrier.cluster.wait;
        END: st.global.u32 [%out], %r1; ret;";
    let found = words(2, 4, body);
    for (k, word) in found.iter().enumerate() {
        assert_eq!(*word, [1, 2, 0, 0][k % 32 / 10]);
    }
}

#[test]
fn misuse_of_the_clusters_barrier() {
    let all = "barrier.cluster.arrive.aligned; ";
    reported(
        2,
        &format!("{all}{all} ret;"),
        Check::Barrier,
        "arrive at the cluster's barrier again",
    );
    reported(
        2,
        "barrier.cluster.wait.aligned; ret;",
        Check::Barrier,
        "without having arrived",
    );
    reported(
        2,
        &format!("setp.eq.u32 %p1, %rank, 0; @%p1 {SYNC} mov.u32 %r1, 0; bar.sync 1, 64; ret;"),
        Check::Barrier,
        "barrier",
    );
    // Block 1 goes round its own barrier for ever, so block 0 waits for ever.
    reported(
        2,
        "setp.eq.u32 %p1, %rank, 1; @%p1 bar.sync 1, 64; barrier.cluster.arrive; barrier.cluster.wait; ret;",
        Check::Barrier,
        "barrier 1 has",
    );
    reported(
        2,
        "setp.lt.u32 %p1, %t, 16; @%p1 barrier.cluster.arrive.aligned; ret;",
        Check::Barrier,
        "predicated off",
    );
}

#[test]
fn a_relaxed_arrival_publishes_what_a_fence_covers() {
    let hand_over = |between: &str| {
        format!(
            "{SYNC} mov.u32 %r2, room; mapa.shared::cluster.u32 %r3, %r2, 0; setp.eq.u32 %p1, %rank, 1;
             setp.eq.and.u32 %p2, %t, 0, %p1; @%p2 st.shared::cluster.u32 [%r3], 5; {between}
             barrier.cluster.arrive.relaxed; barrier.cluster.wait; setp.eq.and.u32 %p3, %rank, 0, 1;
             mov.u32 %r4, 0; @%p3 ld.shared.u32 %r4, [%r2]; st.global.u32 [%out], %r4; ret;"
        )
    };
    assert_eq!(words(2, 2, &hand_over("fence.acq_rel.cluster;"))[0], 5);
    reported(2, &hand_over(""), Check::SharedRace, "of the cluster");
}

#[test]
fn what_cannot_be_reached() {
    reported(
        2,
        &format!("{SYNC} mov.u32 %r1, room; mapa.shared::cluster.u32 %r2, %r1, 2; ret;"),
        Check::Bounds,
        "block 2 of a cluster of 2",
    );
    reported(
        2,
        &format!(
            "{SYNC} mov.u32 %r1, room; mapa.shared::cluster.u32 %r2, %r1, 1; ld.shared.u32 %r3, [%r2]; ret;"
        ),
        Check::Bounds,
        "only the block's own",
    );
    reported(
        2,
        &format!(
            "{SYNC} mov.u32 %r1, room; mapa.shared::cluster.u32 %r2, %r1, 1; st.shared::cluster.u32 [%r2+512], %r1; {SYNC} ret;"
        ),
        Check::Bounds,
        "past the 512 bytes",
    );
    reported(
        2,
        &format!("{SYNC} mov.u32 %r1, room; xor.b32 %r4, %rank, 1; mapa.shared::cluster.u32 %r2, %r1, %r4; mad.lo.u32 %r2, %t, 4, %r2;
                  ld.shared::cluster.u32 %r3, [%r2]; st.global.u32 [%out], %r3; {SYNC} ret;"),
        Check::UninitMemory,
        "never written",
    );
    // The other block has gone: it does not even wait.
    reported(
        2,
        "mov.u32 %r1, room; barrier.cluster.arrive; barrier.cluster.wait; setp.eq.u32 %p1, %rank, 1; @%p1 ret;
         mov.u32 %r4, 0; LOOP: add.u32 %r4, %r4, 1; setp.lt.u32 %p2, %r4, 20000; @%p2 bra LOOP;
         mapa.shared::cluster.u32 %r2, %r1, 1; st.shared::cluster.u32 [%r2], %r4; ret;",
        Check::UseAfterFree,
        "which has exited",
    );
    // Only the block itself waits at its mbarrier.
    reported(
        2,
        &format!("mov.u32 %r1, room; setp.eq.u32 %p1, %t, 0; @%p1 mbarrier.init.shared.b64 [%r1], 32; {SYNC}
                  xor.b32 %r4, %rank, 1; cvta.shared.u64 %rd1, room; mapa.u64 %rd2, %rd1, %r4;
                  mbarrier.test_wait.parity.b64 %p1, [%rd2], 0; {SYNC} ret;"),
        Check::Bounds,
        "other blocks can arrive at it",
    );
}

#[test]
fn a_grid_that_no_cluster_divides() {
    match try_run(2, 3, "ret;") {
        Err(RunError::Cluster { grid, cluster }) => {
            assert_eq!((grid, cluster), ([3, 1, 1], [2, 1, 1]));
        }
        other => panic!("{other:?}"),
    }
}
