//! Tests: what the shadow of shared memory finds is held against the whole history of the accesses.

use super::case::{Case, Conflict};
use super::deed::Deed;
use super::order::Order;
use super::shadow::SharedRaces;
use crate::exec::access::{ROW, Rows, bits};
use rand_core::{RngCore, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

const WARPS: usize = 3;
const BYTES: u32 = 1024;

/// An access of the past, of one byte.
struct Past {
    byte: u32,
    warp: usize,
    lane: usize,
    tick: u32,
    writes: bool,
    strong: bool,
}

/// All accesses that there have been, kept one by one.
#[derive(Default)]
struct History(Vec<Past>);

impl History {
    /// The first lane that races with one of them, by what defines a race.
    fn racing(&self, order: &Order, warp: usize, deed: &Deed) -> Option<usize> {
        bits(deed.mask).find(|&lane| {
            let first = deed.addresses[lane] as u32;
            self.0.iter().any(|past| {
                (first..first + deed.size).contains(&past.byte)
                    && (past.writes || deed.writes)
                    && !(past.strong && deed.strong)
                    && !(past.warp == warp && past.lane == lane)
                    && past.tick > order.known(warp, past.warp)
            })
        })
    }

    /// Of several lanes that write a byte in one instruction the last counts, and so it does of atomics in a row.
    fn note(&mut self, order: &Order, warp: usize, deed: &Deed) {
        let before = self.0.len();
        for lane in bits(deed.mask) {
            let first = deed.addresses[lane] as u32;
            let bytes = first..first + deed.size;
            let mut index = 0;
            self.0.retain(|past| {
                index += 1;
                let hidden = index > before || past.strong && deed.strong;
                !(deed.writes && hidden && bytes.contains(&past.byte))
            });
            self.0.extend(bytes.map(|byte| Past {
                byte,
                warp,
                lane,
                tick: order.tick(),
                writes: deed.writes,
                strong: deed.strong,
            }));
        }
    }
}

struct Random(Xoshiro256PlusPlus);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0.next_u32() % limit
    }

    /// Addresses as kernels have them: side by side, strided, the same for some lanes, or anywhere.
    fn addresses(&mut self, size: u32) -> [u64; 32] {
        let room = BYTES - 32 * size;
        // Often at the same place, so that accesses meet.
        let base = self.below(2) * self.below(room / size + 1) * size;
        let shape = self.below(4);
        std::array::from_fn(|lane| {
            u64::from(match shape {
                0 => base / 16 * 16 + lane as u32 * size,
                1 => base + (31 - lane as u32) * size,
                2 => base + lane as u32 / 8 * size,
                _ => self.below(BYTES / size) * size,
            })
        })
    }

    /// Something that orders.
    fn order(&mut self, order: &mut Order) {
        match self.below(4) {
            0 => {
                let warp = self.below(WARPS as u32) as usize;
                order.syncwarp(warp);
            }
            1 => {
                // One warp tells another.
                let (from, to) = (self.below(WARPS as u32), self.below(WARPS as u32));
                order.arrive(1, from as usize);
                order.arrive(1, to as usize);
                order.complete(0, 1, 1 << to, 1 << to);
            }
            _ => {
                (0..WARPS).for_each(|warp| order.arrive(0, warp));
                order.complete(0, 0, (1 << WARPS) - 1, (1 << WARPS) - 1);
            }
        }
    }
}

/// Does it the way of whole warps' rows, if that leads.
fn entered(shadow: &mut SharedRaces, order: &Order, warp: usize, deed: &Deed) -> bool {
    if deed.mask != u32::MAX || deed.size != ROW || deed.strong {
        return false;
    }
    let offsets = deed.addresses.map(|address| address as u32);
    // SAFETY: the addresses are multiples of the size, inside the memory.
    let rows = unsafe { Rows::new(&offsets, 0) };
    let Some(mut sight) = shadow.sight(order, warp, 0) else {
        return false;
    };
    // SAFETY: as above; the rows are seen before they are noted.
    unsafe {
        (0..32).for_each(|lane| sight.see(rows, lane));
        if !sight.is_past() {
            return false;
        }
        let mut pen = shadow.pen(&sight, deed.writes);
        (0..32).for_each(|lane| pen.note(rows, lane));
    }
    true
}

/// Does it, in words of any shape where `plainly`.
fn held(
    shadow: &mut SharedRaces,
    order: &Order,
    warp: usize,
    deed: &Deed,
    plainly: bool,
) -> Option<Conflict> {
    let case = Case::new(shadow, order, warp, 0, true, deed);
    match (plainly, deed.writes) {
        (false, _) => case.hold(deed),
        (true, false) => case.run::<0, false>(deed),
        (true, true) => case.run::<0, true>(deed),
    }
}

/// Whole instructions at a glance, lanes word by word, and the history itself find the same.
#[test]
fn what_is_found_is_what_happened() {
    let (mut races, mut rows) = (0, 0);
    for seed in 0..3000 {
        let mut random = Random(Xoshiro256PlusPlus::seed_from_u64(seed));
        let mut order = Order::new(1, WARPS);
        let (mut glanced, mut plain) = (
            SharedRaces::new(BYTES as usize),
            SharedRaces::new(BYTES as usize),
        );
        let mut history = History::default();
        // Every other history is one of whole warps' rows for the most part, none of them atomic.
        let mostly = |random: &mut Random| seed % 2 == 1 && random.below(8) != 0;
        for step in 0..60 {
            if random.below(3) != 0 {
                random.order(&mut order);
            }
            if mostly(&mut random) {
                random.order(&mut order);
            }
            if random.below(16) == 0 {
                // The next block begins in the same shadow.
                order.forget();
                glanced.forget();
                plain.forget();
                history = History::default();
            }
            let size = if mostly(&mut random) {
                ROW
            } else {
                1 << random.below(5)
            };
            let addresses = random.addresses(size);
            let strong = seed % 2 == 0 && random.below(if seed % 4 == 0 { 8 } else { 2 }) == 0;
            let deed = Deed {
                mask: if mostly(&mut random) {
                    u32::MAX
                } else {
                    [
                        u32::MAX,
                        u32::MAX,
                        1 << random.below(4),
                        random.0.next_u32(),
                    ][random.below(4) as usize]
                },
                addresses: &addresses,
                size,
                writes: random.below(2) == 0,
                strong,
            };
            let warp = random.below(WARPS as u32) as usize;
            let by_rows = entered(&mut glanced, &order, warp, &deed);
            rows += u32::from(by_rows);
            let found = if by_rows {
                None
            } else {
                held(&mut glanced, &order, warp, &deed, false)
            };
            let plainly = held(&mut plain, &order, warp, &deed, true);
            let racing = history.racing(&order, warp, &deed);
            let case = || format!("seed {seed}, step {step}, warp {warp}: {deed:?}");
            assert_eq!(found, plainly, "{}", case());
            assert_eq!(found.map(|c| c.lane), racing, "{}", case());
            if found.is_some() {
                races += 1;
                break;
            }
            history.note(&order, warp, &deed);
        }
    }
    assert!(races > 1000, "{races} races were met");
    assert!(rows > 1000, "{rows} instructions went by rows");
}
