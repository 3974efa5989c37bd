// Which vectors of a cache an operation covers, one after another.
#pragma once

#include "divisor.cuh"

// A vector, and whether the operation covers it: lengths on the device may say that it does not.
struct Spot {
    int sequence, head;
    int64_t vector;  // among all of K's or V's
    bool covered;
};

__device__ __forceinline__ Spot spotOf(const KvSpan& span, int sequence, int head, int nth_token) {
    const int token = span.first + nth_token;
    const int64_t pair = static_cast<int64_t>(sequence) * span.num_kv_heads.value + head;
    Spot spot = {sequence, head, pair * span.max_seq_len + token, true};
    if (span.from != nullptr) spot.covered = token >= span.from[sequence];
    if (span.to != nullptr) spot.covered = spot.covered && token < span.to[sequence];
    return spot;
}

// Of the span's vectors the `index`-th: a KV head's tokens follow each other, as in memory.
__device__ __forceinline__ Spot spotOfVector(const KvSpan& span, unsigned index) {
    const Division token = divide(static_cast<int>(index), span.tokens);
    const Division head = divide(token.quotient, span.num_kv_heads);
    Spot none = {0, 0, 0, false};
    if (head.quotient >= span.batch) return none;
    return spotOf(span, head.quotient, head.remainder, token.remainder);
}

// Of the span's vectors of one KV head the `index`-th.
__device__ __forceinline__ Spot spotOfHead(const KvSpan& span, int head, int index) {
    const Division token = divide(index, span.tokens);
    return spotOf(span, token.quotient, head, token.remainder);
}
