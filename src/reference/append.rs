//! Append: new tokens go behind those a sequence already holds.

use super::error::{self, Error};
use super::layout::CacheMap;
use super::rows::{self, Rows};

/// New tokens and the cache they go to. `T` is whatever the cache stores:
/// rows are copied, never converted.
#[derive(Debug)]
pub struct Append<'a, K, V> {
    /// Where the vectors of both buffers lie.
    pub map: &'a CacheMap,
    /// Keys, [`CacheMap::elements`] of them.
    pub k_cache: &'a mut [K],
    /// Values, [`CacheMap::elements`] of them.
    pub v_cache: &'a mut [V],
    /// New keys, `[tokens, num_kv_heads, head_dim]`.
    pub k: &'a [K],
    /// New values, `[tokens, num_kv_heads, head_dim]`.
    pub v: &'a [V],
    /// How the new tokens divide among the sequences.
    pub rows: Rows<'a>,
    /// Tokens each sequence holds before, `[batch]`: a new token's position is
    /// the number of tokens before it.
    pub seq_lens: &'a [i32],
}

/// What an append did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Appended {
    /// Sequences whose new tokens would have passed the capacity, ascending.
    /// They were left untouched, all of their new tokens dropped.
    pub overflowed: Vec<usize>,
}

/// Write every sequence's new tokens at positions `seq_len`, `seq_len + 1`, ….
/// Lengths are not changed: that is [`advance`], once a step, after the last
/// layer.
///
/// # Errors
/// Lengths that do not fit the map ([`Error::Length`], [`Error::Batch`]),
/// negative lengths, ragged totals that go down, a block table entry that
/// names no page. On an error nothing has been written.
pub fn append<K: Copy, V: Copy>(args: Append<'_, K, V>) -> Result<Appended, Error> {
    let map = args.map;
    let placement = place(map, args.rows, args.seq_lens)?;
    check(
        map,
        &placement,
        ("k", args.k.len()),
        ("k_cache", args.k_cache.len()),
    )?;
    check(
        map,
        &placement,
        ("v", args.v.len()),
        ("v_cache", args.v_cache.len()),
    )?;
    copy(map, &placement, args.k, args.k_cache)?;
    copy(map, &placement, args.v, args.v_cache)?;
    Ok(Appended {
        overflowed: placement.overflowed,
    })
}

/// Refuse new rows or a buffer of the wrong length.
pub(super) fn check(
    map: &CacheMap,
    placement: &Placement,
    (new_name, new_len): (&'static str, usize),
    (cache_name, cache_len): (&'static str, usize),
) -> Result<(), Error> {
    let row = map.num_kv_heads() * map.head_dim();
    let elements = error::product(new_name, &[placement.tokens, row])?;
    error::length(
        new_name,
        new_len,
        elements,
        "[tokens, num_kv_heads, head_dim]",
    )?;
    error::length(cache_name, cache_len, map.elements(), "the cache")
}

/// Put checked rows where they belong in one buffer.
pub(super) fn copy<T: Copy>(
    map: &CacheMap,
    placement: &Placement,
    new: &[T],
    cache: &mut [T],
) -> Result<(), Error> {
    for token in &placement.placed {
        for head in 0..map.num_kv_heads() {
            let from = (token.row * map.num_kv_heads() + head) * map.head_dim();
            let to = map.vector(token.sequence, head, token.position)?;
            cache[to].copy_from_slice(&new[from..from + map.head_dim()]);
        }
    }
    Ok(())
}

/// After the last layer of a step: add each sequence's new tokens to its
/// length, in place. A sequence that would pass `capacity` keeps its length,
/// as [`append`] left its tokens untouched, and is listed in the result.
///
/// # Errors
/// [`Error::Batch`], [`Error::Negative`], and those of [`Rows::ranges`].
pub fn advance(seq_lens: &mut [i32], rows: Rows<'_>, capacity: usize) -> Result<Appended, Error> {
    let ranges = rows.ranges()?;
    let lengths = error::lengths("seq_lens", seq_lens, ranges.len())?;
    let mut overflowed = Vec::new();
    for (sequence, range) in ranges.iter().enumerate() {
        if range.is_empty() {
            continue;
        }
        let after = lengths[sequence].saturating_add(range.len());
        match i32::try_from(after) {
            Ok(new) if after <= capacity => seq_lens[sequence] = new,
            _ => overflowed.push(sequence),
        }
    }
    Ok(Appended { overflowed })
}

/// Where a new token goes.
pub(super) struct Placed {
    pub row: usize,
    pub sequence: usize,
    pub position: usize,
}

/// Where all new tokens go. Every slot has been looked up once, so a block
/// table at fault is found before anything is written.
pub(super) struct Placement {
    pub tokens: usize,
    pub placed: Vec<Placed>,
    pub overflowed: Vec<usize>,
}

pub(super) fn place(map: &CacheMap, rows: Rows<'_>, seq_lens: &[i32]) -> Result<Placement, Error> {
    let ranges = rows.ranges()?;
    error::batch("rows", ranges.len(), map.batch())?;
    let lengths = error::lengths("seq_lens", seq_lens, map.batch())?;
    let mut placement = Placement {
        tokens: rows::total(&ranges),
        placed: Vec::new(),
        overflowed: Vec::new(),
    };
    for (sequence, range) in ranges.into_iter().enumerate() {
        let seq_len = lengths[sequence];
        // A sequence without new tokens has nothing to drop.
        if !range.is_empty() && seq_len.saturating_add(range.len()) > map.capacity() {
            placement.overflowed.push(sequence);
            continue;
        }
        for (new, row) in range.enumerate() {
            let position = seq_len + new;
            map.slot(sequence, position)?;
            placement.placed.push(Placed {
                row,
                sequence,
                position,
            });
        }
    }
    Ok(placement)
}
