//! One thread's asynchronous operations on whole ranges: copies between global memory and the cluster's shared memory
//! (`cp.async.bulk`), reductions of one array into another (`cp.reduce.async.bulk`), and stores and reductions of
//! registers into another block's shared memory (`st.async`, `red.async`). What an `mbarrier` counts lands when somebody
//! waits for the phase that counts its bytes; what is in a bulk group, when its thread waits for the group. Nothing
//! lands sooner than it must.

mod queue;

use super::access::{Access, Kind, Pointers, bits};
use super::block::Block;
use super::cluster;
use super::ops::reduction::Reduction;
use super::program::Flow;
use super::shared::byte_state;
use super::warp::Warp;
use crate::check::Check;
use crate::ptx::ast::Space;
pub use queue::BulkQueue;
use std::collections::HashMap;

/// Alignment of addresses and size of what is copied in bulk, in bytes.
pub const GRAIN: u32 = 16;

/// Most bytes that registers hold of a store.
pub const STORED: usize = 16;

/// Where an operation's data comes from or goes to.
#[derive(Debug, Clone, Copy)]
pub enum End {
    /// A place in the cluster's shared memory.
    Shared(u32),
    /// An address in global memory, and the host's. The launch keeps its allocation alive.
    Global(u64, *mut u8),
    /// What registers held; nothing goes there.
    Registers([u8; STORED]),
}

/// An operation in flight.
#[derive(Debug, Clone, Copy)]
pub struct Bulk {
    /// Rank of the block that issued it.
    pub block: u32,
    /// Warp that issued it.
    pub warp: u32,
    /// Lane that issued it.
    pub lane: u32,
    /// Destination.
    pub to: End,
    /// Source.
    pub from: End,
    /// Bytes.
    pub size: u32,
    /// What is done to the destination's elements, where they are not just written.
    pub reduction: Option<Reduction>,
}

/// Where an operation's data is, as the instruction says.
#[derive(Debug, Clone, Copy)]
pub enum Source {
    /// An address in a state space.
    Memory(u64, Space),
    /// Registers, whose bytes these are.
    Registers([u8; STORED]),
}

/// An operation before it is checked.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// Address and state space of the destination.
    pub to: (u64, Space),
    /// Source.
    pub from: Source,
    /// Bytes: whole multiples of [`GRAIN`], or a power of two up to [`STORED`].
    pub size: u32,
    /// What is done to the destination's elements, where they are not just written.
    pub reduction: Option<Reduction>,
}

impl Bulk {
    /// Whether the async proxy does it, and no thread's ordinary way to memory.
    fn by_proxy(&self) -> bool {
        !matches!(self.from, End::Registers(_))
    }

    fn kind(&self) -> Kind {
        match self.reduction {
            None => Kind::Store,
            Some(_) => Kind::Atomic,
        }
    }
}

/// What operations in flight hold of a block's shared memory: how many of them, by state ([`byte_state::BUSY`] or
/// [`byte_state::REDUCING`]), first byte and size.
pub type Held = HashMap<(u8, u32, u32), u32>;

/// Bytes that are checked as one.
fn grain(size: u32) -> u32 {
    size.clamp(1, GRAIN)
}

/// What is done 32 grains at a time, as a warp's access would be.
fn pieces(size: u32) -> impl Iterator<Item = (u32, u32)> {
    let grain = grain(size);
    (0..size)
        .step_by(32 * grain as usize)
        .map(move |at| (at, u32::MAX >> (32 - ((size - at) / grain).min(32))))
}

fn grains(first: u64, at: u32, size: u32) -> [u64; 32] {
    std::array::from_fn(|k| first + u64::from(at) + u64::from(grain(size)) * k as u64)
}

