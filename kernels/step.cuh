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
    SequenceStep s = {step.seq_lens[sequence], 0, step.new_tokens, 0};
    if (step.cu_seqlens != nullptr) {
        s.first = step.cu_seqlens[sequence];
        s.added = step.cu_seqlens[sequence + 1] - s.first;
    }
    if (s.cached < 0 || s.cached > step.max_seq_len) {
        return {0, s.first, 0, KV_STATUS_SEQ_LEN};
    }
    if (s.added < 0) {
        return {s.cached, s.first, 0, KV_STATUS_TOKENS};
    }
    if (s.added > step.max_seq_len - s.cached) {
        return {s.cached, s.first, 0, KV_STATUS_CAPACITY};
    }
    return s;
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

__device__ __forceinline__ void raise(const KvStep& step, int sequence, uint32_t status) {
    if (status != 0 && step.status != nullptr) {
        atomicOr(&step.status[sequence], status);
    }
}
