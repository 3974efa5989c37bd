//! Races in shared memory: a shadow for each word, of the block's own and of the other blocks of its cluster.

use crate::check::Check;
use crate::exec::access::{Access, Kind, bits};
use crate::exec::block::Block;
use crate::exec::lanes::wide;
use crate::exec::program::Flow;
use crate::exec::warp::Warp;
use std::collections::HashMap;

/// Shadow of one word of shared memory.
#[derive(Debug, Clone, Copy, Default)]
struct Word {
    /// Tick of the last write; 0 where there was none.
    write_tick: u32,
    /// Tick of the first read that is not known to be ordered; 0 where there is none.
    read_tick: u32,
    /// Warps of the block itself that read since.
    readers: u32,
    /// Warp (of the cluster) and lane of the last write.
    writer: u16,
    /// Bytes of the last write; [`FAR`] where other blocks' warps read since; [`STRONG`] where it was atomic.
    write_bytes: u8,
    /// Lane of the reads, or [`MANY`]; [`STRONG`] where all were atomic.
    read_lane: u8,
}

/// Several lanes.
const MANY: u8 = 0x40;
/// Reads by other blocks are in [`SharedRaces::far`].
const FAR: u8 = 0x40;
/// Atomic, or one of several that agree to share the place.
const STRONG: u8 = 0x80;
/// Bytes of a word.
const BYTES: u8 = 0xf;

impl Word {
    fn write_warp(&self) -> usize {
        usize::from(self.writer >> 5)
    }
    fn write_lane(&self) -> usize {
        usize::from(self.writer & 31)
    }
}

/// A read by a warp of another block of the cluster.
#[derive(Debug, Clone, Copy)]
struct FarRead {
    warp: usize,
    lane: u8,
    tick: u32,
    strong: bool,
}

/// Shadow of a block's shared memory.
#[derive(Debug)]
pub struct SharedRaces {
    words: Vec<Word>,
    /// Reads by other blocks' warps since the last write, by word.
    far: HashMap<usize, Vec<FarRead>>,
    len: usize,
}

impl SharedRaces {
    /// For `len` bytes; the shadow is made when the check first wants it.
    pub fn new(len: usize) -> SharedRaces {
        SharedRaces {
            words: Vec::new(),
            far: HashMap::new(),
            len,
        }
    }

    /// A new block.
    pub fn forget(&mut self) {
        self.words.fill(Word::default());
        self.far.clear();
    }
}

/// The words that `size` bytes at a shared address touch, and which of their bytes: all, where the bytes are `WHOLE`
/// words.
#[inline(always)]
fn words_of<const WHOLE: bool>(address: u64, size: u32) -> impl Iterator<Item = (usize, u8)> {
    let mut at = address as u32 as usize;
    let end = at + size as usize;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        if WHOLE {
            let word = at >> 2;
            at += 4;
            return Some((word, BYTES));
        }
        let low = at & 3;
        let take = (4 - low).min(end - at);
        let word = at >> 2;
        at += take;
        Some((word, (((1u32 << take) - 1) << low) as u8))
    })
}

/// The two sides of a race in shared memory.
struct Conflict {
    lane: usize,
    word: usize,
    /// Warp of the cluster.
    other_warp: usize,
    other_lane: u8,
    other_wrote: bool,
}

impl Warp {
    /// Checks an access to the shared memory of `owner`, a block of the cluster, against those before it.
    ///
    /// # Errors
    /// The flow to return where it races.
    ///
    /// # Safety
    /// The block is alive, and no reference to it or to its cluster's order is.
    // One copy for all that touches shared memory.
    #[inline(never)]
    pub unsafe fn shared_race(
        &mut self,
        owner: *mut Block,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
    ) -> Result<(), Flow> {
        // SAFETY: the caller's promise; the wide build only where the processor has its features.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            if wide() {
                return self.shared_race_wide(owner, mask, addresses, access);
            }
            self.shared_race_any(owner, mask, addresses, access)
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
    unsafe fn shared_race_wide(
        &mut self,
        owner: *mut Block,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
    ) -> Result<(), Flow> {
        // SAFETY: the caller's promise.
        unsafe { self.shared_race_any(owner, mask, addresses, access) }
    }

