// What a block works for, and which tokens it attends to, found from the lengths on the device: the launch knows
// capacities only.
#pragma once

#include "divisor.cuh"
#include "step.cuh"

// Tiles of tokens that every query sees, uncapped and unbiased. They are told by how many tokens the block has from their
// first one on: `most` or up to `count` - 1 fewer.
struct alignas(8) Plain {
    int most, count;

    __device__ __forceinline__ bool has(int left) const {
        return static_cast<unsigned>(most - left) < static_cast<unsigned>(count);
    }
};

struct Range {
    int begin, end;              // the block's own tokens in the cache
    int first_query;             // position of the sequence's first query; the others follow it
    Plain plain;
    int splits;                  // blocks that have something to attend to; the last one also takes new tokens
};

// `tile`: tokens that a warp takes at a time; `round`: those of a block's warps.
__device__ __forceinline__ Range rangeOfBlock(const KvDecodeParams& p, const SequenceStep& s, int split, int tile,
                                              int round) {
    const int visible = s.cached + s.added;
    const bool windowed = p.sliding_window > 0;
    Range r;
    // Tokens of the sequence that are in the cache: nothing is read from here on.
    const int resident = p.k_new.data != nullptr ? s.cached : visible;
    r.first_query = visible - p.query_tokens;
    // The first query sees furthest to the left, the last to the right.
    const int begin = windowed ? max(r.first_query + 1 - p.sliding_window, 0) : 0;
    // Whole rounds a split, shared out evenly: the first splits take one more. Where there are fewer rounds than splits,
    // one each.
    const int rounds = (resident - begin + round - 1) / round;
    const Division shares = divide(rounds, p.num_splits);
    r.splits = max(min(rounds, p.num_splits.value), 1);
    const int each = max(shares.quotient, 1), more = shares.quotient > 0 ? shares.remainder : 0;
    r.begin = begin + (split * each + min(split, more)) * round;
    r.end = min(r.begin + (each + (split < more ? 1 : 0)) * round, resident);

    const int plain_begin = windowed ? max(visible - p.sliding_window, 0) : 0;
    const int plain_end = p.soft_cap != 0.0f || p.alibi_slopes != nullptr ? 0 : min(r.first_query + 1, resident);
    r.plain = {r.end - plain_begin, max(plain_end - plain_begin - tile + 1, 0)};
    return r;
}

// What a block works for. Blocks of a unit have the same query rows, KV head and sequence, and share its splits. The main
// loop needs the registers: there it waits in shared memory, from where it comes 16 bytes at a time.
struct alignas(16) Place {
    int split, unit;
    int row_group, kv_head, sequence;
    int first_row;  // of the block's query rows, among the KV head's query_tokens * group_size
    int splits;  // that have tokens to attend to
    SequenceStep step;
    int first_query;  // position of the first query token
    int last_row;     // of the KV head's query rows
    int end;          // as in Range
    Plain plain;
};
