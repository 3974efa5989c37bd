//! Races in global memory between warps that access whole lines of 128 bytes and such that access parts of them.

use super::*;

/// Two warps over two lines, `%rd1` at each lane's word of the first: warp 0 is `%p0`, its first thread `%p2`; warp 1 is
/// `%p1`, its first thread `%p3`.
fn warps(body: &str) -> String {
    let body = format!(
        "    and.b32 %r1, %t, 31;
    shr.u32 %r2, %t, 5;
    mad.wide.u32 %rd1, %r1, 4, %out;
    setp.eq.u32 %p0, %r2, 0;
    setp.eq.u32 %p1, %r2, 1;
    setp.eq.u32 %p2, %t, 0;
    setp.eq.u32 %p3, %t, 32;
{body}
    ret;"
    );
    kernel("", &body)
}

const BYTES: usize = 256;

#[track_caller]
fn silent(body: &str) {
    ok(&warps(body), BYTES, &block(64));
}

/// Whoever of the two comes last is reported, at the granule that begins with byte `at`.
#[track_caller]
fn race(body: &str, at: usize) {
    let found = fault(&warps(body), BYTES, &block(64));
    is(&found, Check::GlobalRace);
    let place = format!("byte {at} of the allocation");
    assert!(found.message.contains(&place), "{found}");
}

#[test]
fn whole_lines_race_with_whole_lines() {
    race(
        "@%p0 st.global.u32 [%rd1+128], %t;
        @%p1 ld.global.u32 %r3, [%rd1+128];",
        128,
    );
    silent(
        "@%p0 st.global.u32 [%rd1+128], %t;
        @%p1 ld.global.u32 %r3, [%rd1];",
    );
    silent(
        "@%p0 ld.global.u32 %r3, [%rd1];
        @%p1 ld.global.u32 %r3, [%rd1];",
    );
    silent(
        "@%p0 st.global.u32 [%rd1], %t;
        bar.sync 0;
        @%p1 st.global.u32 [%rd1], %t;",
    );
}

#[test]
fn what_happened_to_a_line_happened_to_its_parts() {
    race(
        "@%p0 st.global.u32 [%rd1], %t;
        @%p3 ld.global.u8 %r3, [%out+77];",
        72,
    );
    race(
        "@%p0 ld.global.u32 %r3, [%rd1];
        @%p3 st.global.u32 [%out+124], %t;",
        120,
    );
    // The warp's own access to a part is none of the other's.
    race(
        "@%p0 st.global.u32 [%rd1], %t;
        @%p2 ld.global.u32 %r3, [%out+8];
        @%p3 ld.global.u32 %r3, [%out+64];",
        64,
    );
    silent(
        "@%p0 st.global.u32 [%rd1], %t;
        bar.sync 0;
        @%p3 st.global.u32 [%out+8], %t;
        @%p2 ld.global.u32 %r3, [%out+12];",
    );
}

#[test]
fn what_happened_to_parts_of_a_line_is_known_of_the_line() {
    race(
        "@%p2 st.global.u32 [%out+44], %t;
        @%p1 ld.global.u32 %r3, [%rd1];",
        40,
    );
    silent(
        "@%p2 st.global.u32 [%out+44], %t;
        @%p3 st.global.u32 [%out+40], %t;
        @%p3 ld.global.u32 %r3, [%out+128];",
    );
    silent(
        "@%p2 st.global.u32 [%out+44], %t;
        bar.sync 0;
        @%p1 st.global.u32 [%rd1], %t;",
    );
    race(
        "@%p2 st.global.u32 [%out+44], %t;
        bar.sync 0;
        @%p1 st.global.u32 [%rd1], %t;
        @%p2 ld.global.u32 %r3, [%out+100];",
        96,
    );
}

#[test]
fn ranges_across_lines_are_whole_where_they_are() {
    // 32 words from byte 64 on are halves of both lines, two words a lane are both.
    race(
        "@%p0 st.global.u32 [%rd1+64], %t;
        @%p3 ld.global.u32 %r3, [%out+188];",
        184,
    );
    silent(
        "@%p0 st.global.u32 [%rd1+64], %t;
        @%p3 ld.global.u32 %r3, [%out+60];
        @%p3 ld.global.u32 %r3, [%out+192];",
    );
    race(
        "mad.wide.u32 %rd2, %r1, 8, %out;
        @%p0 st.global.v2.u32 [%rd2], {%t, %t};
        @%p3 ld.global.u32 %r3, [%out+200];",
        200,
    );
}
