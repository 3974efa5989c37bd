//! Forms and customs of the toolkit's own headers, each by itself: what CUB, libcu++ and cooperative groups were the
//! first to use.

#[path = "support/mod.rs"]
mod support;
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

#[test]
fn sixteen_bytes_are_exchanged_and_compared_at_once() {
    // Lane 3's compares equal and leaves its number; the others' do not. Then all exchange, one after another.
    let body = |op: &str| {
        format!(
            ".reg .b128 %q<4>;
             setp.eq.u32 %p1, %t0, 3; @!%p1 bra END; mov.b64 %d5, 0x1111222233334444; mov.b64 %d6, 0x5555666677778888;
             mov.b128 %q1, {{%d5, %d6}}; st.relaxed.gpu.global.b128 [%in], %q1;
             add.s64 %d6, %d6, 1; mov.b128 %q2, {{%d6, %d5}}; {op}
             mov.b128 {{%d7, %d8}}, %q0; ld.relaxed.gpu.global.b128 %q0, [%in]; mov.b128 {{%d9, %d10}}, %q0;
             mov.b64 {{%o0, %o1}}, %d7; mov.b64 {{%o2, %o3}}, %d8; mov.b64 {{%o4, %o5}}, %d9; mov.b64 {{%o6, %o7}}, %d10;
             END:"
        )
    };
    let clear: String = (0..8).map(|k| format!("mov.b32 %o{k}, 0;\n")).collect();
    let lane3 = |op: &str| -> Vec<u32> {
        let in_place = "ld.param.u64 %in, [in];";
        let out = lanes(&format!("{clear}{in_place}{}", body(op)), &[[0; 32]; 4], 8);
        out.iter().map(|values| values[3]).collect()
    };
    let old = [0x33334444, 0x11112222, 0x77778888, 0x55556666];
    let new = [0x77778889, 0x55556666, 0x33334444, 0x11112222];
    let both = |first: [u32; 4], second: [u32; 4]| [first, second].concat();
    assert_eq!(
        lane3("atom.global.exch.b128 %q0, [%in], %q2;"),
        both(old, new)
    );
    assert_eq!(
        lane3("atom.global.cas.b128 %q0, [%in], %q1, %q2;"),
        both(old, new)
    );
    // Equal in the lower half alone.
    let differs =
        "mov.b128 %q3, {%d5, %d5}; atom.acq_rel.gpu.global.cas.b128 %q0, [%in], %q3, %q2;";
    assert_eq!(lane3(differs), both(old, old));
    reported(
        ".reg .b128 %q; mov.b64 %d1, 0; mov.b128 %q, {%d1, %d1}; atom.global.exch.b128 %q, [%in+8], %q;",
        &[[0; 32]; 4],
        0,
        Check::Alignment,
        "which the access needs",
    );
}

