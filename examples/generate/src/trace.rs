//! Which launches each step took.

use std::fmt;

/// Launches of one step, by operation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Launches {
    /// K and V of new tokens written to a layer's cache.
    pub append: usize,
    /// Attention of one token over a layer's cache.
    pub decode: usize,
    /// The step's tokens added to the lengths.
    pub advance: usize,
}

/// The launches of a run, step by step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    num_layers: usize,
    /// Each step's new tokens and launches.
    steps: Vec<(usize, Launches)>,
}

impl Trace {
    /// For a model of so many layers.
    pub fn new(num_layers: usize) -> Self {
        Trace {
            num_layers,
            steps: Vec::new(),
        }
    }

    /// Ends a step of `new_tokens` tokens.
    pub fn push(&mut self, new_tokens: usize, launches: Launches) {
        self.steps.push((new_tokens, launches));
    }
}

/// A line for each run of steps that are alike.
impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = 0;
        for alike in self.steps.chunk_by(|a, b| a == b) {
            let (tokens, launches) = alike[0];
            let last = first + alike.len() - 1;
            if first > 0 {
                writeln!(f)?;
            }
            match alike.len() {
                1 => write!(f, "step {first}")?,
                _ => write!(f, "steps {first} to {last}")?,
            }
            let each = if alike.len() == 1 { "" } else { " each" };
            let plural = if tokens == 1 { "" } else { "s" };
            write!(f, ", {tokens} token{plural}{each}:")?;
            let per_layer = [("append", launches.append), ("decode", launches.decode)];
            for (name, count) in per_layer.into_iter().filter(|(_, count)| *count > 0) {
                write!(f, " {name} {count},")?;
            }
            write!(f, " advance {}", launches.advance)?;
            let of_layers = launches.append + launches.decode;
            let share = of_layers as f64 / self.num_layers as f64;
            write!(f, "; launches a layer: {share}")?;
            first = last + 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_alike_share_a_line() {
        let mut trace = Trace::new(30);
        let prompt = Launches {
            append: 30,
            decode: 0,
            advance: 1,
        };
        let step = Launches {
            decode: 30,
            ..prompt
        };
        trace.push(41, prompt);
        trace.push(1, step);
        assert_eq!(
            trace.to_string(),
            "step 0, 41 tokens: append 30, advance 1; launches a layer: 1\n\
             step 1, 1 token: append 30, decode 30, advance 1; launches a layer: 2"
        );
        trace.push(1, step);
        trace.push(1, step);
        assert_eq!(
            trace.to_string().lines().last(),
            Some(
                "steps 1 to 3, 1 token each: append 30, decode 30, advance 1; launches a layer: 2"
            )
        );
    }
}
