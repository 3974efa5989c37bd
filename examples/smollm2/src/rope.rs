//! Rotary position embedding in the order GGUF files of llama models keep it.
//!
//! Element pairs (2i, 2i + 1) of a head's vector are turned by `position · base^(−2i / head_dim)`. (The original
//! checkpoints pair i with i + head_dim / 2; the conversion to GGUF permutes the rows of the q and k projections so
//! that pairs lie side by side.)

use candle_core::{D, Device, Result, Tensor};

/// The angles' frequencies, one a pair of elements.
#[derive(Debug, Clone)]
pub struct Rope {
    frequencies: Vec<f64>,
}

impl Rope {
    /// For vectors of `head_dim` elements (even) and the model's frequency base.
    pub fn new(head_dim: usize, base: f64) -> Self {
        let frequencies = (0..head_dim / 2)
            .map(|i| base.powf(-2.0 * i as f64 / head_dim as f64))
            .collect();
        Rope { frequencies }
    }

    /// The turn of `tokens` tokens, the first of them at `position`.
    pub fn turn(&self, position: usize, tokens: usize) -> Result<Turn> {
        let angles = (position..position + tokens)
            .flat_map(|position| self.frequencies.iter().map(move |f| position as f64 * f));
        let (sin, cos): (Vec<f32>, Vec<f32>) = angles
            .map(|angle| (angle.sin() as f32, angle.cos() as f32))
            .unzip();
        let shape = (tokens, 1, self.frequencies.len());
        Ok(Turn {
            cos: Tensor::from_vec(cos, shape, &Device::Cpu)?,
            sin: Tensor::from_vec(sin, shape, &Device::Cpu)?,
        })
    }
}

/// Cosines and sines of consecutive positions, `[tokens, 1, head_dim / 2]`: the same for every head and layer.
#[derive(Debug)]
pub struct Turn {
    cos: Tensor,
    sin: Tensor,
}

impl Turn {
    /// Turns `x`, `[tokens, heads, head_dim]`.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let (tokens, heads, head_dim) = x.dims3()?;
        let pairs = x.reshape((tokens, heads, head_dim / 2, 2))?;
        let a = pairs.narrow(3, 0, 1)?.squeeze(3)?;
        let b = pairs.narrow(3, 1, 1)?.squeeze(3)?;
        let turned_a = (a.broadcast_mul(&self.cos)? - b.broadcast_mul(&self.sin)?)?;
        let turned_b = (a.broadcast_mul(&self.sin)? + b.broadcast_mul(&self.cos)?)?;
        Tensor::stack(&[turned_a, turned_b], D::Minus1)?.reshape((tokens, heads, head_dim))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turned(position: usize, x: [f32; 4]) -> Vec<f32> {
        let x = Tensor::new(&x, &Device::Cpu)
            .and_then(|x| x.reshape((1, 1, 4)))
            .unwrap();
        let turn = Rope::new(4, 100.0).turn(position, 1).unwrap();
        turn.apply(&x)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap()
    }

    fn dot(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn neighbours_turn_together() {
        // Frequencies 1 and 100^(-1/2) = 0.1: at position 3 the angles are 3 and 0.3.
        let (s3, c3) = 3f32.sin_cos();
        let (s03, c03) = 0.3f32.sin_cos();
        for (got, expected) in
            turned(3, [1.0, 0.0, 0.0, 2.0])
                .into_iter()
                .zip([c3, s3, -2.0 * s03, 2.0 * c03])
        {
            assert!((got - expected).abs() < 1e-6, "{got} for {expected}");
        }
    }

    #[test]
    fn position_0_stays() {
        assert_eq!(turned(0, [1.0, 2.0, 3.0, 4.0]), [1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn scores_depend_on_the_distance_alone() {
        let (q, k) = ([0.3, -1.2, 0.7, 0.9], [1.1, 0.4, -0.6, 0.2]);
        let near = dot(&turned(7, q), &turned(5, k));
        let far = dot(&turned(102, q), &turned(100, k));
        assert!((near - far).abs() < 1e-4, "{near} against {far}");
    }

    #[test]
    fn consecutive_tokens_take_consecutive_positions() {
        let x = Tensor::ones((3, 2, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
        let all = Rope::new(4, 100.0).turn(5, 3).unwrap().apply(&x).unwrap();
        let last: Vec<Vec<f32>> = all.get(2).unwrap().to_vec2().unwrap();
        assert_eq!(last[0], turned(7, [1.0; 4]));
        assert_eq!(last[1], last[0]);
    }
}
