//! What a cache saves: the same text with and without, by its length.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;
use smollm2::generation::{Computations, NextToken, greedy};
use smollm2::markdown;
use smollm2::progress::Progress;

/// Lengths of answer the table shows, ascending.
pub const LENGTHS: [usize; 3] = [32, 128, 256];

/// Measures how long answers of `lengths` tokens take from one run of the longest, the prompt's time included.
pub fn measure(
    label: &str,
    next: &mut impl NextToken,
    prompt: &[u32],
    lengths: &[usize],
) -> Result<Vec<Duration>> {
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let mut progress = Progress::new(label, "tokens", longest);
    let mut times = Vec::new();
    let mut tokens = 0;
    let started = Instant::now();
    greedy(next, prompt, longest, None, |_| {
        tokens += 1;
        if lengths.contains(&tokens) {
            times.push(started.elapsed());
            progress.note(&format!(
                "{label}: {tokens} tokens in {}",
                seconds(started.elapsed())
            ));
        }
        progress.advance("")?;
        Ok(())
    })?;
    progress.finish();
    Ok(times)
}

/// The times of each way, ready to print.
pub struct Table {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Everything through the model at every step.
    pub without: Vec<Duration>,
    /// Each way with a cache: what it is called, and its times.
    pub with: Vec<(String, Vec<Duration>)>,
}

/// Markdown, one row a length.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut header: Vec<String> = [
            "tokens",
            "K/V computed without",
            "with",
            "saved",
            "time without",
        ]
        .map(str::to_owned)
        .into();
        for (name, _) in &self.with {
            header.push(format!("time with, {name}"));
            header.push("speed-up".to_owned());
        }
        let mut rows = vec![header];
        for (row, (&tokens, without)) in LENGTHS.iter().zip(&self.without).enumerate() {
            let work = Computations::of(self.prompt, tokens);
            let mut cells = vec![
                tokens.to_string(),
                work.without.to_string(),
                work.with_cache.to_string(),
                format!("{:.1} %", 100.0 * work.saved()),
                seconds(*without),
            ];
            for (_, times) in &self.with {
                cells.push(seconds(times[row]));
                cells.push(format!(
                    "{:.1}×",
                    without.as_secs_f64() / times[row].as_secs_f64()
                ));
            }
            rows.push(cells);
        }
        f.write_str(&markdown::table(&rows))
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_lines_up() {
        let times = |seconds: [u64; 3]| seconds.map(Duration::from_secs).to_vec();
        let table = Table {
            prompt: 3,
            without: times([10, 80, 400]),
            with: vec![("kernels".into(), times([5, 20, 40]))],
        };
        assert_eq!(
            table.to_string(),
            "\
| tokens | K/V computed without | with |  saved | time without | time with, kernels | speed-up |
|-------:|---------------------:|-----:|-------:|-------------:|-------------------:|---------:|
|     32 |                  592 |   34 | 94.3 % |       10.0 s |              5.0 s |     2.0× |
|    128 |                 8512 |  130 | 98.5 % |       80.0 s |             20.0 s |     4.0× |
|    256 |                33408 |  258 | 99.2 % |      400.0 s |             40.0 s |    10.0× |
",
        );
    }

    #[test]
    fn times_are_taken_at_each_length() {
        struct Zero;
        impl NextToken for Zero {
            fn logits(&mut self, _: &[u32], _: usize) -> Result<Vec<f32>> {
                Ok(vec![0.0])
            }
        }
        let times = measure("", &mut Zero, &[0], &[2, 4]).unwrap();
        assert_eq!(times.len(), 2);
        assert!(times[0] <= times[1]);
    }
}
