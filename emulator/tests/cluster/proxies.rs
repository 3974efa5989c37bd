//! The proxy fences that bulk operations need.

use super::asynchronous::{FILL, WAIT, kernel, left, random, reported};
use super::*;

/// Block 1 writes its room in the ordinary way, and thread 0 copies that to global memory in bulk; `writer` is done
/// between writing and meeting at the barrier `meeting`, `issuer` after it.
fn handed_over(writer: &str, meeting: &str, issuer: &str) -> String {
    let body = format!(
        "mad.lo.u32 %at, %t, 8, %mine; st.shared.b64 [%at], 7; {writer} {meeting} {issuer}
         @%p0 cp.async.bulk.global.shared::cta.bulk_group [%out], [%mine], 256;
         cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;"
    );
    kernel("", 0, &format!("@%p3 bra END; {body} END:"))
}

#[test]
fn a_bulk_copy_of_ordinary_writes_needs_a_proxy_fence() {
    let barrier = "bar.sync 0;";
    for fence in [
        "fence.proxy.async;",
        "fence.proxy.async.shared::cta;",
        "fence.proxy.async.shared::cluster;",
        "membar.proxy.async;",
    ] {
        // In the threads that write, or in the one that issues.
        for text in [
            handed_over(fence, barrier, ""),
            handed_over("", barrier, fence),
            handed_over("", barrier, &format!("@%p0 {fence}")),
            handed_over(fence, "bar.warp.sync 0xffffffff;", ""),
        ] {
            let found = left(&text, &[1; 16], &[0; 256]);
            assert_eq!(found, 7u64.to_le_bytes().repeat(32));
        }
    }
    let missing = "no fence.proxy.async between them";
    for (writer, issuer) in [
        ("", ""),
        // Of other proxies, of another state space, or no fence of proxies at all.
        ("fence.proxy.alias;", ""),
        ("fence.proxy.async.global;", ""),
        ("membar.cta;", "fence.acq_rel.gpu;"),
        // Not by all that wrote.
        ("@%p0 fence.proxy.async;", ""),
        // By none that is ordered after the writes and before the copy.
        (
            "setp.eq.u32 %p5, %t, 5; st.shared.b64 [%at], 7;",
            "@%p5 fence.proxy.async;",
        ),
        // Before the last write.
        ("fence.proxy.async; st.shared.b64 [%at], 7;", ""),
    ] {
        let text = handed_over(writer, barrier, issuer);
        reported(&text, Check::AsyncCopy, missing);
    }
}

#[test]
fn a_thread_copies_what_it_wrote_itself() {
    let alone = |fence: &str| {
        let body = format!(
            "setp.eq.and.u32 %p5, %t, 9, %p1; @!%p5 bra END; st.shared.v4.u32 [%mine], {{1, 2, 3, 4}};
             st.shared.v4.u32 [%mine+16], {{5, 6, 7, 8}}; {fence}
             cp.async.bulk.global.shared::cta.bulk_group [%out], [%mine], 32;
             cp.async.bulk.commit_group; cp.async.bulk.wait_group 0; END:"
        );
        kernel("", 0, &body)
    };
    let found = left(&alone("fence.proxy.async;"), &[1; 16], &[0; 32]);
    assert_eq!(
        found.chunks(4).map(|c| c[0]).collect::<Vec<_>>(),
        [1, 2, 3, 4, 5, 6, 7, 8]
    );
    reported(&alone(""), Check::AsyncCopy, "no fence.proxy.async");
}

#[test]
fn what_a_bulk_copy_brought_needs_no_fence_and_what_came_after_does() {
    let forward = |between: &str| {
        let body = format!(
            "@%p3 bra END; @%p0 cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%mine], [%in], 256, [bar];
             {WAIT} {between}
             @%p0 cp.async.bulk.global.shared::cta.bulk_group [%out], [%mine], 256;
             cp.async.bulk.commit_group; cp.async.bulk.wait_group 0; END:"
        );
        kernel("", 256, &body)
    };
    let input = random(256, 12);
    assert_eq!(left(&forward(""), &input, &[0; 256]), input);
    // Ordinary reads want no fence either: the completion that they waited for brings one.
    let read = "mad.lo.u32 %at, %t, 8, %mine; ld.shared.b64 %d1, [%at]; st.shared.b64 [more], %d1;";
    assert_eq!(left(&forward(read), &input, &[0; 256]), input);
    let change = "@%p0 st.shared.u8 [room+100], 5; bar.sync 0;";
    reported(&forward(change), Check::AsyncCopy, "shared address 0x64");
    let mut changed = input.clone();
    changed[100] = 5;
    let fenced = "@%p0 st.shared.u8 [room+100], 5; fence.proxy.async; bar.sync 0;";
    assert_eq!(left(&forward(fenced), &input, &[0; 256]), changed);
}

#[test]
fn a_fence_in_between_counts() {
    // Warp 0 writes, warp 1 fences, warp 2 issues, one barrier after another; a fence that no barrier orders does not.
    let relay = |fence: &str, second: &str| {
        format!(
            ".version 8.7\n.target sm_90\n.address_size 64
.visible .entry k(.param .u64 pin, .param .u64 pout) {{
    .reg .pred %p<4>; .reg .b32 %r<8>; .reg .b64 %d<4>; .shared .align 16 .b8 room[128];
    ld.param.u64 %d1, [pout]; mov.u32 %r1, %tid.x; shr.u32 %r2, %r1, 5; mov.u32 %r3, room; mad.lo.u32 %r4, %r1, 4, %r3;
    setp.eq.u32 %p0, %r2, 0; setp.eq.u32 %p1, %r2, 1; setp.eq.u32 %p2, %r1, 64;
    @%p0 st.shared.u32 [%r4], %r1; bar.sync 0; @%p1 {fence} {second}
    @%p2 cp.async.bulk.global.shared::cta.bulk_group [%d1], [%r3], 128;
    @%p2 cp.async.bulk.commit_group; @%p2 cp.async.bulk.wait_group 0; bar.sync 0; ret; }}"
        )
    };
    let go = |text: &str, seed| {
        let setup = Setup {
            block: [96, 1, 1],
            seed: Some(seed),
            threads: 1,
            ..Setup::default()
        };
        run(text, "k", &[Arg::Uninit(1), Arg::Uninit(256)], &setup)
    };
    for seed in 0..10 {
        let done =
            go(&relay("fence.proxy.async;", "bar.sync 0;"), seed).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(done.words(1)[..32], (0..32).collect::<Vec<u32>>());
        for text in [
            relay("fence.proxy.async;", ""),
            relay("membar.cta;", "bar.sync 0;"),
        ] {
            match go(&text, seed) {
                Err(RunError::Fault(fault)) => {
                    assert_eq!(fault.kind, FaultKind::Check(Check::AsyncCopy), "{fault}");
                    assert!(
                        fault.message.contains("which warp 0 lane 0 wrote"),
                        "{fault}"
                    );
                }
                other => panic!("seed {seed}: {other:?}"),
            }
        }
    }
}

#[test]
fn what_is_reduced_into_needs_the_fence_too() {
    let reduce = |fence: &str| {
        let body = "@%p2 cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.add.u32 [%room], [%mine], 256, [%bar];";
        kernel(
            &format!("{FILL} {fence}"),
            256,
            &format!("{body} @%p1 bra NEXT; {WAIT} NEXT:"),
        )
    };
    left(&reduce("fence.proxy.async;"), &[1; 256], &[2; 256]);
    reported(
        &reduce("@%p1 fence.proxy.async;"),
        Check::AsyncCopy,
        "of block 0 of the cluster lane 0 wrote",
    );
}
