//! What is measured: of predictions, of attention outputs, of cached vectors.

use smollm2::generation::likeliest;

/// How well a text was foreseen, and what would have been said in its place.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Predictions {
    /// Nats of surprise, of all tokens predicted together.
    surprise: f64,
    /// The likeliest token at each position.
    greedy: Vec<u32>,
}

impl Predictions {
    /// Adds the logits after a token, and the token that came.
    pub fn add(&mut self, logits: &[f32], came: u32) {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let likelihoods: f64 = logits
            .iter()
            .map(|logit| f64::from((logit - largest).exp()))
            .sum();
        self.surprise += likelihoods.ln() - f64::from(logits[came as usize] - largest);
        self.greedy.push(likeliest(logits));
    }

    /// e to the mean surprise: among how many tokens the model was, in the mean, undecided.
    pub fn perplexity(&self) -> f64 {
        (self.surprise / self.greedy.len() as f64).exp()
    }

    /// At how many positions the likeliest token is that of `other`, which has predicted the same text.
    pub fn agreeing(&self, other: &Predictions) -> usize {
        let pairs = self.greedy.iter().zip(&other.greedy);
        pairs.filter(|(ours, theirs)| ours == theirs).count()
    }

    /// Tokens predicted.
    pub fn len(&self) -> usize {
        self.greedy.len()
    }
}

/// Angles between vectors and those they should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cosines {
    sum: f64,
    vectors: usize,
    /// The smallest cosine; NaN where one was.
    pub worst: f64,
}

impl Cosines {
    /// Of the vectors of `length` elements that lie one after another in either slice.
    ///
    /// The cosine with a vector of zeros is 0; of two of them, 1.
    pub fn of(got: &[f32], expected: &[f32], length: usize) -> Self {
        assert_eq!(got.len(), expected.len());
        let pairs = got.chunks_exact(length).zip(expected.chunks_exact(length));
        let mut cosines = Cosines {
            sum: 0.0,
            vectors: 0,
            worst: 1.0,
        };
        for (got, expected) in pairs {
            let cosine = cosine(got, expected);
            cosines.sum += cosine;
            cosines.vectors += 1;
            cosines.worst = worse(cosines.worst, cosine);
        }
        cosines
    }

    /// The mean cosine.
    pub fn mean(&self) -> f64 {
        self.sum / self.vectors as f64
    }

    /// These and those of `other`.
    pub fn and(self, other: Cosines) -> Cosines {
        Cosines {
            sum: self.sum + other.sum,
            vectors: self.vectors + other.vectors,
            worst: worse(self.worst, other.worst),
        }
    }
}

/// The smaller; NaN must not pass for agreement.
fn worse(a: f64, b: f64) -> f64 {
    if a.is_nan() || a < b { a } else { b }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
        products.sum()
    };
    let (a_norm, b_norm) = (dot(a, a).sqrt(), dot(b, b).sqrt());
    match (a_norm == 0.0, b_norm == 0.0) {
        (true, true) => 1.0,
        (false, false) => dot(a, b) / (a_norm * b_norm),
        _ => 0.0,
    }
}

/// The energy of vectors, and of what storing them has changed.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Noise {
    signal: f64,
    noise: f64,
}

impl Noise {
    /// Of what is stored for `exact`.
    pub fn of(stored: &[f32], exact: &[f32]) -> Self {
        assert_eq!(stored.len(), exact.len());
        let mut noise = Noise::default();
        for (stored, exact) in stored.iter().zip(exact) {
            let (stored, exact) = (f64::from(*stored), f64::from(*exact));
            noise.signal += exact * exact;
            noise.noise += (stored - exact) * (stored - exact);
        }
        noise
    }

    /// Signal-to-noise ratio in decibels.
    pub fn decibels(&self) -> f64 {
        10.0 * (self.signal / self.noise).log10()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perplexity_is_the_number_of_equal_choices() {
        let mut predictions = Predictions::default();
        for came in [0, 3] {
            predictions.add(&[1e3, 1e3, 1e3, 1e3], came);
        }
        assert!((predictions.perplexity() - 4.0).abs() < 1e-9);
        // ln 4 at first, then a token of likelihood 3/4.
        let mut predictions = Predictions::default();
        predictions.add(&[0.0; 4], 1);
        predictions.add(&[0.0, 9f32.ln(), f32::NEG_INFINITY, 2f32.ln()], 1);
        let expected = (4.0f64 / 0.75).sqrt();
        assert!((predictions.perplexity() - expected).abs() < 1e-6);
    }

    #[test]
    fn agreement_is_counted_by_position() {
        let said = |tokens: &[usize]| {
            let mut predictions = Predictions::default();
            for &token in tokens {
                let mut logits = [0.0; 4];
                logits[token] = 1.0;
                predictions.add(&logits, 0);
            }
            predictions
        };
        assert_eq!(said(&[1, 2, 3]).agreeing(&said(&[1, 3, 3])), 2);
        assert_eq!(said(&[1, 2, 3]).len(), 3);
    }

    #[test]
    fn the_worst_vector_counts_by_itself() {
        let got = [1.0, 0.0, 3.0, 4.0];
        let expected = [2.0, 0.0, 4.0, 3.0];
        let cosines = Cosines::of(&got, &expected, 2);
        assert!((cosines.worst - 0.96).abs() < 1e-9);
        assert!((cosines.mean() - 0.98).abs() < 1e-9);
        let opposite = Cosines::of(&[1.0, 0.0], &[-1.0, 0.0], 2);
        assert_eq!(cosines.and(opposite).worst, -1.0);
        assert!((cosines.and(opposite).mean() - 0.32).abs() < 1e-9);
    }

    #[test]
    fn a_nan_is_the_worst() {
        let cosines = Cosines::of(&[f32::NAN, 1.0, 1.0], &[1.0; 3], 1);
        assert!(cosines.worst.is_nan() && cosines.mean().is_nan());
    }

    #[test]
    fn zeros_are_like_zeros_alone() {
        assert_eq!(Cosines::of(&[0.0; 2], &[0.0; 2], 2).worst, 1.0);
        assert_eq!(Cosines::of(&[0.0; 2], &[1.0; 2], 2).worst, 0.0);
    }

    #[test]
    fn a_hundredth_is_40_decibels() {
        let noise = Noise::of(&[1.01, -1.01], &[1.0, -1.0]);
        assert!((noise.decibels() - 40.0).abs() < 1e-3);
        assert_eq!(Noise::of(&[1.0], &[1.0]).decibels(), f64::INFINITY);
    }
}
