//! e4m3, exhaustively.

use kv_kernels::reference::F8E4M3;

#[test]
fn landmarks() {
    for (bits, value) in [
        (0x00, 0.0),
        (0x01, 1.0 / 512.0),
        (0x07, 7.0 / 512.0),
        (0x08, 1.0 / 64.0),
        (0x38, 1.0),
        (0x3c, 1.5),
        (0x7e, 448.0),
        (0xb8, -1.0),
        (0xfe, -448.0),
    ] {
        assert_eq!(F8E4M3(bits).to_f32(), value);
        assert_eq!(F8E4M3::from_f32(value), F8E4M3(bits));
    }
    assert_eq!(F8E4M3::from_f32(-0.0), F8E4M3(0x80));
    assert!(F8E4M3(0x7f).to_f32().is_nan() && F8E4M3(0xff).to_f32().is_nan());
    assert_eq!(F8E4M3::from_f32(f32::NAN), F8E4M3::NAN);
    assert_eq!(F8E4M3::from_f32(-f32::NAN), F8E4M3::NAN);
    for (value, bits) in [
        (449.0, 0x7e),
        (1e30, 0x7e),
        (f32::INFINITY, 0x7e),
        (f32::NEG_INFINITY, 0xfe),
    ] {
        assert_eq!(F8E4M3::from_f32(value), F8E4M3(bits));
    }
}

/// Every value, the middle between every two, and what lies just beside.
#[test]
fn rounding() {
    let near = |value: f32, step: i32| f32::from_bits((value.to_bits() as i32 + step) as u32);
    for bits in 0..0x7e {
        let (low, high) = (F8E4M3(bits), F8E4M3(bits + 1));
        assert!(low.to_f32() < high.to_f32());
        let middle = (low.to_f32() + high.to_f32()) / 2.0;
        let even = if bits % 2 == 0 { low } else { high };
        for (value, expected) in [
            (low.to_f32(), low),
            (near(middle, -1), low),
            (middle, even),
            (near(middle, 1), high),
            (high.to_f32(), high),
        ] {
            assert_eq!(F8E4M3::from_f32(value), expected, "{value:e}");
            let negative = F8E4M3(expected.0 | 0x80);
            assert_eq!(F8E4M3::from_f32(-value), negative, "-{value:e}");
        }
    }
}