#[test]
fn sums_in_global_memory_flush_subnormals_and_those_in_shared_memory_do_not() {
    let body = "ld.param.u64 %in, [in]; setp.eq.u32 %p1, %t0, 0; mov.u32 %o0, 0; @!%p1 bra END; mov.u32 %t1, room;
        cvta.shared.u64 %d1, room; st.shared.v2.b32 [%t1], {0x00000001, 0x80000001};
        red.shared.add.f32 [%t1], 0f00000002; atom.add.f32 %t2, [%d1+4], 0f80000002; ld.shared.v2.b32 {%t3, %t4}, [%t1];
        cvta.global.u64 %d2, %in; red.global.add.f32 [%in], 0f00000002; red.add.f32 [%d2+4], 0f80000002;
        red.global.add.v2.f32 [%in+8], {%t3, %t4}; ld.global.v4.b32 {%t5, %t6, %t7, %t8}, [%in];
        setp.ne.b32 %p2, %t3, 3; @%p2 bra END; setp.ne.b32 %p2, %t4, 0x80000003; @%p2 bra END;
        setp.ne.b32 %p2, %t5, 0; @%p2 bra END; setp.ne.b32 %p2, %t6, 0x80000000; @%p2 bra END;
        setp.ne.b32 %p2, %t7, 0; @%p2 bra END; setp.ne.b32 %p2, %t8, 0x3f800000; @%p2 bra END; mov.u32 %o0, 1; END:";
    let text = kernel(body, 0, 1).replace(".visible", &format!("{SHARED}.visible"));
    let args = [
        Arg::words(&[1, 0x8000_0001, 1, 0x3f80_0000]),
        Arg::Uninit(128),
    ];
    let done = run(&text, "k", &args, &Setup::default()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(done.words(1)[0], 1);
}

#[test]
fn additions_by_compare_and_swap_of_sixteen_bytes_from_many_blocks() {
    // A counter in each half, each thread of 8 blocks adds to both at once.
    let body = ".reg .b128 %q<4>; ld.param.u64 %in, [in]; ld.relaxed.gpu.global.b128 %q0, [%in];
        AGAIN: mov.b128 {%d1, %d2}, %q0; add.s64 %d3, %d1, 1; add.s64 %d4, %d2, 3; mov.b128 %q1, {%d3, %d4};
        atom.relaxed.gpu.global.cas.b128 %q2, [%in], %q0, %q1; mov.b128 {%d5, %d6}, %q2; mov.b128 %q0, {%d5, %d6};
        setp.ne.b64 %p1, %d5, %d1; @%p1 bra AGAIN; setp.ne.b64 %p1, %d6, %d2; @%p1 bra AGAIN;";
    for seed in 0..3 {
        let setup = Setup {
            grid: [8, 1, 1],
            seed: Some(seed),
            ..Setup::default()
        };
        let args = [Arg::words(&[0; 4]), Arg::Uninit(1)];
        let text = kernel(body, 0, 0);
        let done = run(&text, "k", &args, &setup).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(done.words(0), [256, 0, 768, 0]);
    }
}

#[test]
fn room_on_the_stack() {
    // Each lane takes as many words as its number and one more, fills them, calls a function that takes room of its own,
    // and adds up what is left: 0 + 1 + … + lane, plus what the function gives, twice.
    let text = ".version 8.0\n.target sm_80\n.address_size 64
.func (.param .b32 r) deep(.param .b32 n) {
    .reg .pred %p; .reg .b32 %r<9>; .reg .b64 %d<9>; .local .b32 own;
    ld.param.b32 %r1, [n]; st.local.b32 [own], %r1; mul.wide.u32 %d1, %r1, 8; add.s64 %d1, %d1, 8; alloca.u64 %d2, %d1, 32;
    and.b64 %d3, %d2, 31; setp.ne.b64 %p, %d3, 0; @%p trap;
    st.local.b32 [%d2], 5; add.s64 %d3, %d2, %d1; st.local.b32 [%d3+-4], 6; ld.local.b32 %r2, [own]; ld.local.b32 %r3, [%d2];
    mad.lo.u32 %r2, %r2, 100, %r3; st.param.b32 [r], %r2; ret;
}
.visible .entry k(.param .u64 in, .param .u64 out) {
    .reg .pred %p; .reg .b32 %r<9>; .reg .b64 %d<9>; .param .b32 a; .param .b32 b;
    mov.u32 %r1, %tid.x; add.u32 %r2, %r1, 1; mul.wide.u32 %d1, %r2, 4; stacksave.u64 %d8; alloca.u64 %d2, %d1;
    cvta.local.u64 %d3, %d2; mov.u32 %r3, 0; mov.b64 %d4, %d3;
FILL: st.b32 [%d4], %r3; add.s64 %d4, %d4, 4; add.u32 %r3, %r3, 1; setp.lt.u32 %p, %r3, %r2; @%p bra FILL;
    mov.u32 %r6, 0;
    { st.param.b32 [a], %r1; call.uni (b), deep, (a); ld.param.b32 %r5, [b]; } add.u32 %r6, %r6, %r5;
    { st.param.b32 [a], %r1; call.uni (b), deep, (a); ld.param.b32 %r5, [b]; } add.u32 %r6, %r6, %r5;
    mov.u32 %r3, 0; mov.b64 %d4, %d2;
SUM: ld.local.b32 %r4, [%d4]; add.u32 %r6, %r6, %r4; add.s64 %d4, %d4, 4; add.u32 %r3, %r3, 1; setp.lt.u32 %p, %r3, %r2; @%p bra SUM;
    stackrestore.u64 %d8; alloca.u64 %d5, %d1; setp.ne.s64 %p, %d5, %d2; @%p trap; MORE
    ld.param.u64 %d6, [out]; mul.wide.u32 %d7, %r1, 4; add.s64 %d6, %d6, %d7; st.global.b32 [%d6], %r6; ret;
}";
    let go = |more: &str| {
        let args = [Arg::Uninit(4), Arg::Uninit(128)];
        run(&text.replace("MORE", more), "k", &args, &Setup::default())
    };
    let done = go("").unwrap_or_else(|e| panic!("{e}"));
    let expected: Vec<u32> = (0..32)
        .map(|l| l * (l + 1) / 2 + 2 * (l * 100 + 5))
        .collect();
    assert_eq!(done.words(1), expected);
    let fault = |more: &str| match go(more) {
        Err(RunError::Fault(fault)) => fault,
        other => panic!("no fault, but {other:?}"),
    };
    // What was given back is unwritten when it is taken again.
    let stale = fault("ld.local.b32 %r6, [%d5];");
    assert_eq!(stale.kind, FaultKind::Check(Check::UninitMemory), "{stale}");
    let much = fault("alloca.u64 %d5, 0x100000;");
    assert!(much.message.contains("stack overflow"), "{much}");
    let odd = fault("mov.b64 %d5, 0x40000; stackrestore.u64 %d5;");
    assert!(odd.message.contains("no stacksave"), "{odd}");
}

#[test]
fn constant_variables_are_told_from_global_ones() {
    let text = ".version 8.0\n.target sm_80\n.address_size 64
.const .align 4 .b32 fixed[3] = {1, 2, 3}; .global .align 4 .b32 loose[3];
.visible .entry k(.param .u64 in, .param .u64 out) {
    .reg .pred %p<3>; .reg .b32 %r<9>; .reg .b64 %d<9>; .shared .b32 room;
    ld.param.u64 %d1, [out]; mov.u32 %r1, 0;
    cvta.const.u64 %d2, fixed; isspacep.const %p1, %d2; @%p1 add.u32 %r1, %r1, 1; isspacep.global %p1, %d2; @%p1 add.u32 %r1, %r1, 2;
    add.s64 %d3, %d2, 11; isspacep.const %p1, %d3; @%p1 add.u32 %r1, %r1, 4; add.s64 %d3, %d2, 12; isspacep.const %p1, %d3; @%p1 add.u32 %r1, %r1, 8;
    cvta.global.u64 %d2, loose; isspacep.const %p1, %d2; @%p1 add.u32 %r1, %r1, 16; isspacep.global %p1, %d2; @%p1 add.u32 %r1, %r1, 32;
    cvta.shared.u64 %d2, room; isspacep.const %p1, %d2; @%p1 add.u32 %r1, %r1, 64; isspacep.global %p1, %d2; @%p1 add.u32 %r1, %r1, 128;
    isspacep.global %p1, %d1; @%p1 add.u32 %r1, %r1, 256; st.global.b32 [%d1], %r1; ret;
}";
    let setup = Setup {
        block: [1, 1, 1],
        ..Setup::default()
    };
    let done =
        run(text, "k", &[Arg::Uninit(4), Arg::Uninit(4)], &setup).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(done.words(1), [1 + 4 + 32 + 256]);
}

#[test]
fn the_compilers_own_uses_of_them() {
    let Some(nvcc) = support::nvcc_or_skip("the_compilers_own_uses_of_them") else {
        return;
    };
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/language.cu");
    let ptx = support::compile(&nvcc, &source, &["-arch=compute_90"], "language");
    for form in ["alloca.u64", "atom.global.cas.b128", "isspacep.const"] {
        assert!(ptx.contains(form), "nvcc makes no {form} of it");
    }
    for seed in [None, Some(1), Some(2), Some(3)] {
        let setup = |grid: u32| Setup {
            grid: [grid, 1, 1],
            seed,
            ..Setup::default()
        };
        let sums = run(&ptx, "digits", &[Arg::Uninit(128), Arg::U32(9)], &setup(1));
        let sums = sums.unwrap_or_else(|e| panic!("{e}"));
        // The digits of lane * lane + 9, by a stack of them that is as deep as asked for.
        let digits = |n: u32| {
            n.to_string()
                .bytes()
                .fold(0, |sum, d| sum * 3 + u32::from(d - b'0'))
        };
        let expected: Vec<u32> = (0..32).map(|l| digits(l * l + 9)).collect();
        assert_eq!(sums.words(0), expected);
        let pair =
            run(&ptx, "both", &[Arg::words(&[0; 4])], &setup(6)).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(pair.words(0), [6 * 32, 0, (0..192).sum(), 0]);
        let spaces =
            run(&ptx, "spaces", &[Arg::Uninit(128)], &setup(1)).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(spaces.words(0)[..4], [1, 2, 1, 2]);
    }
}
