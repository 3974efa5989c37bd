//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Generates text with a small language model, its KV cache and attention through kv-kernels.
#[derive(Parser, Debug)]
#[command(name = "generate")]
pub struct Args {
    /// What to say to the model
    #[arg(
        long,
        default_value = "Explain in a few sentences why the sky is blue."
    )]
    pub prompt: String,

    /// Most tokens to generate; the model may end its answer sooner
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    pub tokens: u16,

    /// Run candle's own attention beside ours and compare tokens and logits
    #[arg(long)]
    pub compare: bool,

    /// Keep no cache: pass all tokens through the model at every step
    #[arg(long, conflicts_with = "compare")]
    pub no_cache: bool,

    /// Print what a cache saves at 32, 128 and 256 tokens
    #[arg(long, conflicts_with_all = ["compare", "no_cache", "tokens"])]
    pub table: bool,

    /// What the cache stores
    #[arg(long, value_enum, default_value_t = CacheType::F16)]
    pub cache: CacheType,

    /// The model, a GGUF file; else the one in .toolchain/model
    #[arg(long, env = "KV_MODEL", hide_env_values = true)]
    pub model: Option<PathBuf>,
}

/// What a cache stores for an element.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheType {
    /// IEEE binary16
    F16,
    /// The upper half of a binary32
    Bf16,
    /// A byte, with scales for tokens and for K's channels
    Int8,
    /// A byte of floating point (e4m3), with scales for tokens
    Fp8,
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
    fn modes_exclude_each_other() {
        let parse = |args: &[&str]| Args::try_parse_from([&["generate"], args].concat());
        assert!(parse(&["--compare", "--tokens", "8", "--cache", "int8"]).is_ok());
        assert!(parse(&["--compare", "--no-cache"]).is_err());
        assert!(parse(&["--table", "--compare"]).is_err());
        assert!(parse(&["--table", "--tokens", "8"]).is_err());
        assert!(parse(&["--tokens", "0"]).is_err());
    }
}
