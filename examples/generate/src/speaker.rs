//! Answers as they are written, and how long they take.

use std::time::{Duration, Instant};

use anyhow::Result;
use smollm2::generation::{NextToken, greedy};
use smollm2::loaded::Loaded;
use smollm2::progress::Progress;

/// Answers a prompt on stdout, in `limit` tokens or fewer. Returns how long it took.
pub fn answer(
    loaded: &Loaded,
    next: &mut impl NextToken,
    prompt: &[u32],
    limit: usize,
) -> Result<Timing> {
    let mut text = loaded.tokenizer.stream();
    let mut progress = Progress::new("answer", "tokens", limit);
    let mut first = None;
    let started = Instant::now();
    let answer = greedy(next, prompt, limit, Some(loaded.chat.end()), |token| {
        first.get_or_insert_with(|| started.elapsed());
        progress.advance(&text.push(token)?)?;
        Ok(())
    })?;
    let total = started.elapsed();
    progress.finish();
    println!("{}", text.finish()?);
    Ok(Timing {
        prompt: prompt.len(),
        tokens: answer.len(),
        first: first.unwrap_or(total),
        total,
    })
}

/// How long an answer took.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens of the answer.
    pub tokens: usize,
    /// Until the first of them.
    pub first: Duration,
    /// Until the end.
    pub total: Duration,
}

impl std::fmt::Display for Timing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (first, total) = (self.first.as_secs_f64(), self.total.as_secs_f64());
        write!(f, "{} tokens in {total:.1} s", self.tokens)?;
        write!(
            f,
            ": the first after {first:.1} s, on {} of prompt",
            self.prompt
        )?;
        if self.tokens > 1 {
            let rate = (self.tokens - 1) as f64 / (total - first);
            write!(f, "; then {rate:.1} a second")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timings_read_as_a_sentence() {
        let timing = Timing {
            prompt: 41,
            tokens: 11,
            first: Duration::from_millis(500),
            total: Duration::from_millis(5500),
        };
        assert_eq!(
            timing.to_string(),
            "11 tokens in 5.5 s: the first after 0.5 s, on 41 of prompt; then 2.0 a second"
        );
    }
}
