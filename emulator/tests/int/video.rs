//! Scalar video instructions, by the ISA's pseudocode worked by hand.

use super::*;

const MINUS: u64 = 0xffff_ffff;

fn minus(n: u64) -> u64 {
    MINUS - n + 1
}

#[test]
fn sums_differences_and_bounds() {
    for (form, [a, b], want) in [
        ("vadd.u32.u32.u32 %d, %a, %b;", [MINUS, 2], 1),
        ("vadd.u32.u32.u32.sat %d, %a, %b;", [MINUS, 2], MINUS),
        (
            "vadd.s32.s32.s32.sat %d, %a, %b;",
            [0x7fff_ffff, 1],
            0x7fff_ffff,
        ),
        ("vadd.u32.s32.s32.sat %d, %a, %b;", [minus(5), 3], 0),
        // 255 − 32768, and −32768 − 65535.
        (
            "vadd.s32.u32.s32.sat %d, %a.b0, %b.h0;",
            [0x1234_56ff, 0x0001_8000],
            minus(32513),
        ),
        (
            "vsub.s32.s32.u32.sat %d, %a.h1, %b.h1;",
            [0x8000_0000, 0xffff_0000],
            minus(98303),
        ),
        ("vsub.u32.u32.u32 %d, %a, %b;", [1, 2], MINUS),
        ("vsub.u32.u32.u32.sat %d, %a, %b;", [1, 2], 0),
        ("vabsdiff.u32.u32.u32 %d, %a, %b;", [3, 10], 7),
        // The farthest apart that two signed numbers are, unsigned and saturated.
        (
            "vabsdiff.u32.s32.s32 %d, %a, %b;",
            [0x8000_0000, 0x7fff_ffff],
            MINUS,
        ),
        (
            "vabsdiff.s32.s32.s32.sat %d, %a, %b;",
            [0x8000_0000, 0x7fff_ffff],
            0x7fff_ffff,
        ),
        ("vmin.s32.s32.u32 %d, %a, %b;", [minus(1), 1], minus(1)),
        ("vmin.u32.u32.u32 %d, %a, %b;", [minus(1), 1], 1),
        (
            "vmax.s32.s32.s32 %d, %a.b3, %b.b1;",
            [0x8000_0000, 0x0000_fe00],
            minus(2),
        ),
        (
            "vmax.u32.u32.u32 %d, %a.b3, %b.b1;",
            [0x8000_0000, 0x0000_fe00],
            0xfe,
        ),
    ] {
        table(form, W, &[W, W], &[(&[a, b], want)]);
    }
}

#[test]
fn second_operations_and_places() {
    for (form, [a, b, c], want) in [
        (
            "vmin.s32.s32.s32.sat.add %d, %a, %b, %c;",
            [minus(5), 3, 10],
            5,
        ),
        ("vadd.u32.u32.u32.max %d, %a, %b, %c;", [1, 2, 10], 10),
        (
            "vadd.s32.s32.s32.min %d, %a, %b, %c;",
            [1, 2, minus(10)],
            minus(10),
        ),
        ("vadd.u32.u32.u32.min %d, %a, %b, %c;", [1, 2, minus(10)], 3),
        // −128 and 127 are 255 apart, which a half holds and a signed byte does not.
        (
            "vabsdiff.s32.s32.s32.sat %d.h0, %a.b0, %b.b2, %c;",
            [0x80, 0x7f_0000, 0xaaaa_bbbb],
            0xaaaa_00ff,
        ),
        (
            "vabsdiff.s32.s32.s32.sat %d.b3, %a.b0, %b.b2, %c;",
            [0x80, 0x7f_0000, 0xaaaa_bbbb],
            0x7faa_bbbb,
        ),
        (
            "vadd.u32.u32.u32 %d.b1, %a, %b, %c;",
            [300, 0, 0x1122_3344],
            0x1122_2c44,
        ),
        (
            "vadd.u32.u32.u32.sat %d.b1, %a, %b, %c;",
            [300, 0, 0x1122_3344],
            0x1122_ff44,
        ),
        (
            "vadd.s32.s32.s32.sat %d.h1, %a, %b, %c;",
            [minus(40000), 0, 0x1122_3344],
            0x8000_3344,
        ),
        ("vset.u32.u32.lt.add %d, %a, %b, %c;", [1, 2, 10], 11),
        (
            "vset.s32.s32.gt %d.b2, %a, %b, %c;",
            [1, minus(2), 0x1122_3344],
            0x1101_3344,
        ),
    ] {
        table(form, W, &[W, W, W], &[(&[a, b, c], want)]);
    }
}

