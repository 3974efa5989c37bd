//! Branches, loops, calls and exits.

use super::*;

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
