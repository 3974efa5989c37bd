// The address rule of abi.h: where a token's vector of one KV head begins.
#pragma once

#include "abi.h"

// Elements from the start of K (or of V) to the vector of `head` at position `token` of `sequence`.
__device__ __forceinline__ int64_t cacheOffset(const KvCache& cache, int sequence, int head, int token) {
    const int page = sequence;  // a contiguous cache: one page a sequence
    const int offset = token;
    return page * cache.page_stride + head * cache.head_stride + offset * cache.token_stride;
}

// Elements from the start of a step's new vectors to that of `head` of the sequence's `token`-th new token.
// `first` is the sequence's first token among all where they are packed.
__device__ __forceinline__ int64_t tokenOffset(const KvTokens& tokens, bool packed, int first, int sequence, int token,
                                               int head) {
    const int64_t start = packed ? first * tokens.token_stride : sequence * tokens.batch_stride;
    return start + token * tokens.token_stride + head * tokens.head_stride;
}
