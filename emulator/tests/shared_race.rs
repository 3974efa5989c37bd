//! The race check of shared memory: what lanes of a warp and warps of a block do to the same bytes, and to different
//! bytes of the same word, with and without what orders them.

mod warp;

use ptx_emulator::check::{Check, FaultKind};
use ptx_emulator::run::{RunError, Setup};
use warp::{Lanes, lanes, reported, try_lanes};

/// Sixteen words in shared memory, written and ordered; `%b` is their address, `%p0` to `%p3` are lanes 0 to 3.
const WORDS: &str = "
    .shared .align 16 .b8 words[64];
    .reg .b32 %b; .reg .b32 %own; .reg .b16 %h;
    mov.u32 %b, words;
    and.b32 %t1, %t0, 15;
    shl.b32 %t1, %t1, 2;
    add.u32 %own, %b, %t1;
    setp.lt.u32 %p6, %t0, 16;
    @%p6 st.shared.u32 [%own], 0;
    bar.sync 0;
    mov.b16 %h, 7;
    setp.eq.u32 %p0, %t0, 0;
    setp.eq.u32 %p1, %t0, 1;
    setp.eq.u32 %p2, %t0, 2;
    setp.eq.u32 %p3, %t0, 3;
";

/// Nothing is reported.
#[track_caller]
fn silent(body: &str) {
    if let Err(error) = try_lanes(&format!("{WORDS}{body}"), &[], 0, &Setup::default()) {
        panic!("{error}\n{body}");
    }
}

/// A race is reported, in words that contain `text`.
#[track_caller]
fn race(body: &str, text: &str) {
    reported(&format!("{WORDS}{body}"), &[], 0, Check::SharedRace, text);
}

#[test]
fn different_bytes_of_a_word_are_no_race() {
    silent(
        "@%p0 st.shared.u8 [%b], %h;
        @%p1 st.shared.u8 [%b+1], %h;
        @%p2 ld.shared.u8 %t2, [%b+2];
        @%p3 st.shared.u8 [%b+3], %h;",
    );
    silent(
        "@%p0 st.shared.u16 [%b+2], %h;
        @%p1 ld.shared.u16 %t2, [%b];",
    );
    // Reads first.
    silent(
        "@%p0 ld.shared.u16 %t2, [%b];
        @%p1 st.shared.u16 [%b+2], %h;
        @%p2 ld.shared.u8 %t2, [%b+1];",
    );
}

#[test]
fn the_same_byte_is_a_race() {
    race(
        "@%p0 st.shared.u8 [%b+1], %h;
        @%p1 ld.shared.u8 %t2, [%b+1];",
        "read at shared address 0x1 by warp 0 lane 1 races with a write by lane 0 of the same warp: no __syncwarp",
    );
    race(
        "@%p0 ld.shared.u8 %t2, [%b+2];
        @%p1 st.shared.u8 [%b+2], %h;",
        "write at shared address 0x2 by warp 0 lane 1 races with a read by lane 0 of the same warp",
    );
    race(
        "@%p0 st.shared.u16 [%b+2], %h;
        @%p1 st.shared.u8 [%b+3], %h;",
        "write at shared address 0x3 by warp 0 lane 1",
    );
    // In step with each other, but with nothing that says so.
    race(
        "add.u32 %t2, %b, %t0;
        st.shared.u8 [%t2], %h;
        xor.b32 %t3, %t0, 1;
        add.u32 %t3, %b, %t3;
        ld.shared.u8 %t2, [%t3];",
        "lane 0 races with a write by lane 1 of the same warp",
    );
}

#[test]
fn syncwarp_orders_bytes() {
    let body = "add.u32 %t2, %b, %t0;
        cvt.u16.u32 %h, %t0;
        st.shared.u8 [%t2], %h;
        bar.warp.sync 0xffffffff;
        xor.b32 %t3, %t0, 1;
        add.u32 %t3, %b, %t3;
        ld.shared.u8 %o0, [%t3];";
    let out = lanes(&format!("{WORDS}{body}"), &[], 1);
    let want: Lanes = std::array::from_fn(|lane| lane as u32 ^ 1);
    assert_eq!(out, [want]);
}

