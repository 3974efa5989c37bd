//! Inputs and comparisons that the tests share.

use kv_kernels::reference::{BlockTable, CacheMap, PageOrder, PagedShape};

/// Numbers in −1…1, the same for the same seed (splitmix64).
pub fn noise(seed: u64, len: usize) -> Vec<f64> {
    let mut state = seed;
    (0..len)
        .map(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        })
        .collect()
}

#[track_caller]
pub fn assert_close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "lengths differ");
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        // Equality first: −∞ is a value that lse takes.
        assert!(
            found == expected || (found - expected).abs() <= tolerance,
            "[{index}] is {found}, not {expected} ± {tolerance}"
        );
    }
}

/// A paged map whose pages lie in reverse order, `max_pages` for each sequence.
pub fn reversed_pages(
    batch: usize,
    max_pages: usize,
    num_kv_heads: usize,
    page_size: usize,
    head_dim: usize,
    order: PageOrder,
) -> CacheMap {
    let pages: Vec<i32> = (0..(batch * max_pages) as i32).rev().collect();
    CacheMap::paged(
        PagedShape {
            num_pages: pages.len(),
            num_kv_heads,
            page_size,
            head_dim,
            order,
        },
        BlockTable {
            pages: &pages,
            batch,
            max_pages,
        },
    )
    .unwrap()
}