impl Warp {
    /// Does something for all of a range in the name of `lane`, 32 grains at a time.
    fn pieces_of(
        &mut self,
        lane: usize,
        first: u64,
        size: u32,
        mut act: impl FnMut(&mut Warp, u32, &[u64; 32]) -> Result<(), Flow>,
    ) -> Result<(), Flow> {
        for (at, mask) in pieces(size) {
            let addresses = grains(first, at, size);
            // The grains are no lanes: where that matters, all of them are this one's.
            if act(self, mask, &addresses).is_err() {
                for k in bits(mask) {
                    act(self, 1 << lane, &[addresses[k]; 32])?;
                }
            }
        }
        Ok(())
    }

    /// Checks all of a range, and says where it is.
    fn range(
        &mut self,
        lane: usize,
        (first, space): (u64, Space),
        size: u32,
        kind: Kind,
    ) -> Result<End, Flow> {
        let access = Access {
            space: Some(space),
            size: grain(size),
            align: grain(size),
            kind,
        };
        let mut start: *mut u8 = std::ptr::null_mut();
        self.pieces_of(lane, first, size, |warp, mask, addresses| {
            let pointers: Pointers = warp.pointers(mask, addresses, access)?;
            if space == Space::Global && kind == Kind::Probe && warp.launch().counters {
                let store = Access {
                    kind: Kind::Store,
                    ..access
                };
                warp.count_global(mask, addresses, store);
            }
            if start.is_null() {
                start = pointers[mask.trailing_zeros() as usize];
            }
            Ok(())
        })?;
        Ok(match space {
            Space::Global => End::Global(first, start),
            _ => End::Shared(cluster::place(first as u32, self.rank())),
        })
    }

    /// The block and the address in its shared memory of a place.
    fn owner(&self, place: u32) -> (*mut Block, u32) {
        let owner = self.peer(cluster::rank_of(place, self.rank()));
        (owner, cluster::within(place))
    }

    /// Checks what `lane` asks for, and marks what will be written and read.
    ///
    /// # Errors
    /// The flow to return where a check failed.
    pub fn issue_bulk(&mut self, lane: usize, request: &Request) -> Result<Bulk, Flow> {
        let size = request.size;
        let from = match request.from {
            Source::Memory(address, space) => {
                self.range(lane, (address, space), size, Kind::Read)?
            }
            Source::Registers(bytes) => End::Registers(bytes),
        };
        let to = self.range(lane, request.to, size, Kind::Probe)?;
        let copy = Bulk {
            block: self.rank(),
            warp: self.index,
            lane: lane as u32,
            to,
            from,
            size,
            reduction: request.reduction,
        };
        if copy.by_proxy() && self.launch().checks.has(Check::AsyncCopy) {
            for (end, read) in [(from, true), (to, copy.reduction.is_some())] {
                if let End::Shared(place) = end
                    && read
                {
                    self.check_proxy(&copy, place)?;
                }
            }
        }
        self.reach_bulk(&copy)?;
        self.note_proxy(&copy);
        if matches!(from, End::Global(..)) {
            self.copies().depart(u64::from(size));
        }
        Ok(copy)
    }

    /// Marks what an operation will write and read, and holds it against what was before: it may write at any time from
    /// now on.
    fn reach_bulk(&mut self, copy: &Bulk) -> Result<(), Flow> {
        let (size, lane) = (copy.size, copy.lane as usize);
        let checks = self.launch().checks;
        let states = checks.has(Check::AsyncCopy) || checks.has(Check::UninitMemory);
        match copy.to {
            End::Shared(place) => {
                let (owner, first) = self.owner(place);
                if copy.reduction.is_some() {
                    self.begin_reducing(lane, owner, first, size)?;
                } else if states {
                    self.pieces_of(lane, first.into(), size, |warp, mask, addresses| {
                        warp.mark_pending(owner, mask, &addresses.map(|a| a as u32), grain(size))
                    })?;
                }
                self.bulk_race(copy, copy.kind(), owner, first)?;
            }
            End::Global(first, _) if copy.reduction.is_some() => {
                if first % u64::from(GRAIN) != 0 {
                    let text = format!("reduction at {first:#x}, no multiple of {GRAIN}");
                    return Err(self.violation(Check::Alignment, 1 << lane, text));
                }
                self.global_bulk(copy, first)?;
            }
            _ => {}
        }
        if let End::Shared(place) = copy.from
            && states
        {
            let (owner, first) = self.owner(place);
            // SAFETY: the range was found inside the block's shared memory; no reference to the block is alive.
            unsafe { hold(owner, byte_state::BUSY, first, size) };
        }
        Ok(())
    }