#[test]
fn a_later_write_of_another_byte_hides_nothing() {
    race(
        "@%p0 st.shared.u8 [%b], %h;
        @%p1 st.shared.u8 [%b+1], %h;
        @%p2 ld.shared.u8 %t2, [%b];",
        "races with a write by lane 0 of the same warp",
    );
    race(
        "@%p0 ld.shared.u8 %t2, [%b];
        @%p1 st.shared.u8 [%b+1], %h;
        @%p2 st.shared.u8 [%b], %h;",
        "races with a read by lane 0 of the same warp",
    );
}

#[test]
fn words_and_their_bytes_go_together() {
    race(
        "@%p0 st.shared.u8 [%b+3], %h;
        @%p1 ld.shared.u32 %t2, [%b];",
        "read at shared address 0x3 by warp 0 lane 1 races with a write by lane 0",
    );
    race(
        "@%p0 st.shared.u32 [%b], %t0;
        @%p1 ld.shared.u8 %t2, [%b+2];",
        "read at shared address 0x2 by warp 0 lane 1 races with a write by lane 0",
    );
    race(
        "@%p0 ld.shared.u8 %t2, [%b+2];
        @%p1 st.shared.v4.u32 [%b], {%t0, %t0, %t0, %t0};",
        "races with a read by lane 0",
    );
    // A word that was written whole, in order, is one again.
    silent(
        "@%p0 st.shared.u8 [%b+3], %h;
        bar.warp.sync 0xffffffff;
        @%p1 st.shared.u32 [%b], %t0;
        @%p1 ld.shared.u8 %t2, [%b+3];
        @%p1 ld.shared.u32 %t2, [%b];
        bar.warp.sync 0xffffffff;
        @%p2 ld.shared.u16 %t2, [%b+2];",
    );
    race(
        "@%p0 st.shared.u8 [%b+3], %h;
        bar.warp.sync 0xffffffff;
        @%p1 st.shared.u32 [%b], %t0;
        @%p2 ld.shared.u16 %t2, [%b+2];",
        "races with a write by lane 1",
    );
}

#[test]
fn vectors_touch_all_of_their_words() {
    for word in 0..8 {
        let body = format!(
            "@%p0 st.shared.v2.u16 [%b+{}], {{%h, %h}};
            @%p1 ld.shared.v2.u32 {{%t2, %t3}}, [%b+8];
            @%p1 ld.shared.v4.u32 {{%t2, %t3, %t4, %t5}}, [%b+16];",
            4 * word
        );
        if word < 2 {
            silent(&body);
        } else {
            race(&body, "races with a write by lane 0");
        }
    }
}

/// Two warps, of which the second waits for the first's arrival.
fn handed_over(first_after: &str, second_after: &str) -> Result<(), RunError> {
    let body = format!(
        "{WORDS}
        setp.lt.u32 %p4, %t0, 32;
        setp.eq.u32 %p5, %t0, 32;
        @!%p4 bra SECOND;
        @%p0 ld.shared.u32 %t2, [%b];
        bar.arrive 1, 64;
        {first_after}
        bra DONE;
SECOND:
        bar.sync 1, 64;
        {second_after}
DONE:"
    );
    let setup = Setup {
        block: [64, 1, 1],
        ..Setup::default()
    };
    try_lanes(&body, &[], 0, &setup).map(|_| ())
}

#[test]
fn arrival_orders_what_came_before_it_alone() {
    let write = "@%p5 st.shared.u32 [%b], %t0;";
    handed_over("", write).expect("the read comes before the arrival");
    handed_over("@%p0 ld.shared.u32 %t2, [%b+4];", write).expect("another word");
    for after in [
        "@%p0 ld.shared.u32 %t2, [%b];",
        "@%p1 ld.shared.u8 %t2, [%b+3];",
    ] {
        match handed_over(after, write) {
            Err(RunError::Fault(fault)) => {
                assert_eq!(fault.kind, FaultKind::Check(Check::SharedRace), "{fault}");
                assert!(fault.message.contains("warp 0: no barrier"), "{fault}");
            }
            other => panic!("{after}: {:?}", other.err()),
        }
    }
}
