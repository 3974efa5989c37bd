//! The command line.

use clap::Parser;
use kv_kernels::Dtype;

use crate::config::{Operation, Splits};
use crate::matrix::{self, Axes};

/// Counts what kv-kernels' operations move and issue, on the emulated device: instructions, bytes, sectors,
/// conflicts. Never a time.
#[derive(Parser, Debug, Default)]
#[command(name = "counters", bin_name = "cargo xtask counters")]
pub struct Args {
    /// Operations: decode, append, step (RoPE, append and decode in one launch), quantize, quantize-channels,
    /// quantize-fp8, dequantize, dequantize-fp8, calibrate, statistics
    #[arg(long, value_delimiter = ',')]
    pub op: Vec<Operation>,

    /// What the cache stores: f16, bf16, int8, fp8
    #[arg(long, value_delimiter = ',', value_parser = dtype)]
    pub dtype: Vec<Dtype>,

    /// Elements of a vector
    #[arg(long, value_delimiter = ',')]
    pub head_dim: Vec<usize>,

    /// Query heads that share a KV head
    #[arg(long, value_delimiter = ',')]
    pub group_size: Vec<usize>,

    /// KV heads
    #[arg(long, value_delimiter = ',')]
    pub num_kv_heads: Vec<usize>,

    /// Sequences
    #[arg(long, value_delimiter = ',')]
    pub batch: Vec<usize>,

    /// Tokens that a sequence attends to, which are all its cache holds
    #[arg(long, value_delimiter = ',')]
    pub seq_len: Vec<usize>,

    /// Splits of each sequence: numbers, or `planned` for as many as the plan for the device has
    #[arg(long, value_delimiter = ',')]
    pub num_splits: Vec<Splits>,

    /// Device to emulate: a100, h100, l4, rtx4090
    #[arg(long, default_value = "h100")]
    pub device: String,

    /// All lengths, batches and element types where nothing else is said: hours, most of them for batches of 64
    #[arg(long, conflicts_with = "check")]
    pub all: bool,

    /// Print an array of one object a configuration
    #[arg(long)]
    pub json: bool,

    /// Compare with budget.json; fail with a line for each breach
    #[arg(long)]
    pub check: bool,
}

impl Args {
    /// What to count: what is given, and for the rest what the mode says.
    pub fn axes(&self) -> Axes {
        let mut axes = match (self.check, self.all) {
            (true, _) => matrix::checked(),
            (_, true) => matrix::all(),
            _ => matrix::usual(),
        };
        replace(&mut axes.op, &self.op);
        replace(&mut axes.dtype, &self.dtype);
        replace(&mut axes.head_dim, &self.head_dim);
        replace(&mut axes.group_size, &self.group_size);
        replace(&mut axes.num_kv_heads, &self.num_kv_heads);
        replace(&mut axes.batch, &self.batch);
        replace(&mut axes.seq_len, &self.seq_len);
        replace(&mut axes.num_splits, &self.num_splits);
        axes
    }

    /// Whether everything that the budget is about is counted.
    pub fn is_whole(&self) -> bool {
        self.axes() == matrix::checked()
    }
}

fn replace<T: Clone>(axis: &mut Vec<T>, given: &[T]) {
    if !given.is_empty() {
        *axis = given.to_vec();
    }
}

fn dtype(word: &str) -> Result<Dtype, String> {
    let known = Dtype::ALL.iter().find(|dtype| dtype.name() == word);
    known.copied().ok_or_else(|| {
        let names: Vec<_> = Dtype::ALL.iter().map(|dtype| dtype.name()).collect();
        format!("expected one of {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(args: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from([&["counters"], args].concat())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn what_is_given_replaces_an_axis() {
        let args = parse(&[
            "--seq-len",
            "5,6",
            "--num-splits",
            "planned,4",
            "--dtype=bf16",
        ])
        .unwrap();
        let axes = args.axes();
        assert_eq!(axes.seq_len, [5, 6]);
        assert_eq!(axes.num_splits, [Splits::Planned, Splits::Fixed(4)]);
        assert_eq!(axes.dtype, [Dtype::Bf16]);
        assert_eq!(axes.group_size, matrix::usual().group_size);
        assert!(!args.is_whole());
        assert!(parse(&["--check"]).unwrap().is_whole());
        assert!(!parse(&["--check", "--batch", "3"]).unwrap().is_whole());
    }

    #[test]
    fn what_there_is_not_is_refused() {
        for args in [
            &["--op", "prefill"] as &[&str],
            &["--dtype", "f8"],
            &["--num-splits", "0"],
            &["--seq-len", "x"],
            &["--all", "--check"],
        ] {
            assert!(parse(args).is_err(), "{args:?}");
        }
    }
}