    /// Marks bytes as the destination of a reduction in flight, one of several, it may be.
    fn begin_reducing(
        &mut self,
        lane: usize,
        owner: *mut Block,
        first: u32,
        size: u32,
    ) -> Result<(), Flow> {
        if !first.is_multiple_of(grain(size)) {
            let text = format!(
                "reduction at shared address {first:#x}, no multiple of {}",
                grain(size)
            );
            return Err(self.violation(Check::Alignment, 1 << lane, text));
        }
        // What is written, or is being reduced into, can be reduced into.
        let access = Access {
            space: Some(Space::Shared),
            size: grain(size),
            align: grain(size),
            kind: Kind::Atomic,
        };
        self.pieces_of(lane, first.into(), size, |warp, mask, addresses| {
            warp.shared_states(owner, mask, addresses, access)
        })?;
        // SAFETY: the range was found inside the block's shared memory; no reference to the block is alive.
        unsafe { hold(owner, byte_state::REDUCING, first, size) };
        Ok(())
    }

    /// Holds an operation's access to a block's shared memory against those before it.
    fn bulk_race(
        &mut self,
        copy: &Bulk,
        kind: Kind,
        owner: *mut Block,
        first: u32,
    ) -> Result<(), Flow> {
        if !self.launch().checks.has(Check::SharedRace) {
            return Ok(());
        }
        let access = Access {
            space: Some(Space::Shared),
            size: grain(copy.size),
            align: grain(copy.size),
            kind,
        };
        let lane = copy.lane as usize;
        self.pieces_of(lane, first.into(), copy.size, |warp, mask, addresses| {
            // SAFETY: the owner is a block of the cluster, and no reference to it is alive.
            unsafe { warp.shared_race(owner, mask, addresses, access) }
        })
    }

    /// Holds an operation's writes to global memory against what shadows say.
    fn global_bulk(&mut self, copy: &Bulk, first: u64) -> Result<(), Flow> {
        let access = Access {
            space: Some(Space::Global),
            size: GRAIN,
            align: GRAIN,
            kind: copy.kind(),
        };
        let lane = copy.lane as usize;
        self.pieces_of(lane, first, copy.size, |warp, mask, addresses| {
            warp.shadows(mask, addresses, access)
        })
    }

    /// Reads the source, in the name of the warp that runs.
    ///
    /// # Errors
    /// The flow to return where that races with an access.
    fn read_bulk(&mut self, copy: &Bulk) -> Result<Vec<u8>, Flow> {
        let size = copy.size as usize;
        let from = match copy.from {
            End::Registers(bytes) => return Ok(bytes[..size].to_vec()),
            End::Global(_, pointer) => pointer.cast_const(),
            End::Shared(place) => {
                let (owner, first) = self.owner(place);
                // SAFETY: the range was found inside the block's shared memory at issue.
                let pointer = unsafe {
                    let_go(owner, byte_state::BUSY, first, copy.size);
                    (*owner).shared.as_ptr().add(first as usize)
                };
                self.bulk_race(copy, Kind::Read, owner, first)?;
                pointer.cast_const()
            }
        };
        if size == 0 {
            return Ok(Vec::new());
        }
        // SAFETY: the source was found inside its memory at issue, which lives as long as the launch.
        Ok(unsafe { std::slice::from_raw_parts(from, size) }.to_vec())
    }

