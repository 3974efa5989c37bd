//! One look at the addresses of all lanes, in vectors where the processor has them: what the compiler makes of the
//! plain loops is several times as slow.

use crate::exec::lanes::{each, wide};
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// The lanes' addresses, with those of lanes that `mask` lacks replaced by another lane's: what holds for all of them
/// holds for the lanes of the mask.
#[inline(always)]
pub(super) fn filled<T: Copy>(mask: u32, addresses: &[T; 32]) -> [T; 32] {
    let first = addresses[mask.trailing_zeros() as usize & 31];
    each(|l| {
        if mask >> l & 1 != 0 {
            addresses[l]
        } else {
            first
        }
    })
}

/// The bits that are set in any of `addresses`; and whether all of them are at `base` or up to `last` bytes behind.
#[inline(always)]
pub(super) fn survey(addresses: &[u64; 32], base: u64, last: u64) -> (u64, bool) {
    let (mut low, mut outside) = (0, 0);
    for address in addresses {
        // Memory has fewer than 2^63 bytes: what lies before the base or behind the last place sets a sign.
        let offset = address.wrapping_sub(base);
        outside |= offset | last.wrapping_sub(offset);
        low |= address;
    }
    (low, outside >> 63 == 0)
}

/// Whether all addresses are multiples of `align`, a power of two, and at `base` or up to `last` bytes behind: by one
/// look, which may say no where they are all the same.
#[inline(always)]
pub(super) fn plainly_within(addresses: &[u64; 32], base: u64, last: u64, align: u32) -> bool {
    let low = align.wrapping_sub(1);
    if last > u64::from(u32::MAX / 2) || base & u64::from(low) != 0 {
        return false;
    }
    // SAFETY: the wide build only where the processor has its features.
    unsafe {
        if wide() {
            u64::all_within::<true>(addresses, base, last as u32, low)
        } else {
            u64::all_within::<false>(addresses, base, last as u32, low)
        }
    }
}

/// Whether all lanes take part, each `size` bytes behind the one before.
#[inline(always)]
pub fn side_by_side(mask: u32, addresses: &[u64; 32], size: u32) -> bool {
    if mask != u32::MAX {
        return false;
    }
    // SAFETY: the wide build only where the processor has its features.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if wide() {
            return side_by_side_wide(addresses, size);
        }
        u64::side_by_side::<false>(addresses, size)
    }
}

/// [`Address::side_by_side`] for callers that may not be of the wide build.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn side_by_side_wide(addresses: &[u64; 32], size: u32) -> bool {
    // SAFETY: this is of the wide build, as far as it goes.
    unsafe { u64::side_by_side::<true>(addresses, size) }
}

/// Whether whole warps' accesses of 16 bytes a lane, at these offsets and `added`, multiples of 16, want no bank of shared
/// memory twice in any of their four passes.
#[inline(always)]
pub fn are_on_banks_apart(offsets: &[u32; 32], added: u32) -> bool {
    #[cfg(target_arch = "x86_64")]
    if wide() {
        // SAFETY: the processor has the features.
        return unsafe { fours_apart(offsets, added) };
    }
    // Eight lanes a pass have to be on eight different fours of banks.
    offsets.as_chunks::<8>().0.iter().all(|pass| {
        let mut fours = 0u32;
        for offset in pass {
            fours |= 1 << (offset.wrapping_add(added) >> 4 & 7);
        }
        fours == 0xff
    })
}

/// An address or an offset, as a register's lanes hold it.
pub(super) trait Address: Copy {
    /// Whether all lanes are from `base` to `span` bytes behind it, as far behind as a multiple of `low + 1`, which is a
    /// power of two.
    ///
    /// # Safety
    /// `WIDE` only where [`crate::exec::lanes::wide`] says so.
    unsafe fn all_within<const WIDE: bool>(
        lanes: &[Self; 32],
        base: Self,
        span: u32,
        low: u32,
    ) -> bool;

    /// [`Address::all_within`] for one lane.
    fn is_within(self, base: Self, span: u32, low: u32) -> bool;

    /// Whether the lanes are `size` bytes apart each from the one before.
    ///
    /// # Safety
    /// As for [`Address::all_within`].
    unsafe fn side_by_side<const WIDE: bool>(lanes: &[Self; 32], size: u32) -> bool;