#[test]
fn comparisons_and_shifts() {
    for (form, [a, b], want) in [
        ("vset.s32.u32.lt %d, %a, %b;", [minus(1), 0], 1),
        ("vset.u32.u32.lt %d, %a, %b;", [minus(1), 0], 0),
        ("vset.u32.u32.ne %d, %a, %b.h1;", [5, 0x0005_0000], 0),
        ("vset.u32.u32.eq %d, %a, %b.h1;", [5, 0x0005_0000], 1),
        ("vset.s32.s32.le %d, %a, %b;", [3, 3], 1),
        ("vset.s32.s32.ge %d, %a, %b;", [minus(4), minus(3)], 0),
        ("vshl.u32.u32.u32.clamp %d, %a, %b;", [1, 33], 0),
        ("vshl.u32.u32.u32.sat.clamp %d, %a, %b;", [1, 33], MINUS),
        ("vshl.u32.u32.u32.wrap %d, %a, %b;", [1, 33], 2),
        (
            "vshl.s32.s32.u32.sat.clamp %d, %a, %b;",
            [minus(1), 40],
            0x8000_0000,
        ),
        (
            "vshr.u32.u32.u32.wrap %d, %a, %b.h1;",
            [0x8000_0000, 0x0021_0000],
            0x4000_0000,
        ),
        (
            "vshr.s32.s32.u32.clamp %d, %a, %b;",
            [0x8000_0000, 40],
            MINUS,
        ),
        ("vshr.u32.u32.u32.clamp %d, %a, %b;", [0x8000_0000, 40], 0),
    ] {
        table(form, W, &[W, W], &[(&[a, b], want)]);
    }
}

#[test]
fn products() {
    for (form, [a, b, c], want) in [
        ("vmad.u32.u32.u32 %d, %a, %b, %c;", [MINUS, 2, 0], MINUS - 1),
        ("vmad.u32.u32.u32.sat %d, %a, %b, %c;", [MINUS, 2, 0], MINUS),
        // −3 · 5 − 7, 10 − 2 · 3, and a product less an unsigned number.
        (
            "vmad.s32.s32.u32.sat %d, %a, %b, -%c;",
            [minus(3), 5, 7],
            minus(22),
        ),
        ("vmad.s32.u32.u32 %d, -%a, %b, %c;", [2, 3, 10], 4),
        (
            "vmad.s32.u32.u32 %d, %a, -%b, %c;",
            [2, 3, minus(10)],
            minus(16),
        ),
        ("vmad.s32.u32.u32 %d, %a, %b, -%c;", [2, 3, 1], 5),
        ("vmad.u32.u32.u32.po %d, %a, %b, %c;", [1, 2, 3], 6),
        // (65535² + 32767) / 2^15, and the mean of two bytes, rounded up.
        (
            "vmad.u32.u32.u32.shr15 %d, %a.h0, %b.h0, %c;",
            [0xffff, 0xffff, 0x7fff],
            0x1_fffd,
        ),
        (
            "vmad.s32.s32.s32.shr7 %d, %a, %b, %c;",
            [minus(1), 1, 0],
            MINUS,
        ),
        (
            "vmad.s32.s32.s32.sat.shr7 %d, %a, %b, %c;",
            [0x7fff_ffff, 0x7fff_ffff, 0],
            0x7fff_ffff,
        ),
    ] {
        table(form, W, &[W, W, W], &[(&[a, b, c], want)]);
    }
}

#[test]
fn odd_forms_are_refused() {
    for (form, reason) in [
        ("vadd.u32.u32.u32 %d.b0, %a, %b;", "operands"),
        (
            "vadd.u32.u32.u32.add %d.b0, %a, %b, %c;",
            "part of the destination",
        ),
        ("vadd.u32.u32.u32 %d, -%a, %b;", "negated"),
        ("vmad.u32.u32.u32.po %d, %a, %b, -%c;", "negated"),
        ("vmad.u32.u32.u32 %d, -%a, %b, -%c;", "negated"),
        ("vshl.u32.u32.u32 %d, %a, %b;", ".clamp"),
        ("vadd.u16.u32.u32 %d, %a, %b;", "types"),
        ("vset.u32.u32.equ %d, %a, %b;", "comparison"),
        ("add.u32 %d, %a.b0, %b;", "no value"),
        ("add.u32 %d.h0, %a, %b;", "not a register"),
    ] {
        let said = refused(form, &[W], &[W, W, W]);
        assert!(said.contains(reason), "`{form}`: {said}");
    }
}