    #[inline(always)]
    unsafe fn shared_race_any(
        &mut self,
        owner: *mut Block,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
    ) -> Result<(), Flow> {
        let mut low = u64::from(access.size);
        for lane in 0..32 {
            low |= if mask >> lane & 1 != 0 {
                addresses[lane]
            } else {
                0
            };
        }
        // SAFETY: the caller's promise.
        unsafe {
            if low & 3 == 0 {
                self.shared_race_of::<true>(owner, mask, addresses, access)
            } else {
                self.shared_race_of::<false>(owner, mask, addresses, access)
            }
        }
    }

    #[inline(always)]
    unsafe fn shared_race_of<const WHOLE: bool>(
        &mut self,
        owner: *mut Block,
        mask: u32,
        addresses: &[u64; 32],
        access: Access,
    ) -> Result<(), Flow> {
        let me = self.order_index();
        // SAFETY: the caller's promise; shadow and order are apart.
        let (shadow, base, order) = unsafe {
            (
                &mut (*owner).shared.race,
                (*owner).first_warp as usize,
                self.order(),
            )
        };
        let near = owner == self.block;
        if shadow.words.is_empty() {
            shadow.words = vec![Word::default(); shadow.len.div_ceil(4)];
        }
        let strong = matches!(
            access.kind,
            Kind::Atomic | Kind::StrongLoad | Kind::StrongStore
        );
        let writes = access.kind.only_writes() || access.kind == Kind::Atomic;
        let reads = access.kind.reads() && access.kind != Kind::Atomic;
        let own = order.known(me, me);
        let tick = order.tick();
        let mut conflict = None;
        // All lanes are held against what was before; what they do together in one instruction is no race among
        // them (of several that write a word, one leaves its value).
        'lanes: for lane in bits(mask) {
            for (word, bytes) in words_of::<WHOLE>(addresses[lane], access.size) {
                let cell = &mut shadow.words[word];
                // Against the last write.
                if cell.write_tick != 0
                    && cell.write_bytes & bytes & BYTES != 0
                    && !(strong && cell.write_bytes & STRONG != 0)
                {
                    let warp = cell.write_warp();
                    let same_lane = warp == me && cell.write_lane() == lane;
                    let known = if warp == me {
                        own
                    } else {
                        order.known(me, warp)
                    };
                    if !same_lane && cell.write_tick > known {
                        conflict = Some(Conflict {
                            lane,
                            word,
                            other_warp: warp,
                            other_lane: cell.write_lane() as u8,
                            other_wrote: true,
                        });
                        break 'lanes;
                    }
                }
                // A write against the reads since.
                if writes && cell.readers != 0 && !(strong && cell.read_lane & STRONG != 0) {
                    for warp in bits(cell.readers).map(|w| base + w) {
                        let known = if warp == me {
                            own
                        } else {
                            order.known(me, warp)
                        };
                        let lane_of = cell.read_lane & !STRONG;
                        let same_lane = warp == me && usize::from(lane_of) == lane;
                        if !same_lane && cell.read_tick > known {
                            conflict = Some(Conflict {
                                lane,
                                word,
                                other_warp: warp,
                                other_lane: lane_of,
                                other_wrote: false,
                            });
                            break 'lanes;
                        }
                    }
                }
                if writes && cell.write_bytes & FAR != 0 {
                    let unordered = |r: &&FarRead| {
                        let same_lane = r.warp == me && usize::from(r.lane) == lane;
                        let shared = same_lane || strong && r.strong;
                        !shared && r.tick > order.known(me, r.warp)
                    };
                    if let Some(read) = shadow
                        .far
                        .get(&word)
                        .and_then(|list| list.iter().find(unordered))
                    {
                        conflict = Some(Conflict {
                            lane,
                            word,
                            other_warp: read.warp,
                            other_lane: read.lane,
                            other_wrote: false,
                        });
                        break 'lanes;
                    }
                }
                if reads && near {
                    let stale = cell.readers == 0
                        || bits(cell.readers).all(|w| cell.read_tick <= order.known(me, base + w));
                    let flag = if strong { STRONG } else { 0 };
                    let bit = 1 << (me - base);
                    if stale {
                        cell.readers = bit;
                        cell.read_tick = tick;
                        cell.read_lane = lane as u8 | flag;
                    } else {
                        cell.readers |= bit;
                        let lane_of = cell.read_lane & !STRONG;
                        let keep = if usize::from(lane_of) == lane {
                            lane_of
                        } else {
                            MANY
                        };
                        cell.read_lane = keep | (cell.read_lane & flag);
                    }
                } else if reads {
                    cell.write_bytes |= FAR;
                    let list = shadow.far.entry(word).or_default();
                    let read = FarRead {
                        warp: me,
                        lane: lane as u8,
                        tick,
                        strong,
                    };
                    // A warp's last read stands for those before it, but for another lane's or a weaker one.
                    match list
                        .iter_mut()
                        .find(|r| r.warp == me && r.lane == read.lane && r.strong == strong)
                    {
                        Some(last) => *last = read,
                        None => list.push(read),
                    }
                }
            }
        }
        if let Some(conflict) = conflict {
            return Err(self.report_shared_race(conflict, owner, access));
        }
        if writes {
            let writer = (me << 5) as u16;
            for lane in bits(mask) {
                for (word, bytes) in words_of::<WHOLE>(addresses[lane], access.size) {
                    let cell = &mut shadow.words[word];
                    if cell.write_bytes & FAR != 0 {
                        shadow.far.remove(&word);
                    }
                    // Parts of a word written one after another by one lane add up, and an atomic after the
                    // lane's own plain store does not make that one atomic.
                    let more = cell.write_tick == tick && cell.writer == writer | lane as u16;
                    let (kept, weak) = if more {
                        (cell.write_bytes & BYTES, cell.write_bytes & STRONG == 0)
                    } else {
                        (0, false)
                    };
                    *cell = Word {
                        write_tick: tick,
                        writer: writer | lane as u16,
                        write_bytes: kept | bytes | if strong && !weak { STRONG } else { 0 },
                        ..Word::default()
                    };
                }
            }
        }
        Ok(())
    }

    #[cold]
    fn report_shared_race(&mut self, c: Conflict, owner: *mut Block, access: Access) -> Flow {
        let verb = if access.kind.reads() { "read" } else { "write" };
        let other = if c.other_wrote { "write" } else { "read" };
        let me = self.order_index();
        // SAFETY: the owner is alive, and nothing is changed while the report is made.
        let (own, own_index, base, there, warps) = unsafe {
            let own = &*self.block;
            (
                owner == self.block,
                own.rank,
                own.first_warp as usize,
                (*owner).rank,
                own.copies.len(),
            )
        };
        let who = if c.other_warp == me {
            if c.other_lane & MANY != 0 {
                "other lanes of the same warp".to_string()
            } else {
                format!("lane {} of the same warp", c.other_lane)
            }
        } else if c.other_warp.wrapping_sub(base) < warps {
            format!("warp {}", c.other_warp - base)
        } else {
            format!(
                "warp {} of block {} of the cluster",
                c.other_warp % warps,
                c.other_warp / warps
            )
        };
        let missing = if c.other_warp == me {
            "__syncwarp"
        } else if c.other_warp / warps != own_index as usize {
            "barrier of the cluster"
        } else {
            "barrier"
        };
        let place = if own {
            String::new()
        } else {
            format!(" of block {there} of the cluster")
        };
        let text = format!(
            "{verb} at shared address {:#x}{place} by warp {} lane {} races with a {other} by {who}: no {missing} between them",
            c.word * 4,
            self.index,
            c.lane
        );
        self.violation(Check::SharedRace, 1 << c.lane, text)
    }
}
