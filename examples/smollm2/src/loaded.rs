//! A model file, loaded.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::quantized::gguf_file::Content;

use crate::chat::Chat;
use crate::model::Model;
use crate::tokenizer::Tokenizer;

/// Everything in a model file.
pub struct Loaded {
    /// The weights.
    pub model: Model,
    /// Its vocabulary.
    pub tokenizer: Tokenizer,
    /// Its conversation format.
    pub chat: Chat,
}

impl Loaded {
    /// Reads a GGUF file.
    ///
    /// # Errors
    /// Where it cannot be read, or is no model that this crate runs.
    pub fn from_file(path: &Path) -> Result<Self> {
        let read = || -> Result<Self> {
            let mut file = File::open(path)?;
            let gguf = Content::read(&mut file)?;
            let tokenizer = Tokenizer::from_gguf(&gguf)?;
            Ok(Loaded {
                model: Model::load(&gguf, &mut file)?,
                chat: Chat::from_gguf(&gguf, &tokenizer)?,
                tokenizer,
            })
        };
        read().with_context(|| format!("loading {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::attention::CandleAttention;
    use crate::testing;

    #[test]
    fn a_file_that_is_no_model_is_named() {
        let error = Loaded::from_file(Path::new(file!()))
            .map(|_| ())
            .unwrap_err();
        assert_eq!(error.to_string(), format!("loading {}", file!()));
    }

    /// Rotary pairs taken in the other order cost 1.5 nats a token on this text, and other mistakes as much.
    #[test]
    fn the_model_knows_its_language() {
        let Some(Loaded {
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
