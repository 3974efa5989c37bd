//! `shfl`, `vote`, `match`, `redux`, `elect` against the PTX ISA's words.

mod warp;

use ptx_emulator::check::{Check, Checks};
use ptx_emulator::run::Setup;
use warp::{Lanes, Random, lanes as run, refused, reported};

/// The ISA's pseudo-code for `shfl`: source lane and predicate.
fn source_lane(mode: &str, lane: i32, b: u32, c: u32) -> (usize, bool) {
    let bval = (b & 31) as i32;
    let cval = (c & 31) as i32;
    let mask = (c >> 8 & 31) as i32;
    let max_lane = (lane & mask) | (cval & !mask);
    let min_lane = lane & mask;
    let (j, p) = match mode {
        "up" => (lane - bval, lane - bval >= max_lane),
        "down" => (lane + bval, lane + bval <= max_lane),
        "bfly" => (lane ^ bval, (lane ^ bval) <= max_lane),
        _ => {
            let j = min_lane | (bval & !mask);
            (j, j <= max_lane)
        }
    };
    (if p { j } else { lane } as usize, p)
}

#[test]
fn shuffles_of_every_mode_segment_and_clamp() {
    let mut random = Random(7);
    for mode in ["up", "down", "bfly", "idx"] {
        for segment in [0u32, 0x10, 0x18, 0x1c, 0x1e, 0x1f, 0x05] {
            for clamp in [0u32, 3, 7, 15, 31] {
                let a = random.lanes();
                // Bits above the fifth do not count, in either operand.
                let b: Lanes = std::array::from_fn(|_| random.word());
                let c: Lanes = [segment << 8 | clamp | 0xffff_0000; 32];
                let body = format!(
                    "shfl.sync.{mode}.b32 %o0|%p0, %i0, %i1, %i2, 0xffffffff;\nselp.b32 %o1, 1, 0, %p0;"
                );
                let out = run(&body, &[a, b, c], 2);
                for lane in 0..32 {
                    let (j, p) = source_lane(mode, lane as i32, b[lane], c[lane]);
                    assert_eq!(
                        out[0][lane], a[j],
                        "{mode} segment {segment:#x} clamp {clamp} lane {lane}"
                    );
                    assert_eq!(
                        out[1][lane],
                        u32::from(p),
                        "{mode} segment {segment:#x} clamp {clamp} lane {lane}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_shuffle_may_write_its_source() {
    let a: Lanes = std::array::from_fn(|l| l as u32);
    let out = run(
        "mov.b32 %o0, %i0;\nshfl.sync.bfly.b32 %o0, %o0, 1, 0x1f, -1;",
        &[a],
        1,
    );
    assert_eq!(out[0], a.map(|x| x ^ 1));
}

#[test]
fn shuffles_inside_two_halves_that_diverged() {
    // Each half shuffles on its own path with its own mask.
    let a: Lanes = std::array::from_fn(|l| 100 + l as u32);
    let body = "
        setp.lt.u32 %p0, %t0, 16;
        @%p0 bra LOW;
        shfl.sync.idx.b32 %o0, %i0, 31, 0x1f, 0xffff0000;
        bra DONE;
    LOW:
        shfl.sync.idx.b32 %o0, %i0, 3, 0x1f, 0x0000ffff;
    DONE:";
    let out = run(body, &[a], 1);
    assert_eq!(
        out[0],
        std::array::from_fn(|l| if l < 16 { 103 } else { 131 })
    );
}

#[test]
fn one_instruction_with_a_mask_for_each_half() {
    let a: Lanes = std::array::from_fn(|l| l as u32);
    let masks: Lanes = std::array::from_fn(|l| if l < 16 { 0xffff } else { 0xffff_0000 });
    let out = run(
        "shfl.sync.down.b32 %o0, %i0, 1, 0x100f, %i1;",
        &[a, masks],
        1,
    );
    let want: Lanes = std::array::from_fn(|l| if l % 16 == 15 { l as u32 } else { l as u32 + 1 });
    assert_eq!(out[0], want);
}

#[test]
fn lanes_that_come_by_different_paths_meet_at_the_instruction() {
    let a: Lanes = std::array::from_fn(|l| l as u32);
    let body = "
        setp.lt.u32 %p0, %t0, 7;
        mov.u32 %t1, 0;
        @%p0 bra AHEAD;
        add.u32 %t1, %t1, 1;
    AHEAD:
        shfl.sync.bfly.b32 %o0, %i0, 16, 0x1f, 0xffffffff;";
    assert_eq!(run(body, &[a], 1)[0], a.map(|x| x ^ 16));
}

#[test]
fn shuffles_with_absent_lanes_are_reported() {
    let a = [1; 32];
    reported(
        "setp.lt.u32 %p0, %t0, 8;\nmov.b32 %o0, 0;\n@%p0 shfl.sync.bfly.b32 %o0, %i0, 16, 0x1f, 0xff;",
        &[a],
        1,
        Check::WarpSync,
        "takes its value from lane 16",
    );
    reported(
        "setp.lt.u32 %p0, %t0, 8;\nmov.b32 %o0, 0;\n@%p0 shfl.sync.bfly.b32 %o0, %i0, 1, 0x1f, 0xfff;",
        &[a],
        1,
        Check::WarpSync,
        "predicated off",
    );
    reported(
        "shfl.sync.bfly.b32 %o0, %i0, 1, 0x1f, 0xff;",
        &[a],
        1,
        Check::WarpSync,
        "does not name them",
    );
    // A lane that exited before.
    reported(
        "setp.eq.u32 %p0, %t0, 5;\n@%p0 exit;\nshfl.sync.idx.b32 %o0, %i0, 5, 0x1f, 0xffffffff;",
        &[a],
        1,
        Check::WarpSync,
        "which has exited",
    );
}

#[test]
fn a_reduction_over_lanes_that_are_left_after_an_exit() {
    // Lanes named in the mask that have exited are not waited for.
    let a: Lanes = std::array::from_fn(|l| 1 << l);
    let body = "setp.ge.u32 %p0, %t0, 20;\n@%p0 exit;\nredux.sync.or.b32 %o0, %i0, 0xffffffff;";
    let out = run(body, &[a], 1);
    assert!(out[0][..20].iter().all(|&x| x == 0xf_ffff));
    assert_eq!(out[0][20], 0xdead_beef);
}

#[test]
fn votes() {
    for ballot in [0u32, u32::MAX, 1, 0x8000_0000, 0x0f0f_1234] {
        let a: Lanes = std::array::from_fn(|l| ballot >> l & 1);
        let body = "
            setp.ne.u32 %p0, %i0, 0;
            vote.sync.all.pred %p1, %p0, 0xffffffff;
            vote.sync.any.pred %p2, %p0, 0xffffffff;
            vote.sync.uni.pred %p3, %p0, 0xffffffff;
            vote.sync.ballot.b32 %o3, %p0, 0xffffffff;
            vote.sync.ballot.b32 %o4, !%p0, 0xffffffff;
            vote.sync.all.pred %p4, !%p0, 0xffffffff;
            selp.b32 %o0, 1, 0, %p1;
            selp.b32 %o1, 1, 0, %p2;
            selp.b32 %o2, 1, 0, %p3;
            selp.b32 %o5, 1, 0, %p4;";
        let out = run(body, &[a], 6);
        assert_eq!(out[0], [u32::from(ballot == u32::MAX); 32]);
        assert_eq!(out[1], [u32::from(ballot != 0); 32]);
        assert_eq!(out[2], [u32::from(ballot == 0 || ballot == u32::MAX); 32]);
        assert_eq!(out[3], [ballot; 32]);
        assert_eq!(out[4], [!ballot; 32]);
        assert_eq!(out[5], [u32::from(ballot == 0); 32]);
    }
}

#[test]
fn lanes_outside_a_vote_count_as_zero() {
    let body = "
        setp.lt.u32 %p0, %t0, 5;
        setp.ge.u32 %p1, %t0, 0;
        mov.b32 %o0, 0;
        @%p0 vote.sync.ballot.b32 %o0, %p1, 0x1f;";
    let out = run(body, &[], 1);
    assert_eq!(
        out[0],
        std::array::from_fn(|l| if l < 5 { 0x1f } else { 0 })
    );
}

#[test]
fn matches() {
    let a: Lanes = std::array::from_fn(|l| (l as u32 * 7) % 5);
    let out = run("match.any.sync.b32 %o0, %i0, 0xffffffff;", &[a], 1);
    for l in 0..32 {
        let want = (0..32)
            .filter(|&k| a[k] == a[l])
            .fold(0u32, |m, k| m | 1 << k);
        assert_eq!(out[0][l], want);
    }
    let body = "
        match.all.sync.b32 %o0|%p0, %i0, 0xffffffff;
        match.all.sync.b32 %o1|%p1, %i1, 0xffffffff;
        selp.b32 %o2, 1, 0, %p0;
        selp.b32 %o3, 1, 0, %p1;
        match.all.sync.b32 %o4, %i1, 0xffffffff;";
    let out = run(body, &[a, [9; 32]], 5);
    assert_eq!(out[0], [0; 32]);
    assert_eq!(out[1], [u32::MAX; 32]);
    assert_eq!(out[2], [0; 32]);
    assert_eq!(out[3], [1; 32]);
    assert_eq!(out[4], [u32::MAX; 32]);
    // 64 bits: equal low halves do not match where the high halves differ.
    let high: Lanes = std::array::from_fn(|l| l as u32 & 1);
    let body = "mov.b64 %d0, {%i0, %i1};\nmatch.any.sync.b64 %o0, %d0, 0xffffffff;";
    let out = run(body, &[[3; 32], high], 1);
    assert_eq!(
        out[0],
        std::array::from_fn(|l| if l % 2 == 0 { 0x5555_5555 } else { 0xaaaa_aaaa })
    );
}

#[test]
fn reductions() {
    let mut random = Random(3);
    let a = random.lanes();
    let signed = a.map(|x| x as i32);
    let cases: [(&str, u32); 8] = [
        ("add.u32", a.iter().fold(0, |x: u32, y| x.wrapping_add(*y))),
        ("add.s32", a.iter().fold(0, |x: u32, y| x.wrapping_add(*y))),
        ("min.u32", a.iter().copied().fold(u32::MAX, u32::min)),
        ("max.u32", a.iter().copied().fold(0, u32::max)),
        (
            "min.s32",
            signed.iter().copied().fold(i32::MAX, i32::min) as u32,
        ),
        (
            "max.s32",
            signed.iter().copied().fold(i32::MIN, i32::max) as u32,
        ),
        ("and.b32", a.iter().fold(u32::MAX, |x, y| x & y)),
        ("xor.b32", a.iter().fold(0, |x, y| x ^ y)),
    ];
    for (op, want) in cases {
        let out = run(&format!("redux.sync.{op} %o0, %i0, 0xffffffff;"), &[a], 1);
        assert_eq!(out[0], [want; 32], "{op}");
    }
    // Two groups in one instruction.
    let masks: Lanes = std::array::from_fn(|l| if l % 2 == 0 { 0x5555_5555 } else { 0xaaaa_aaaa });
    let ones: Lanes = std::array::from_fn(|l| 1 + l as u32 % 2);
    let out = run("redux.sync.add.u32 %o0, %i0, %i1;", &[ones, masks], 1);
    assert_eq!(
        out[0],
        std::array::from_fn(|l| if l % 2 == 0 { 16 } else { 32 })
    );
}

#[test]
fn election() {
    let body = "
        elect.sync %o0|%p0, 0xffffffff;
        selp.b32 %o1, 1, 0, %p0;
        setp.ge.u32 %p2, %t0, 12;
        mov.b32 %o2, 77;
        setp.ne.u32 %p1, %t0, %t0;
        @%p2 elect.sync _|%p1, 0xfffff000;
        selp.b32 %o2, 1, 0, %p1;";
    let out = run(body, &[], 3);
    assert_eq!(out[0], [0; 32]);
    assert_eq!(out[1], std::array::from_fn(|l| u32::from(l == 0)));
    assert_eq!(out[2], std::array::from_fn(|l| u32::from(l == 12)));
}

#[test]
fn forms_that_are_not_there_are_refused() {
    refused("shfl.bfly.b32 %o0, %t0, 1, 0x1f;", "without .sync");
    refused("vote.ballot.b32 %o0, %p0;", "without .sync");
    refused("redux.sync.min.f32 %o0, %t0, -1;", "sm_100a");
    refused("redux.sync.and.u32 %o0, %t0, -1;", "operation and type");
}

#[test]
fn absent_lanes_pass_where_the_check_is_off() {
    let setup = Setup {
        checks: Checks::ALL.without(Check::WarpSync),
        ..Setup::default()
    };
    let body =
        "setp.eq.u32 %p0, %t0, 5;\n@%p0 exit;\nshfl.sync.idx.b32 %o0, %i0, 5, 0x1f, 0xffffffff;";
    warp::try_lanes(body, &[[1; 32]], 1, &setup)
        .expect("the value is anything, the kernel goes on");
}
