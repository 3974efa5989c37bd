//! What a launch did, counted: instructions, memory requests, bytes.

/// Counts of one launch.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    /// Per PTX instruction of the program.
    pub instructions: Vec<InstructionCounts>,
    /// Blocks run.
    pub blocks: u64,
    /// Warps run.
    pub warps: u64,
}

/// Counts of one PTX instruction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InstructionCounts {
    /// Times a warp issued it.
    pub issued: u64,
    /// Lanes that executed it, summed.
    pub lanes: u64,
    /// Memory requests (warp-level accesses with at least one lane).
    pub requests: u64,
    /// 32-byte sectors of global memory touched, or shared-memory wavefronts.
    pub sectors: u64,
    /// Fewest sectors (or wavefronts) that the bytes asked for would need.
    pub ideal: u64,
    /// Bytes asked for by active lanes.
    pub bytes: u64,
}

impl Counters {
    /// Zeros for a program of `instructions`.
    pub fn new(instructions: usize) -> Counters {
        Counters { instructions: vec![InstructionCounts::default(); instructions], blocks: 0, warps: 0 }
    }

    /// Adds the instruction counts of another part of the same launch.
    pub fn add(&mut self, other: &Counters) {
        for (mine, theirs) in self.instructions.iter_mut().zip(&other.instructions) {
            mine.issued += theirs.issued;
            mine.lanes += theirs.lanes;
            mine.requests += theirs.requests;
            mine.sectors += theirs.sectors;
            mine.ideal += theirs.ideal;
            mine.bytes += theirs.bytes;
        }
    }

    /// Warp instructions issued.
    pub fn warp_instructions(&self) -> u64 {
        self.instructions.iter().map(|c| c.issued).sum()
    }
}
