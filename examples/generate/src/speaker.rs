//! A model one can talk to.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use candle_core::quantized::gguf_file::Content;

use crate::chat::Chat;
use crate::generation::{NextToken, greedy};
use crate::model::Model;
use crate::progress::Progress;
use crate::tokenizer::Tokenizer;

/// Everything in a model file.
pub struct Speaker {
    /// The weights.
    pub model: Model,
    /// Its vocabulary.
    pub tokenizer: Tokenizer,
    /// Its conversation format.
    pub chat: Chat,
}

impl Speaker {
    /// Reads a GGUF file.
    pub fn load(path: &Path) -> Result<Self> {
        let read = || -> Result<Self> {
            let mut file = File::open(path)?;
            let gguf = Content::read(&mut file)?;
            let tokenizer = Tokenizer::from_gguf(&gguf)?;
            Ok(Speaker {
                model: Model::load(&gguf, &mut file)?,
                chat: Chat::from_gguf(&gguf, &tokenizer)?,
                tokenizer,
            })
        };
        read().with_context(|| format!("loading {}", path.display()))
    }

    /// Answers a prompt on stdout, in `limit` tokens or fewer. Returns how long it took.
    pub fn answer(
        &self,
        next: &mut impl NextToken,
        prompt: &[u32],
        limit: usize,
    ) -> Result<Timing> {
        let mut text = self.tokenizer.stream();
        let mut progress = Progress::new("answer", limit);
        let mut first = None;
        let started = Instant::now();
        let answer = greedy(next, prompt, limit, Some(self.chat.end()), |token| {
            first.get_or_insert_with(|| started.elapsed());
            progress.token(&text.push(token)?)?;
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
    use candle_core::DType;

    use super::*;
    use crate::attention::CandleAttention;
    use crate::testing;

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

    #[test]
    fn a_file_that_is_no_model_is_named() {
        let error = Speaker::load(Path::new(file!())).map(|_| ()).unwrap_err();
        assert_eq!(error.to_string(), format!("loading {}", file!()));
    }

    /// Rotary pairs taken in the other order cost 1.5 nats a token on this text, and other mistakes as much.
    #[test]
    fn the_model_knows_its_language() {
        let Some(Speaker {
            model, tokenizer, ..
        }) = testing::real_model()
        else {
            return;
        };
        let text = "The capital of France is Paris. The capital of Germany is Berlin. \
                    The capital of Italy is Rome. The capital of Spain is Madrid.";
        let tokens = tokenizer.encode(text).unwrap();
        let mut attention = CandleAttention::new(model.config(), DType::F16);
        let mut surprise = 0.0;
        for pair in tokens.windows(2) {
            let logits = model.forward(&pair[..1], &mut attention).unwrap();
            let likelihoods: f32 = logits.iter().map(|logit| logit.exp()).sum();
            surprise += likelihoods.ln() - logits[pair[1] as usize];
        }
        let mean = surprise / (tokens.len() - 1) as f32;
        assert!(mean < 1.2, "{mean} nats a token");
    }
}
