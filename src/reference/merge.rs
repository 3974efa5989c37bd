//! Attention over a whole from attention over its parts.

use super::error::{self, Error};
use super::prefill::Attended;
use super::scalar::Scalar;

/// Attention over one part of the tokens.
#[derive(Debug, Clone, Copy)]
pub struct Partial<'a, O, L> {
    /// Outputs over the part's tokens, `[queries, head_dim]`.
    pub out: &'a [O],
    /// Natural log of the part's softmax denominator, `[queries]`; −∞ where the
    /// part has no token for the query.
    pub lse: &'a [L],
}

/// Parts that together hold every token once. A sink belongs to one of them,
/// to one in which the query sees a token.
#[derive(Debug)]
pub struct Merge<'a, O, L> {
    /// The parts, at least one; every one with the same queries in the same
    /// order (tokens × heads).
    pub partials: &'a [Partial<'a, O, L>],
    /// Numbers a vector.
    pub head_dim: usize,
}

/// The outputs and `lse` over all the parts' tokens: each part weighs
/// `exp(lse)` of the sum of all. A query that has no token in any part gives
/// zeros and −∞; whatever the output of a part without tokens holds is not
/// used.
///
/// # Errors
/// [`Error::Zero`] without parts or with `head_dim` 0, [`Error::Length`] for
/// parts of different shapes.
pub fn merge<O: Scalar, L: Scalar>(args: Merge<'_, O, L>) -> Result<Attended, Error> {
    let head_dim = error::nonzero("head_dim", args.head_dim)?;
    error::nonzero("partials", args.partials.len())?;
    let queries = args.partials[0].lse.len();
    let elements = error::product("out", &[queries, head_dim])?;
    for partial in args.partials {
        error::length("lse", partial.lse.len(), queries, "[queries]")?;
        error::length("out", partial.out.len(), elements, "[queries, head_dim]")?;
    }

    let mut merged = Attended {
        out: vec![0.0; elements],
        lse: vec![f64::NEG_INFINITY; queries],
    };
    for query in 0..queries {
        let lses: Vec<f64> = args
            .partials
            .iter()
            .map(|partial| partial.lse[query].to_f64())
            .collect();
        let max = lses.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if max == f64::NEG_INFINITY && !lses.iter().any(|lse| lse.is_nan()) {
            continue;
        }
        let denominator: f64 = lses.iter().map(|lse| (lse - max).exp()).sum();
        merged.lse[query] = max + denominator.ln();
        for (partial, lse) in args.partials.iter().zip(&lses) {
            if *lse == f64::NEG_INFINITY {
                continue;
            }
            let weight = (lse - max).exp() / denominator;
            for element in query * head_dim..(query + 1) * head_dim {
                merged.out[element] += weight * partial.out[element].to_f64();
            }
        }
    }
    Ok(merged)
}
