// What a step means for one sequence. Every kernel asks here, so that all of them agree on which tokens exist: append
// on where a token goes, decode on how many are visible, advance on what the next step begins with.
#pragma once

#include "abi.h"

struct SequenceStep {
    int cached;       // tokens before the step, 0 where the stored length is out of range
    int first;        // its first new token among all new tokens (packed steps), else 0
    int added;        // tokens the step appends: all of the sequence's or, where they do not fit, none
    uint32_t status;  // KV_STATUS_* flags raised
};

// Whatever the device-side numbers are, 0 <= cached <= cached + added <= max_seq_len.
__device__ __forceinline__ SequenceStep sequenceStep(const KvStep& step, int sequence) {
    const int cached = step.seq_lens[sequence];
    int first = 0;
    int64_t added = step.new_tokens;
    if (step.cu_seqlens != nullptr) {
        first = step.cu_seqlens[sequence];
        added = static_cast<int64_t>(step.cu_seqlens[sequence + 1]) - first;
    }
    if (cached < 0 || cached > step.max_seq_len) return {0, first, 0, KV_STATUS_SEQ_LEN};
    if (added < 0) return {cached, first, 0, KV_STATUS_TOKENS};
    if (added > step.max_seq_len - cached) return {cached, first, 0, KV_STATUS_CAPACITY};
    return {cached, first, static_cast<int>(added), 0};
}

// The sequence that the `token`-th of all new tokens belongs to; `batch` where it belongs to none.
__device__ __forceinline__ int sequenceOfToken(const KvStep& step, int token) {
    if (step.cu_seqlens == nullptr) {
        return token / step.new_tokens;
    }
    // The last sequence that begins at or before the token; those that receive nothing begin where the next one does.
    int low = 0, high = step.batch;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (step.cu_seqlens[middle + 1] <= token) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

// One of all new tokens, and what the step means for its sequence.
struct NewToken {
    int sequence;
    unsigned nth;  // of the sequence's new tokens
    SequenceStep step;
    bool owned;  // whether it is a sequence's at all: a packed buffer may be longer than what it holds

    // Whether the step appends it.
    __device__ __forceinline__ bool added() const { return owned && nth < static_cast<unsigned>(step.added); }
    __device__ __forceinline__ int position() const { return step.cached + static_cast<int>(nth); }
};

__device__ __forceinline__ NewToken newToken(const KvStep& step, int token) {
    NewToken t = {sequenceOfToken(step, token), 0, {}, false};
    if (t.sequence >= step.batch) return t;
    t.owned = true;
    t.step = sequenceStep(step, t.sequence);
    const int first = step.cu_seqlens != nullptr ? t.step.first : t.sequence * step.new_tokens;
    // Unsigned: a token before the sequence's first (cu_seqlens not starting at 0) is beyond those added.
    t.nth = static_cast<unsigned>(token) - static_cast<unsigned>(first);
    return t;
}

__device__ __forceinline__ void flag(const KvStep& step, int sequence, uint32_t status) {
    if (status != 0 && step.status != nullptr) {
        atomicOr(&step.status[sequence], status);
    }
}
