//! What the memory system would do with a warp's addresses: sectors of global memory, wavefronts of
//! shared memory.

/// Sectors of global memory that a warp's access touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sectors {
    /// How many distinct ones.
    pub count: u32,
    /// The fewest that would hold as many distinct bytes.
    pub ideal: u32,
    /// The lowest, by number (address ÷ 32).
    pub first: u64,
    /// The highest.
    pub last: u64,
}

impl Sectors {
    /// Whether they lie side by side.
    pub fn is_range(&self) -> bool {
        self.last - self.first + 1 == u64::from(self.count)
    }
}

/// 32-byte sectors that the lanes of `mask`, one of them at least, touch with `size` bytes each.
pub fn global_sectors(mask: u32, addresses: &[u64; 32], size: u32) -> Sectors {
    if super::access::side_by_side(mask, addresses, size) {
        // The common case.
        let first = addresses[0];
        let last = first + 32 * u64::from(size) - 1;
        return Sectors {
            count: (last >> 5) as u32 - (first >> 5) as u32 + 1,
            ideal: size,
            first: first >> 5,
            last: last >> 5,
        };
    }
    // Sectors in ascending order come out of ascending addresses, the common case; others are sorted.
    let mut list = [0u64; 64 + 32];
    let mut n = 0;
    let mut sorted = true;
    for lane in 0..32 {
        if mask >> lane & 1 == 0 {
            continue;
        }
        let (first, last) = (
            addresses[lane] >> 5,
            (addresses[lane] + u64::from(size) - 1) >> 5,
        );
        for sector in first..=last {
            if n > 0 && list[n - 1] == sector {
                continue;
            }
            sorted &= n == 0 || list[n - 1] < sector;
            list[n] = sector;
            n += 1;
        }
    }
    if !sorted {
        list[..n].sort_unstable();
        let mut kept = 0;
        for k in 0..n {
            if kept == 0 || list[kept - 1] != list[k] {
                list[kept] = list[k];
                kept += 1;
            }
        }
        n = kept;
    }
    Sectors {
        count: n as u32,
        ideal: distinct_bytes(mask, addresses, size).div_ceil(32),
        first: list[0],
        last: list[n.max(1) - 1],
    }
}

/// Distinct bytes that the lanes touch. Lanes overlap wholly or not at all for natural alignment.
fn distinct_bytes(mask: u32, addresses: &[u64; 32], size: u32) -> u32 {
    let mut list = [0u64; 32];
    let mut n = 0;
    let mut sorted = true;
    for lane in 0..32 {
        if mask >> lane & 1 != 0 {
            sorted &= n == 0 || list[n - 1] < addresses[lane];
            list[n] = addresses[lane];
            n += 1;
        }
    }
    if sorted {
        return n as u32 * size;
    }
    list[..n].sort_unstable();
    let mut distinct = 1;
    for k in 1..n {
        distinct += u32::from(list[k] != list[k - 1]);
    }
    distinct * size
}

/// Wavefronts of a shared-memory access, and the fewest that its width needs.
///
/// 32 banks of four bytes. Accesses of up to 4 bytes a lane go in one pass, of 8 bytes in two half-warps,
/// of 16 bytes in four quarter-warps; in a pass, each bank delivers one word a wavefront, and lanes that
/// want the same word share it. Two half-warp passes of which neither needs a bank twice, taken
/// together, are merged (as hardware does where lanes share words).
#[inline(always)]
pub fn shared_wavefronts(mask: u32, addresses: &[u64; 32], size: u32) -> (u32, u32) {
    match size {
        0..=4 => passes::<1, 32>(mask, addresses, size),
        8 => passes::<2, 16>(mask, addresses, size),
        _ => passes::<4, 8>(mask, addresses, size),
    }
}

/// [`shared_wavefronts`] where so many lanes go in a pass, each of which has `WORDS` words if it is as aligned as it is
/// large.
#[inline(always)]
fn passes<const WORDS: u32, const LANES: usize>(
    mask: u32,
    addresses: &[u64; 32],
    size: u32,
) -> (u32, u32) {
    let words: [u32; 32] = super::lanes::each(|lane| addresses[lane] as u32 >> 2);
    let mut low = 0;
    for address in addresses {
        low |= *address as u32;
    }
    let aligned = size.is_power_of_two() && low & (size - 1) == 0;
    let plain = aligned && (size == 4 * WORDS || size < 4);
    let (mut wavefronts, mut ideal) = (0, 0);
    for start in (0..32).step_by(LANES) {
        let lanes = ((1u64 << LANES) - 1) as u32;
        let here = mask >> start & lanes;
        if here == 0 {
            continue;
        }
        ideal += 1;
        // Mostly each bank is wanted once: then the lanes' banks together are as many as each by itself.
        let mut banks = 0u32;
        if plain {
            for lane in 0..LANES {
                // A multiple of the words each has: their banks do not wrap around.
                let wanted = ((1 << WORDS) - 1) << (words[start + lane] & 31);
                banks |= if here >> lane & 1 != 0 { wanted } else { 0 };
            }
        }
        wavefronts += if plain && banks.count_ones() == here.count_ones() * WORDS {
            1
        } else {
            conflicting_wavefronts(here << start, addresses, size)
        };
    }
    (wavefronts, ideal)
}

