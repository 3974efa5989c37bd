//! The command line.

use std::path::PathBuf;

use clap::Parser;

/// Runs a small language model over a text with caches of several types, and says what each does to its predictions.
#[derive(Parser, Debug)]
#[command(name = "fidelity")]
pub struct Args {
    /// Tokens of the text to run over, at least 2; all of it by default
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..))]
    pub tokens: Option<u32>,

    /// Tokens from which channel scales are calibrated
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    pub calibrate: u32,

    /// Where to draw the measures of each layer, as an SVG file
    #[arg(long)]
    pub svg: Option<PathBuf>,

    /// The model, a GGUF file; else the one in .toolchain/model
    #[arg(long, env = "KV_MODEL", hide_env_values = true)]
    pub model: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_prediction_takes_two_tokens() {
        let parse = |args: &[&str]| Args::try_parse_from([&["fidelity"], args].concat());
        assert!(parse(&["--tokens", "2", "--svg", "a.svg"]).is_ok());
        assert!(parse(&["--tokens", "1"]).is_err());
        assert!(parse(&["--calibrate", "0"]).is_err());
    }
}