    /// [`Address::all_within`] for the lanes of `mask`.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn within<const WIDE: bool>(
        lanes: &[Self; 32],
        mask: u32,
        base: Self,
        span: u32,
        low: u32,
    ) -> bool {
        if mask == u32::MAX {
            // SAFETY: the caller's promise.
            return unsafe { Self::all_within::<WIDE>(lanes, base, span, low) };
        }
        let mut left = mask;
        while left != 0 {
            if !lanes[left.trailing_zeros() as usize].is_within(base, span, low) {
                return false;
            }
            left &= left - 1;
        }
        true
    }
}

impl Address for u32 {
    #[inline(always)]
    unsafe fn all_within<const WIDE: bool>(
        lanes: &[u32; 32],
        base: u32,
        span: u32,
        low: u32,
    ) -> bool {
        #[cfg(target_arch = "x86_64")]
        if WIDE {
            // SAFETY: the caller's promise.
            return unsafe { words_within(lanes, base, span, low) };
        }
        lanes.iter().all(|lane| lane.is_within(base, span, low))
    }

    #[inline(always)]
    fn is_within(self, base: u32, span: u32, low: u32) -> bool {
        let behind = self.wrapping_sub(base);
        behind <= span && behind & low == 0
    }

    #[inline(always)]
    unsafe fn side_by_side<const WIDE: bool>(lanes: &[u32; 32], size: u32) -> bool {
        // Most that are not show it at their ends.
        if lanes[1].wrapping_sub(lanes[0]) != size || lanes[31].wrapping_sub(lanes[0]) != 31 * size
        {
            return false;
        }
        #[cfg(target_arch = "x86_64")]
        if WIDE {
            // SAFETY: the caller's promise.
            return unsafe { words_side_by_side(lanes, size) };
        }
        lanes.windows(2).all(|w| w[1].wrapping_sub(w[0]) == size)
    }
}

impl Address for u64 {
    #[inline(always)]
    unsafe fn all_within<const WIDE: bool>(
        lanes: &[u64; 32],
        base: u64,
        span: u32,
        low: u32,
    ) -> bool {
        #[cfg(target_arch = "x86_64")]
        if WIDE {
            // SAFETY: the caller's promise.
            return unsafe { pairs_within(lanes, base, span, low) };
        }
        lanes.iter().all(|lane| lane.is_within(base, span, low))
    }

    #[inline(always)]
    fn is_within(self, base: u64, span: u32, low: u32) -> bool {
        let behind = self.wrapping_sub(base);
        behind <= u64::from(span) && behind & u64::from(low) == 0
    }

