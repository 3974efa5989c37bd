//! Which launches each step took.

use std::fmt;

/// What a launch does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// K, turned, and V of new tokens written to a layer's cache.
    Append,
    /// A layer's new q turned.
    Rope,
    /// Attention of a layer's new tokens over its cache.
    Prefill,
    /// All of these for one new token of a layer.
    FusedStep,
    /// K, turned, and V of a sample written to 16-bit elements, to be calibrated on.
    Sample,
    /// The magnitudes of a sample's channels taken.
    Calibrate,
    /// The step's tokens added to the lengths, once for all layers.
    Advance,
}

impl Operation {
    const OF_A_LAYER: [Operation; 6] = [
        Operation::Sample,
        Operation::Calibrate,
        Operation::Append,
        Operation::Rope,
        Operation::Prefill,
        Operation::FusedStep,
    ];
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operation::Append => "append with RoPE",
            Operation::Rope => "RoPE of q",
            Operation::Prefill => "prefill",
            Operation::FusedStep => "RoPE + append + decode",
            Operation::Sample => "sample with RoPE",
            Operation::Calibrate => "calibration",
            Operation::Advance => "advance",
        })
    }
}

/// Launches of one step, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Launches(Vec<Operation>);

impl Launches {
    /// Counts a launch that the driver accepted; hands on the error of one that it did not.
    pub fn count<E>(&mut self, operation: Operation, launched: Result<(), E>) -> Result<(), E> {
        launched?;
        self.0.push(operation);
        Ok(())
    }

    /// How many there were of an operation.
    pub fn of(&self, operation: Operation) -> usize {
        self.0.iter().filter(|&&other| other == operation).count()
    }
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

    /// Launches of all steps together.
    pub fn total(&self) -> usize {
        self.steps
            .iter()
            .map(|(_, launches)| launches.0.len())
            .sum()
    }
}

/// A line for each run of steps that are alike.
impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = 0;
        for alike in self.steps.chunk_by(|a, b| a == b) {
            let (tokens, launches) = &alike[0];
            let last = first + alike.len() - 1;
            if first > 0 {
                writeln!(f)?;
            }
            match alike.len() {
                1 => write!(f, "step {first}")?,
                _ => write!(f, "steps {first} to {last}")?,
            }
            let each = if alike.len() == 1 { "" } else { " each" };
            let plural = if *tokens == 1 { "" } else { "s" };
            write!(f, ", {tokens} token{plural}{each}:")?;
            let mut of_layers = 0;
            for operation in Operation::OF_A_LAYER {
                let count = launches.of(operation);
                if count > 0 {
                    write!(f, " {operation} {count},")?;
                }
                of_layers += count;
            }
            let advance = Operation::Advance;
            write!(f, " {advance} {}", launches.of(advance))?;
            let share = of_layers as f64 / self.num_layers as f64;
            write!(f, "; launches a layer and step: {share}")?;
            first = last + 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launches(of_each_layer: &[Operation]) -> Launches {
        let mut launches = Launches(of_each_layer.repeat(30));
        let accepted: Result<(), ()> = Ok(());
        launches.count(Operation::Advance, accepted).unwrap();
        launches
    }

    #[test]
    fn steps_alike_share_a_line() {
        let mut trace = Trace::new(30);
        let prompt = [Operation::Append, Operation::Rope, Operation::Prefill];
        let step = [Operation::FusedStep];
        trace.push(41, launches(&prompt));
        trace.push(1, launches(&step));
        assert_eq!(
            trace.to_string(),
            "step 0, 41 tokens: append with RoPE 30, RoPE of q 30, prefill 30, advance 1; \
             launches a layer and step: 3\n\
             step 1, 1 token: RoPE + append + decode 30, advance 1; launches a layer and step: 1"
        );
        trace.push(1, launches(&step));
        trace.push(1, launches(&step));
        assert_eq!(
            trace.to_string().lines().last(),
            Some(
                "steps 1 to 3, 1 token each: RoPE + append + decode 30, advance 1; \
                 launches a layer and step: 1"
            )
        );
        assert_eq!(trace.total(), 91 + 3 * 31);
    }

    #[test]
    fn a_refused_launch_is_none() {
        let mut launches = Launches::default();
        assert_eq!(
            launches.count(Operation::Rope, Err("refused")),
            Err("refused")
        );
        assert_eq!(launches.of(Operation::Rope), 0);
    }
}
