//! `cp.async`: copies in flight, which land when a wait makes them and no sooner.

/// Copies that a warp's threads have issued.
#[derive(Debug, Default)]
pub struct CopyQueue {}

impl CopyQueue {
    /// Nothing is in flight.
    pub fn clear(&mut self) {}
}