    #[inline(always)]
    unsafe fn side_by_side<const WIDE: bool>(lanes: &[u64; 32], size: u32) -> bool {
        let size = u64::from(size);
        if lanes[1].wrapping_sub(lanes[0]) != size || lanes[31].wrapping_sub(lanes[0]) != 31 * size
        {
            return false;
        }
        #[cfg(target_arch = "x86_64")]
        if WIDE {
            // SAFETY: the caller's promise.
            return unsafe { pairs_side_by_side(lanes, size) };
        }
        lanes.windows(2).all(|w| w[1].wrapping_sub(w[0]) == size)
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn words_within(lanes: &[u32; 32], base: u32, span: u32, low: u32) -> bool {
    let base = _mm256_set1_epi32(base as i32);
    let (mut farthest, mut any) = (_mm256_setzero_si256(), _mm256_setzero_si256());
    for eight in lanes.as_chunks::<8>().0 {
        // SAFETY: eight words are 32 bytes.
        let eight = unsafe { _mm256_loadu_si256(eight.as_ptr().cast()) };
        let behind = _mm256_sub_epi32(eight, base);
        farthest = _mm256_max_epu32(farthest, behind);
        any = _mm256_or_si256(any, behind);
    }
    not_past(farthest, span) && _mm256_testz_si256(any, _mm256_set1_epi32(low as i32)) != 0
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn pairs_within(lanes: &[u64; 32], base: u64, span: u32, low: u32) -> bool {
    let base = _mm256_set1_epi64x(base as i64);
    let (mut farthest, mut any) = (_mm256_setzero_si256(), _mm256_setzero_si256());
    for four in lanes.as_chunks::<4>().0 {
        // SAFETY: four of 64 bits are 32 bytes.
        let four = unsafe { _mm256_loadu_si256(four.as_ptr().cast()) };
        let behind = _mm256_sub_epi64(four, base);
        // Where all upper halves are zero, which `any` tells, the greatest of the lower ones count.
        farthest = _mm256_max_epu32(farthest, behind);
        any = _mm256_or_si256(any, behind);
    }
    let none_of = _mm256_set1_epi64x((u64::from(u32::MAX) << 32 | u64::from(low)) as i64);
    not_past(farthest, span) && _mm256_testz_si256(any, none_of) != 0
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn fours_apart(offsets: &[u32; 32], added: u32) -> bool {
    let added = _mm256_set1_epi32(added as i32);
    let mut fours = _mm256_setzero_si256();
    // A byte for each pass.
    let mut first = _mm256_set1_epi32(1);
    for pass in offsets.as_chunks::<8>().0 {
        // SAFETY: eight words are 32 bytes.
        let pass = unsafe { _mm256_loadu_si256(pass.as_ptr().cast()) };
        let rows = _mm256_srli_epi32::<4>(_mm256_add_epi32(pass, added));
        let four = _mm256_and_si256(rows, _mm256_set1_epi32(7));
        fours = _mm256_or_si256(fours, _mm256_sllv_epi32(first, four));
        first = _mm256_slli_epi32::<8>(first);
    }
    let upper = _mm256_extracti128_si256::<1>(fours);
    let half = _mm_or_si128(_mm256_castsi256_si128(fours), upper);
    let pair = _mm_or_si128(half, _mm_unpackhi_epi64(half, half));
    _mm_cvtsi128_si64(pair) as u32 | (_mm_cvtsi128_si64(pair) >> 32) as u32 == u32::MAX
}

/// Whether no word is more than `span`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn not_past(words: __m256i, span: u32) -> bool {
    let least = _mm256_min_epu32(words, _mm256_set1_epi32(span as i32));
    _mm256_movemask_epi8(_mm256_cmpeq_epi32(least, words)) == -1
}

/// [`Address::side_by_side`] in vectors. A part of what calls it: a call would cost as much again.
///
/// # Safety
/// The caller is of the wide build.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn words_side_by_side(lanes: &[u32; 32], size: u32) -> bool {
    let size = size as i32;
    // SAFETY: the caller's promise; eight words are 32 bytes.
    unsafe {
        let places = _mm256_mullo_epi32(
            _mm256_set1_epi32(size),
            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
        );
        let mut place = _mm256_add_epi32(_mm256_set1_epi32(lanes[0] as i32), places);
        let mut odd = _mm256_setzero_si256();
        for eight in lanes.as_chunks::<8>().0 {
            let eight = _mm256_loadu_si256(eight.as_ptr().cast());
            odd = _mm256_or_si256(odd, _mm256_xor_si256(eight, place));
            place = _mm256_add_epi32(place, _mm256_set1_epi32(8 * size));
        }
        _mm256_testz_si256(odd, odd) != 0
    }
}

/// As [`words_side_by_side`].
///
/// # Safety
/// As there.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn pairs_side_by_side(lanes: &[u64; 32], size: u64) -> bool {
    let (start, size) = (lanes[0] as i64, size as i64);
    // SAFETY: the caller's promise; four of 64 bits are 32 bytes.
    unsafe {
        let mut place = _mm256_setr_epi64x(
            start,
            start.wrapping_add(size),
            start.wrapping_add(2 * size),
            start.wrapping_add(3 * size),
        );
        let mut odd = _mm256_setzero_si256();
        for four in lanes.as_chunks::<4>().0 {
            let four = _mm256_loadu_si256(four.as_ptr().cast());
            odd = _mm256_or_si256(odd, _mm256_xor_si256(four, place));
            place = _mm256_add_epi64(place, _mm256_set1_epi64x(4 * size));
        }
        _mm256_testz_si256(odd, odd) != 0
    }
}
