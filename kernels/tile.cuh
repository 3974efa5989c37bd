// A warp's tile of K or V: kTokens rows of kHeadDim 16-bit elements, as they lie in memory, row after row, in shared
// memory swizzled so that no access conflicts.
//
// Memory and shared memory alike are chunks of 16 bytes, n = kHeadDim / 8 of them a row. Written, eight neighbouring
// lanes take eight neighbouring chunks: all 32 banks once. Read by ldmatrix, eight lanes take the same chunk of eight
// rows: chunks n apart, which fall on 8 / gcd(n, 8) different groups of four banks only. So row r exchanges its chunks
// within aligned sets of gcd(n, 8) by exclusive or:
//
//     chunk c of row r lies at r * n + (c ^ x),   x = r / (8 / gcd) % gcd
//
//     n = 8 (head_dim 64), x = r % 8       n = 10 (head_dim 80), x = r / 4 % 2
//     row 0:  0 1 2 3 4 5 6 7              row 0:  0 1 2 3 4 5 6 7 8 9
//     row 1:  1 0 3 2 5 4 7 6              ...
//     row 2:  2 3 0 1 6 7 4 5              row 4:  1 0 3 2 5 4 7 6 9 8
//
// which leaves every aligned set of eight chunks on its banks (writes stay without conflict) and puts a column's eight
// rows on all of them.
#pragma once

#include <utility>

#include "async_copy.cuh"
#include "mma.cuh"

// A number that is a constant wherever it is passed.
template <int kValue>
struct Constant {
    __host__ __device__ constexpr operator int() const { return kValue; }
};

// Calls body with Constant<0>, …, Constant<kCount - 1>: a loop whose counter may be a template argument.
template <int kCount, typename Body, int... kIndex>
__device__ __forceinline__ void unrolled(const Body& body, std::integer_sequence<int, kIndex...>) {
    (body(Constant<kIndex>{}), ...);
}
template <int kCount, typename Body>
__device__ __forceinline__ void unrolled(const Body& body) {
    unrolled<kCount>(body, std::make_integer_sequence<int, kCount>{});
}

// Hides from the compiler how x came about.
__device__ __forceinline__ void keepInRegister(uint32_t& x) { asm volatile("" : "+r"(x)); }

template <int kHeadDim, int kTokens>
struct Tile {
    static constexpr int kChunks = kHeadDim / kPerVector;  // of a row
    static constexpr int kRowBytes = kChunks * KV_VECTOR_BYTES;
    static constexpr int kBytes = kTokens * kRowBytes;
    static constexpr int kSet = kChunks % 8 == 0 ? 8 : kChunks % 4 == 0 ? 4 : 2;  // gcd(kChunks, 8)
    static_assert(kChunks % 2 == 0 && kTokens % 16 == 0, "whole fragments");

    // Which chunk of its set changes places with the first one in this row.
    static __host__ __device__ constexpr int exchange(int row) { return row / (8 / kSet) % kSet; }

    // Chunks a warp copies at a time repeat their exchanges after so many copies: whole periods of eight rows.
    static constexpr int kCopies = kTokens * kChunks / 32;
    static constexpr int kPeriod = kChunks % 4 == 0 ? kChunks / 4 : kChunks / 2;
    static_assert(kCopies * 32 == kTokens * kChunks, "all lanes copy alike");

    // Where a lane puts what it copies, and where it reads fragments: offsets into a tile, made once.
    struct Lane {
        uint32_t copy[kPeriod];
        uint32_t k[kSet / 2];
        uint32_t v[kSet / 2];
    };

    static __device__ __forceinline__ void place(Lane& at, uint32_t base, int lane) {
#pragma unroll
        for (int i = 0; i < kPeriod; i++) {
            const int chunk = i * 32 + lane;
            at.copy[i] = base + (chunk ^ exchange(chunk / kChunks)) * KV_VECTOR_BYTES;
        }
        // Rows and chunks of the four matrices of a fragment, as ldmatrix numbers its lanes. Keys: tokens are rows of
        // A. Values: transposed by the load, tokens are columns of A.
        const int k_row = lane % 16, k_chunk = lane / 16;
        const int v_row = lane % 8 + lane / 16 * 8, v_chunk = lane / 8 % 2;
#pragma unroll
        for (int i = 0; i < kSet / 2; i++) {
            at.k[i] = base + k_row * kRowBytes + ((2 * i + k_chunk) ^ exchange(k_row)) * KV_VECTOR_BYTES;
            at.v[i] = base + v_row * kRowBytes + ((2 * i + v_chunk) ^ exchange(v_row)) * KV_VECTOR_BYTES;
        }
        // The compiler would rather work these out again in every tile than keep them: a fifth of the instructions. Where
        // sets are of two there are many, and a bit of each row tells them apart: not worth the registers.
        if constexpr (kSet > 2) {
#pragma unroll
            for (int i = 0; i < kPeriod; i++) keepInRegister(at.copy[i]);
        }
#pragma unroll
        for (int i = 0; i < kSet / 2; i++) {
            keepInRegister(at.k[i]);
            keepInRegister(at.v[i]);
        }
    }

    // Has the warp copy a tile to the kSlot-th place of its ring. `from` is the lane's first chunk, a global address.
    // Only the first `rows` rows are read; the others become zeros, so that what lies there, NaN perhaps, has no part
    // in a sum even with weight 0.
    template <int kSlot>
    static __device__ __forceinline__ void copy(const Lane& at, size_t from, int rows, int lane) {
        if (rows >= kTokens) {
            unrolled<kCopies>([&](auto i) {
                constexpr int kTo = kSlot * kBytes + i / kPeriod * kPeriod * 32 * KV_VECTOR_BYTES;
                copyAsync<kTo, i * 32 * KV_VECTOR_BYTES>(at.copy[i % kPeriod], from);
            });
        } else {
            unrolled<kCopies>([&](auto i) {
                constexpr int kTo = kSlot * kBytes + i / kPeriod * kPeriod * 32 * KV_VECTOR_BYTES;
                copyAsyncOrZero<kTo, i * 32 * KV_VECTOR_BYTES>(at.copy[i % kPeriod], from,
                                                               (i * 32 + lane) / kChunks < rows);
            });
        }
    }

    // Keys: A is 16 tokens from kFirst × elements 16 kStep, ….
    template <int kSlot, int kFirst, int kStep>
    static __device__ __forceinline__ FragmentA keys(const Lane& at) {
        constexpr int kSets = kStep / (kSet / 2);
        return loadMatrices<kSlot * kBytes + kFirst * kRowBytes + kSets * kSet * KV_VECTOR_BYTES>(
            at.k[kStep % (kSet / 2)]);
    }

    // Values: A is elements 16 kStep, … × 16 tokens from kFirst.
    template <int kSlot, int kFirst, int kStep>
    static __device__ __forceinline__ FragmentA values(const Lane& at) {
        constexpr int kSets = kStep / (kSet / 2);
        return loadMatricesTransposed<kSlot * kBytes + kFirst * kRowBytes + kSets * kSet * KV_VECTOR_BYTES>(
            at.v[kStep % (kSet / 2)]);
    }
};