    /// Writes the destination, in the name of the warp that runs.
    ///
    /// # Errors
    /// The flow to return where that races with an access.
    fn write_bulk(&mut self, copy: &Bulk, data: &[u8]) -> Result<(), Flow> {
        let pointer = match copy.to {
            End::Global(_, pointer) => pointer,
            End::Registers(_) => return Ok(()),
            End::Shared(place) => {
                let (owner, first) = self.owner(place);
                // SAFETY: the range was found inside the block's shared memory at issue; no reference to the block is
                // alive.
                unsafe {
                    match copy.reduction {
                        None => mark(owner, first, copy.size, |_| byte_state::INIT),
                        Some(_) => let_go(owner, byte_state::REDUCING, first, copy.size),
                    }
                    (*owner).shared.as_ptr().add(first as usize)
                }
            }
        };
        if data.is_empty() {
            return Ok(());
        }
        if matches!(copy.from, End::Global(..)) {
            self.copies().arrive(u64::from(copy.size));
        }
        // SAFETY: as many bytes were found at the destination at issue, for a reduction at a multiple of its elements.
        unsafe {
            match &copy.reduction {
                None => std::ptr::copy_nonoverlapping(data.as_ptr(), pointer, data.len()),
                Some(reduction) => reduction.apply(pointer, data),
            }
        }
        match copy.to {
            End::Global(first, _) => self.global_bulk(copy, first),
            End::Registers(_) => Ok(()),
            End::Shared(place) => {
                let (owner, first) = self.owner(place);
                self.bulk_race(copy, copy.kind(), owner, first)?;
                self.note_proxy(copy);
                Ok(())
            }
        }
    }

    /// What was last noted of the destination in a block's shared memory is the async proxy's doing, if it is.
    fn note_proxy(&mut self, copy: &Bulk) {
        if let End::Shared(place) = copy.to
            && copy.by_proxy()
            && self.order_checked()
        {
            // SAFETY: no other reference to the order is alive.
            unsafe { self.order() }.written_by_proxy(place, copy.size);
        }
    }

    /// Makes an operation land, in the name of the warp that runs.
    ///
    /// # Errors
    /// The flow to return where that races with an access.
    pub fn land_bulk(&mut self, copy: &Bulk) -> Result<(), Flow> {
        let data = self.read_bulk(copy)?;
        self.write_bulk(copy, &data)
    }
}

/// Changes the states of bytes of a block's shared memory.
///
/// # Safety
/// The range lies inside the shared memory of a block that is alive.
unsafe fn mark(owner: *mut Block, first: u32, size: u32, to: impl Fn(u8) -> u8) {
    // SAFETY: the caller's promise; there is a state for each byte.
    let states = unsafe {
        let start = (*owner).shared.states().add(first as usize);
        std::slice::from_raw_parts_mut(start, size as usize)
    };
    states.iter_mut().for_each(|state| *state = to(*state));
}

/// Marks a range as held by one operation more.
///
/// # Safety
/// As for [`mark`], and no reference to the block is alive.
unsafe fn hold(owner: *mut Block, state: u8, first: u32, size: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        *(*owner).held.entry((state, first, size)).or_insert(0) += 1;
        mark(owner, first, size, |s| s | state);
    }
}

/// One operation less holds a range; others may hold the same bytes.
///
/// # Safety
/// As for [`hold`].
unsafe fn let_go(owner: *mut Block, state: u8, first: u32, size: u32) {
    // SAFETY: the caller's promise; the reference ends before the states are changed.
    let left: Vec<_> = unsafe {
        let held = &mut (*owner).held;
        match held.get_mut(&(state, first, size)) {
            None => return,
            Some(count) if *count > 1 => {
                *count -= 1;
                return;
            }
            Some(_) => held.remove(&(state, first, size)),
        };
        let end = first + size;
        let overlaps =
            |(of, at, len): &(u8, u32, u32)| *of == state && *at < end && first < at + len;
        held.keys().copied().filter(overlaps).collect()
    };
    // SAFETY: the caller's promise; what is held was found inside the block's shared memory.
    unsafe {
        mark(owner, first, size, |s| s & !state);
        for (_, at, len) in left {
            mark(owner, at, len, |s| s | state);
        }
    }
}