/// Wavefronts of the lanes of one pass, where a bank is wanted more than once: each bank's distinct words are listed.
fn conflicting_wavefronts(mask: u32, addresses: &[u64; 32], size: u32) -> u32 {
    // Up to 32 lanes of one word, or 8 lanes of four: 32 words.
    let mut words = [[std::mem::MaybeUninit::<u32>::uninit(); 32]; 32];
    let mut depth = [0u8; 32];
    let mut deepest = 0;
    for lane in super::access::bits(mask) {
        let first = addresses[lane] as u32 >> 2;
        let last = (addresses[lane] as u32 + size - 1) >> 2;
        for word in first..=last {
            let bank = (word & 31) as usize;
            let have = depth[bank] as usize;
            // SAFETY: the first `have` words of the bank have been written.
            let known = |w: &std::mem::MaybeUninit<u32>| unsafe { w.assume_init() } == word;
            if words[bank][..have].iter().any(known) {
                continue;
            }
            words[bank][have].write(word);
            depth[bank] += 1;
            deepest = deepest.max(depth[bank]);
        }
    }
    u32::from(deepest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strided(stride: u64) -> [u64; 32] {
        std::array::from_fn(|l| l as u64 * stride)
    }

    #[test]
    fn global_sectors_of_strides() {
        let global_sectors = |mask, addresses: &_, size| {
            let sectors = super::global_sectors(mask, addresses, size);
            (sectors.count, sectors.ideal)
        };
        assert_eq!(global_sectors(u32::MAX, &strided(4), 4), (4, 4));
        assert_eq!(global_sectors(u32::MAX, &strided(16), 16), (16, 16));
        assert_eq!(global_sectors(u32::MAX, &strided(32), 4), (32, 4));
        assert_eq!(global_sectors(u32::MAX, &strided(0), 4), (1, 1));
        // One word off the line: five sectors for four sectors' worth.
        assert_eq!(
            global_sectors(u32::MAX, &strided(4).map(|a| a + 4), 4),
            (5, 4)
        );
        assert_eq!(
            global_sectors(u32::MAX, &strided(4).map(|a| 124 - a), 4),
            (4, 4)
        );
        assert_eq!(global_sectors(1, &strided(4), 2), (1, 1));
    }

    #[test]
    fn sectors_side_by_side_are_a_range() {
        let of = |stride, size| super::global_sectors(u32::MAX, &strided(stride), size);
        let range = |s: Sectors| (s.first, s.last, s.is_range());
        assert_eq!(range(of(16, 16)), (0, 15, true));
        assert_eq!(range(of(4, 4)), (0, 3, true));
        assert_eq!(range(of(32, 4)), (0, 31, true));
        assert_eq!(range(of(64, 16)), (0, 62, false));
        let downwards = strided(4).map(|a| 1148 - a);
        let sectors = super::global_sectors(u32::MAX, &downwards, 4);
        assert_eq!(range(sectors), (32, 35, true));
    }

    #[test]
    fn shared_wavefronts_of_strides() {
        assert_eq!(shared_wavefronts(u32::MAX, &strided(4), 4), (1, 1));
        assert_eq!(shared_wavefronts(u32::MAX, &strided(8), 4), (2, 1));
        assert_eq!(shared_wavefronts(u32::MAX, &strided(128), 4), (32, 1));
        assert_eq!(shared_wavefronts(u32::MAX, &strided(132), 4), (1, 1));
        assert_eq!(shared_wavefronts(u32::MAX, &strided(0), 4), (1, 1));
        assert_eq!(shared_wavefronts(u32::MAX, &strided(2), 2), (1, 1));
        assert_eq!(shared_wavefronts(u32::MAX, &strided(8), 8), (2, 2));
        assert_eq!(shared_wavefronts(u32::MAX, &strided(16), 16), (4, 4));
        assert_eq!(shared_wavefronts(u32::MAX, &strided(32), 16), (8, 4));
        for stride in [0, 16, 32, 48, 128, 144] {
            let addresses = strided(stride);
            assert_eq!(
                super::super::access::are_on_banks_apart(&addresses.map(|a| a as u32), 16),
                shared_wavefronts(u32::MAX, &addresses, 16).0 == 4 && stride != 0
            );
        }
        assert_eq!(shared_wavefronts(0xff, &strided(128), 16), (8, 1));
        assert_eq!(shared_wavefronts(0x7ff, &strided(24), 8), (1, 1));
        assert_eq!(shared_wavefronts(0x1_0001, &strided(16), 8), (2, 2));
        // Halves of words, and words that lie across two.
        assert_eq!(shared_wavefronts(u32::MAX, &strided(6), 2), (2, 1));
        assert_eq!(
            shared_wavefronts(u32::MAX, &strided(4).map(|a| a + 2), 4),
            (2, 1)
        );
        assert_eq!(
            shared_wavefronts(3, &strided(128).map(|a| a + 1), 1),
            (2, 1)
        );
    }
}
