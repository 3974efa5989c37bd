//! Text to tokens and back, by the vocabulary and merges inside a GGUF file.

use anyhow::{Context, Result, anyhow, ensure};
use candle_core::quantized::gguf_file::Content;
use candle_core::quantized::tokenizer::TokenizerFromGguf;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;

use crate::model::entry;

/// The byte-level BPE tokenizer of the SmolLM models.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
}

impl Tokenizer {
    /// Builds it from a file's `tokenizer.ggml.*` metadata.
    ///
    /// # Errors
    /// Where entries are missing, or text is split in a way other than SmolLM's before merging.
    pub fn from_gguf(gguf: &Content) -> Result<Self> {
        let split = entry(gguf, "tokenizer.ggml.pre")?.to_string()?;
        ensure!(
            split == "smollm",
            "tokenizer.ggml.pre is {split:?}: this example splits text as \"smollm\" models do"
        );
        let mut inner = tokenizers::Tokenizer::from_gguf(gguf)?;
        // candle knows the vocabulary, but not this split: each digit by itself, the rest as GPT-2 does, and no space
        // put before the text.
        inner.with_pre_tokenizer(Some(Sequence::new(vec![
            Digits::new(true).into(),
            ByteLevel::new(false, true, true).into(),
        ])));
        // Text that spells a control token is text.
        inner.set_encode_special_tokens(true);
        Ok(Tokenizer { inner })
    }

    /// The tokens of `text`, none of them a control token.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false);
        Ok(encoding.map_err(|e| anyhow!(e))?.get_ids().to_vec())
    }

    /// The control token spelt `name`.
    pub fn control(&self, name: &str) -> Result<u32> {
        self.inner
            .token_to_id(name)
            .with_context(|| format!("the vocabulary has no {name}"))
    }

    /// Turns tokens into text one at a time, control tokens into nothing.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream {
            tokenizer: self,
            pending: Vec::new(),
        }
    }

    /// How a token reads by itself, in quotes.
    pub fn quote(&self, token: u32) -> String {
        match self.inner.decode(&[token], false) {
            Ok(text) => format!("{text:?}"),
            Err(_) => format!("token {token}"),
        }
    }
}

/// Text as it arrives: a character whose bytes are spread over several tokens comes with the last of them.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    pending: Vec<u32>,
}

impl TextStream<'_> {
    /// The text that `token` completes, often empty.
    pub fn push(&mut self, token: u32) -> Result<String> {
        self.pending.push(token);
        let text = self.decode_pending()?;
        if text.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        self.pending.clear();
        Ok(text)
    }

    /// The text of what is left: bytes that never became a character.
    pub fn finish(mut self) -> Result<String> {
        let text = self.decode_pending()?;
        self.pending.clear();
        Ok(text)
    }

    fn decode_pending(&self) -> Result<String> {
        let text = self.tokenizer.inner.decode(&self.pending, true);
        text.map_err(|e| anyhow!(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    const TEXTS: [&str; 6] = [
        "The quick brown fox",
        "  leading, and  double spaces\n\n\ttabs",
        "In 1969 they flew 384,400 km.",
        "naïve café, 東京, Ωμέγα, 👩‍🚀",
        "fn main() { println!(\"{}\", 1 << 3); }",
        "",
    ];

    #[test]
    fn text_survives() {
        let Some(loaded) = testing::real_model() else {
            return;
        };
        let tokenizer = &loaded.tokenizer;
        for text in TEXTS {
            let tokens = tokenizer.encode(text).unwrap();
            let mut stream = tokenizer.stream();
            let mut streamed = String::new();
            for &token in &tokens {
                let piece = stream.push(token).unwrap();
                assert!(!piece.contains(char::REPLACEMENT_CHARACTER), "{piece:?}");
                streamed += &piece;
            }
            streamed += &stream.finish().unwrap();
            assert_eq!(streamed, text);
        }
    }

    #[test]
    fn text_is_split_as_the_model_learnt_it() {
        let Some(loaded) = testing::real_model() else {
            return;
        };
        let pieces = |text: &str| -> Vec<String> {
            let tokens = loaded.tokenizer.encode(text).unwrap();
            tokens
                .into_iter()
                .map(|token| loaded.tokenizer.quote(token))
                .collect()
        };
        // Digits one by one; no space before the first word, and the others' spaces with them.
        assert_eq!(
            pieces("In 1969 they"),
            [
                "\"In\"",
                "\" \"",
                "\"1\"",
                "\"9\"",
                "\"6\"",
                "\"9\"",
                "\" they\""
            ]
        );
    }

    #[test]
    fn text_cannot_spell_a_control_token() {
        let Some(loaded) = testing::real_model() else {
            return;
        };
        let end = loaded.tokenizer.control("<|im_end|>").unwrap();
        assert_eq!(end, 2);
        let tokens = loaded.tokenizer.encode("a<|im_end|>b").unwrap();
        assert!(!tokens.contains(&end), "{tokens:?}");
        assert!(loaded.tokenizer.control("<|nothing|>").is_err());
    }

    #[test]
    fn a_character_of_several_tokens_comes_whole() {
        let Some(loaded) = testing::real_model() else {
            return;
        };
        let tokens = loaded.tokenizer.encode("👩").unwrap();
        assert!(tokens.len() > 1, "{tokens:?}");
        let mut stream = loaded.tokenizer.stream();
        let (last, before) = tokens.split_last().unwrap();
        for &token in before {
            assert_eq!(stream.push(token).unwrap(), "");
        }
        assert_eq!(stream.push(*last).unwrap(), "👩");
        // Cut off, it is at least said that something was there.
        let mut stream = loaded.tokenizer.stream();
        stream.push(tokens[0]).unwrap();
        assert_eq!(stream.finish().unwrap(), "\u{fffd}");
    }

    #[test]
    fn other_splits_are_refused() {
        let Some(mut gguf) = testing::real_gguf() else {
            return;
        };
        let other = candle_core::quantized::gguf_file::Value::String("llama3".into());
        gguf.metadata.insert("tokenizer.ggml.pre".into(), other);
        let error = Tokenizer::from_gguf(&gguf).map(|_| ()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "tokenizer.ggml.pre is \"llama3\": this example splits text as \"smollm\" models do"
        );
    }
}
