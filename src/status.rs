//! What the kernels had to tell about each sequence.

use crate::abi;

/// The status words, one a sequence, as read from the device. Flags stay up until they are cleared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    words: Vec<u32>,
}

impl Status {
    /// Words an engine has read from a slice of its own.
    pub fn from_words(words: Vec<u32>) -> Self {
        Status { words }
    }

    /// Whether no flag is up.
    pub fn is_ok(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    /// Sequences a step of which would have passed their capacity: its tokens were not appended.
    pub fn over_capacity(&self) -> impl Iterator<Item = usize> + '_ {
        self.flagged(abi::KV_STATUS_CAPACITY)
    }

    /// Sequences whose length was negative or above the capacity: they were taken for empty, and nothing was appended.
    pub fn bad_seq_len(&self) -> impl Iterator<Item = usize> + '_ {
        self.flagged(abi::KV_STATUS_SEQ_LEN)
    }

    /// Sequences to which a packed step gave a negative number of tokens: none were appended.
    pub fn bad_cu_seqlens(&self) -> impl Iterator<Item = usize> + '_ {
        self.flagged(abi::KV_STATUS_TOKENS)
    }

    /// Sequences of which elements were quantised that are not finite, each with how many: modulo 2²⁴, since the words
    /// were cleared.
    pub fn non_finite(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let count = |sequence| (self.words[sequence] >> abi::KV_STATUS_COUNT_SHIFT) as usize;
        self.flagged(abi::KV_STATUS_NON_FINITE)
            .map(move |sequence| (sequence, count(sequence)))
    }

    /// The words themselves.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    fn flagged(&self, flag: u32) -> impl Iterator<Item = usize> + '_ {
        self.words
            .iter()
            .enumerate()
            .filter(move |(_, word)| *word & flag != 0)
            .map(|(sequence, _)| sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_by_sequence() {
        let status = Status::from_words(vec![0, 1, 6, 1, 8 | 300 << 8]);
        assert!(!status.is_ok());
        assert_eq!(status.over_capacity().collect::<Vec<_>>(), [1, 3]);
        assert_eq!(status.bad_seq_len().collect::<Vec<_>>(), [2]);
        assert_eq!(status.bad_cu_seqlens().collect::<Vec<_>>(), [2]);
        assert_eq!(status.non_finite().collect::<Vec<_>>(), [(4, 300)]);
        assert!(Status::from_words(vec![0; 3]).is_ok());
    }
}
