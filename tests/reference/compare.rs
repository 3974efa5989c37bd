//! The yardstick itself.

use kv_kernels::reference::{Comparison, Tolerance};

#[test]
fn equal_results_do_not_differ() {
    let x = [1.0, -2.0, f64::NEG_INFINITY, f64::NAN, 0.0];
    let same = Comparison::of(&x, &x).unwrap();
    assert_eq!(
        (same.max_abs, same.relative_l2, same.cosine),
        (0.0, 0.0, 1.0)
    );
    assert_eq!(same.snr_db(), f64::INFINITY);
    assert!(same.within(Tolerance::F16));
    let none = Comparison::of::<f64>(&[], &[]).unwrap();
    assert!(none.within(Tolerance::F16));
}

#[test]
fn the_worst_is_the_worst_for_its_size() {
    let found = [0.0, 1002.0, 0.5];
    let expected = [0.0, 1000.0, 0.4];
    let comparison = Comparison::of(&found, &expected).unwrap();
    assert_eq!((comparison.worst, comparison.max_abs), (2, 2.0));
    assert!((comparison.max_scaled - 0.1 / 1.4).abs() < 1e-15);
    assert!(!comparison.within(Tolerance::BF16));
    let near = Comparison::of(&[1000.5f64, 1.0], &[1000.0, 1.0]).unwrap();
    assert!(near.within(Tolerance::BF16) && near.max_scaled < 1e-3);
    // The elementwise bar of f16 is met, that of the norm is not.
    let shifted = Comparison::of(&[1.0015f64], &[1.0]).unwrap();
    assert!(shifted.max_scaled <= 1e-3 && !shifted.within(Tolerance::F16));
}

#[test]
fn what_is_not_finite_is_never_near() {
    for found in [f32::NAN, f32::INFINITY] {
        let comparison = Comparison::of(&[1.0, found], &[1.0, 2.0]).unwrap();
        assert_eq!(comparison.worst, 1);
        assert!(!comparison.within(Tolerance::BF16), "{comparison}");
    }
    let comparison = Comparison::of(&[0.0f32], &[f64::NEG_INFINITY]).unwrap();
    assert!(!comparison.within(Tolerance::BF16));
    let wrong_zero = Comparison::of(&[1e-3f32], &[0.0]).unwrap();
    assert!(!wrong_zero.within(Tolerance::BF16));
    assert_eq!(
        Comparison::of(&[0.0f32], &[]).unwrap_err().to_string(),
        "found has 1 elements where expected asks for 0"
    );
}
