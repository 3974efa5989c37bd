// Which vectors of a cache an operation covers, one after another.
#pragma once

#include "divisor.cuh"

// One of a span's vectors at a time. A KV head's tokens follow each other, as in memory.
struct SpanWalk {
    const KvSpan& span;
    int last;             // one past the last token of the span
    int sequence, head;
    int token;
    int begin, end;       // of the tokens covered: lengths on the device may leave some out, or all
    uint32_t first_vector;  // that of the head's token 0

    __device__ __forceinline__ explicit SpanWalk(const KvSpan& span_)
        : span(span_), last(span_.first + span_.tokens.value) {}

    // Goes to the `index`-th of all vectors; beyond them none is covered.
    __device__ __forceinline__ void goTo(unsigned index) {
        const Division of_tokens = divide(static_cast<int>(index), span.tokens);
        const Division of_heads = divide(of_tokens.quotient, span.num_kv_heads);
        goTo(of_heads.quotient, of_heads.remainder, of_tokens.remainder);
    }

    // Goes to the `index`-th vector of one KV head.
    __device__ __forceinline__ void goTo(unsigned index, int of_head) {
        const Division of_tokens = divide(static_cast<int>(index), span.tokens);
        goTo(of_tokens.quotient, of_head, of_tokens.remainder);
    }

    // Whether `count` vectors further on is still the same head, and if so, goes there.
    __device__ __forceinline__ bool advance(int count) {
        if (last - token <= count) return false;
        token += count;
        return true;
    }

    __device__ __forceinline__ bool covered() const { return token >= begin && token < end; }

    // Among all of K's or V's.
    __device__ __forceinline__ uint32_t vector() const { return first_vector + token; }

  private:
    __device__ __forceinline__ void goTo(int to_sequence, int to_head, int nth_token) {
        sequence = to_sequence;
        head = to_head;
        token = span.first + nth_token;
        first_vector = (sequence * span.num_kv_heads.value + head) * span.max_seq_len;
        begin = 0;
        end = sequence < span.batch ? last : 0;
        if (span.from != nullptr && sequence < span.batch) begin = span.from[sequence];
        if (span.to != nullptr && sequence < span.batch) end = min(span.to[sequence], last);
    }
};
