//! Four numbers of 32 bits side by side: a vector where the processor is known to have them.

/// Four numbers; where they are compared for more, below 2^31 or, since their sign counts, less than anything.
#[derive(Debug, Clone, Copy)]
pub struct Four(Inner);

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

#[cfg(target_arch = "x86_64")]
type Inner = __m128i;
#[cfg(not(target_arch = "x86_64"))]
type Inner = [u32; 4];

/// An operation on two of them: the processor's, and what it does to each pair.
macro_rules! operation {
    ($(#[doc = $doc:literal])* $name:ident, $vector:ident, |$a:ident, $b:ident| $one:expr) => {
        $(#[doc = $doc])*
        #[inline(always)]
        pub fn $name(self, other: Four) -> Four {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: SSE2 is part of x86-64.
            return Four(unsafe { $vector(self.0, other.0) });
            #[cfg(not(target_arch = "x86_64"))]
            Four(std::array::from_fn(|k| {
                let ($a, $b) = (self.0[k], other.0[k]);
                $one
            }))
        }
    };
}

impl Four {
    operation!(
        /// Bits that are set in both.
        and, _mm_and_si128, |a, b| a & b);
    operation!(
        /// Bits that are set in the other and not in this.
        out_of, _mm_andnot_si128, |a, b| !a & b);
    operation!(
        /// Bits that are set in either.
        or, _mm_or_si128, |a, b| a | b);
    operation!(
        /// Bits that differ.
        xor, _mm_xor_si128, |a, b| a ^ b);
    operation!(
        /// The sum of each two.
        plus, _mm_add_epi32, |a, b| a.wrapping_add(b));
    operation!(
        /// Where the two are equal.
        equals, _mm_cmpeq_epi32, |a, b| if a == b { u32::MAX } else { 0 });
    operation!(
        /// Where this is more than the other.
        exceeds, _mm_cmpgt_epi32, |a, b| if a > b { u32::MAX } else { 0 });

    /// The more of each two.
    #[inline(always)]
    pub fn most(self, other: Four) -> Four {
        let more = self.exceeds(other);
        more.and(self).or(more.out_of(other))
    }

    /// The last two places in the first two, and there too.
    #[inline(always)]
    pub fn upper(self) -> Four {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: SSE2 is part of x86-64.
        return Four(unsafe { _mm_unpackhi_epi64(self.0, self.0) });
        #[cfg(not(target_arch = "x86_64"))]
        Four([self.0[2], self.0[3], self.0[2], self.0[3]])
    }

    /// Each place's in the next; zero in the first.
    #[inline(always)]
    pub fn next(self) -> Four {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: SSE2 is part of x86-64.
        return Four(unsafe { _mm_slli_si128::<4>(self.0) });
        #[cfg(not(target_arch = "x86_64"))]
        Four([0, self.0[0], self.0[1], self.0[2]])
    }

    /// The same in all places.
    #[inline(always)]
    pub fn all(value: u32) -> Four {
        Four::new([value; 4])
    }

    /// From an array.
    #[inline(always)]
    pub const fn new(values: [u32; 4]) -> Four {
        // SAFETY: both are 16 bytes, of which any will do.
        Four(unsafe { std::mem::transmute::<[u32; 4], Inner>(values) })
    }

    /// As an array.
    #[inline(always)]
    pub fn array(self) -> [u32; 4] {
        // SAFETY: as above.
        unsafe { std::mem::transmute::<Inner, [u32; 4]>(self.0) }
    }

    /// Whether this mask is set everywhere.
    #[inline(always)]
    pub fn is_everywhere(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: SSE2 is part of x86-64.
        return unsafe { _mm_movemask_epi8(self.0) == 0xffff };
        #[cfg(not(target_arch = "x86_64"))]
        self.0.iter().all(|&mask| mask == u32::MAX)
    }

    /// Whether this mask is set anywhere.
    #[inline(always)]
    pub fn any(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: SSE2 is part of x86-64.
        return unsafe { _mm_movemask_epi8(self.0) != 0 };
        #[cfg(not(target_arch = "x86_64"))]
        self.0.iter().any(|&mask| mask != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_those_of_each_place() {
        let (a, b) = (Four::new([1, 6, 3, 0x7fff_fffe]), Four::new([1, 3, 6, 0]));
        assert_eq!(a.and(b).array(), [1, 2, 2, 0]);
        assert_eq!(a.out_of(b).array(), [0, 1, 4, 0]);
        assert_eq!(a.or(b).array(), [1, 7, 7, 0x7fff_fffe]);
        assert_eq!(a.xor(b).array(), [0, 5, 5, 0x7fff_fffe]);
        assert_eq!(a.equals(b).array(), [u32::MAX, 0, 0, 0]);
        assert_eq!(a.exceeds(b).array(), [0, u32::MAX, 0, u32::MAX]);
        assert_eq!(a.upper().array(), [3, 0x7fff_fffe, 3, 0x7fff_fffe]);
        assert_eq!(a.next().array(), [0, 1, 6, 3]);
        assert_eq!(a.plus(b).array(), [2, 9, 9, 0x7fff_fffe]);
        assert_eq!(a.most(b).array(), [1, 6, 6, 0x7fff_fffe]);
        assert!(a.equals(a).is_everywhere() && !a.equals(b).is_everywhere());
        assert!(a.equals(b).any() && !a.equals(Four::all(9)).any());
    }
}
