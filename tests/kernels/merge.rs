//! merge: parts of a sequence attended to one by one, and merged, are the whole.

use half::{bf16, f16};
use kv_kernels::Partials;
use kv_kernels::reference::{self, Comparison, Partial, Tolerance};
use proptest::prelude::*;

use crate::harness::{Device, Number, device, download, numbers, upload};

/// Merges random parts on the device and in the oracle. `absent` says which (part, row) have no token: their outputs
/// are NaN.
fn check<T: Number>(partials: Partials, seed: u64, absent: impl Fn(usize, usize) -> bool) {
    let Device {
        stream, kernels, ..
    } = device();
    let Partials {
        parts,
        rows,
        head_dim,
    } = partials;
    let mut outs = numbers::<T>(seed, parts * rows * head_dim);
    let mut lses: Vec<f32> = numbers::<f16>(seed + 1, parts * rows)
        .into_iter()
        .map(|x| 12.0 * f32::from(x))
        .collect();
    for part in 0..parts {
        for row in (0..rows).filter(|&row| absent(part, row)) {
            lses[part * rows + row] = f32::NEG_INFINITY;
            outs[(part * rows + row) * head_dim..][..head_dim].fill(T::NAN);
        }
    }
    let mut out = upload(&vec![T::NAN; rows * head_dim]);
    let mut lse = stream.clone_htod(&vec![f32::NAN; rows]).expect("upload");
    let lses_device = stream.clone_htod(&lses).expect("upload");
    kernels
        .merge(&upload(&outs), &lses_device, partials, &mut out)
        .lse(&mut lse)
        .launch(stream)
        .expect("merge");

    let parts: Vec<_> = outs
        .chunks_exact(rows * head_dim)
        .zip(lses.chunks_exact(rows))
        .map(|(out, lse)| Partial { out, lse })
        .collect();
    let expected = reference::merge(reference::Merge {
        partials: &parts,
        head_dim,
    })
    .expect("the oracle merges");
    let compared = Comparison::of(&download(&out), &expected.out).expect("as many");
    assert!(compared.within(T::TOLERANCE), "{partials:?}: {compared}");
    let lse = stream.clone_dtoh(&lse).expect("download");
    for (found, expected) in lse.into_iter().map(f64::from).zip(expected.lse) {
        let close = (found - expected).abs() <= Tolerance::LSE;
        assert!(
            found == expected || close,
            "lse {found}, expected {expected}"
        );
    }
}

#[test]
fn parts_without_tokens_count_for_nothing() {
    let partials = Partials {
        parts: 3,
        rows: 4,
        head_dim: 64,
    };
    // The last row has tokens nowhere.
    check::<f16>(partials, 1, |part, row| row == 3 || part == row);
    check::<bf16>(partials, 2, |_, _| true);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn as_the_oracle_says(parts in 1usize..9, rows in 1usize..70, vectors in 1usize..40, seed in 0u64..1 << 40) {
        let partials = Partials { parts, rows, head_dim: 8 * vectors };
        check::<f16>(partials, seed, |part, row| (part + row + seed as usize).is_multiple_of(5));
        check::<bf16>(partials, seed, |_, _| false);
    }
}

#[test]
fn refused() {
    let Device {
        stream, kernels, ..
    } = device();
    let outs = upload(&[f16::ONE; 2 * 3 * 64]);
    let lses = stream.clone_htod(&[0.0f32; 6]).expect("upload");
    let mut out = upload(&[f16::ONE; 3 * 64]);
    for (parts, rows, head_dim, message) in [
        (0, 3, 64, "parts is 0: it must be at least 1"),
        (2, 0, 64, "rows is 0: it must be at least 1"),
        (2, 3, 60, "head_dim is 60: it must be a multiple of 8"),
        (
            2,
            3,
            72,
            "outs has 384 elements: its shape [2, 3, 72] has 432",
        ),
        (
            1 << 20,
            1 << 20,
            8,
            "parts * rows is 1099511627776: at most 2147483647 can be indexed",
        ),
    ] {
        let partials = Partials {
            parts,
            rows,
            head_dim,
        };
        let merge = kernels.merge(&outs, &lses, partials, &mut out);
        let error = merge.launch(stream).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
    let partials = Partials {
        parts: 2,
        rows: 3,
        head_dim: 64,
    };
    let mut lse = stream.alloc_zeros::<f32>(4).expect("allocation");
    let merge = kernels.merge(&outs, &lses, partials, &mut out);
    let error = merge.lse(&mut lse).launch(stream).unwrap_err();
    assert_eq!(error.to_string(), "lse has 4 elements: its shape [3] has 3");
}
