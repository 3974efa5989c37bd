// A warp's tile of K or V: kTokens rows of kRowBytes, as they lie in memory, row after row, in shared memory swizzled so
// that no access conflicts.
//
// Memory and shared memory alike are chunks of 16 bytes, n = kRowBytes / 16 of them a row. Written, eight neighbouring
// lanes take eight neighbouring chunks: all 32 banks once. Read by ldmatrix, eight lanes take the same chunk of eight
// rows: chunks n apart, which fall on 8 / gcd(n, 8) different groups of four banks only. So row r exchanges its chunks
// within aligned sets of gcd(n, 8) by exclusive or:
//
//     chunk c of row r lies at r * n + (c ^ x),   x = r / (8 / gcd) % gcd
//
//     n = 8 (64 elements of 16 bits), x = r % 8       n = 10 (80 elements), x = r / 4 % 2
//     row 0:  0 1 2 3 4 5 6 7                         row 0:  0 1 2 3 4 5 6 7 8 9
//     row 1:  1 0 3 2 5 4 7 6                         ...
//     row 2:  2 3 0 1 6 7 4 5                         row 4:  1 0 3 2 5 4 7 6 9 8
//
// which leaves every aligned set of eight chunks on its banks (writes stay without conflict) and puts a column's eight
// rows on all of them. An odd n (80 and 112 elements of a byte) wants no exchange: rows are on all groups as they lie.
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

// Places of a ring lie kPitch bytes apart: a tile's bytes, unless something else lies between.
template <int kRowBytes_, int kTokens, int kPitch = kRowBytes_ * kTokens>
struct Tile {
    static constexpr int kRowBytes = kRowBytes_;
    static constexpr int kChunks = kRowBytes / KV_VECTOR_BYTES;  // of a row
    static constexpr int kBytes = kTokens * kRowBytes;
    static constexpr int kSet = kChunks % 8 == 0 ? 8 : kChunks % 4 == 0 ? 4 : kChunks % 2 == 0 ? 2 : 1;  // gcd(kChunks, 8)
    static_assert(kTokens % 16 == 0 && kBytes <= kPitch, "whole fragments");

    // Which chunk of its set changes places with the first one in this row.
    static __host__ __device__ constexpr int exchange(int row) { return row / (8 / kSet) % kSet; }

    // Chunks a warp copies at a time repeat their exchanges after so many copies: whole periods of eight rows.
    static constexpr int kCopies = kTokens * kChunks / 32;
    static constexpr int kPeriod = kSet == 1 ? 1 : kChunks % 4 == 0 ? kChunks / 4 : kChunks / 2;
    static_assert(kCopies * 32 == kTokens * kChunks, "all lanes copy alike");

    // Where a lane puts what it copies, and where it reads fragments: offsets into a tile, made once.
    static constexpr int kPairs = kSet > 1 ? kSet / 2 : 1;  // of chunks in a set
    struct Lane {
        uint32_t copy[kPeriod];
        uint32_t k[kPairs];
        uint32_t v[kPairs];
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
        for (int i = 0; i < kPairs; i++) {
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
        for (int i = 0; i < kPairs; i++) {
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
            copyWhole<kSlot>(at, from);
        } else {
            copyPart<kSlot>(at, from, rows, lane);
        }
    }

    template <int kSlot>
    static __device__ __forceinline__ void copyWhole(const Lane& at, size_t from) {
        unrolled<kCopies>([&](auto i) {
            constexpr int kTo = kSlot * kPitch + i / kPeriod * kPeriod * 32 * KV_VECTOR_BYTES;
            copyAsync<kTo, i * 32 * KV_VECTOR_BYTES>(at.copy[i % kPeriod], from);
        });
    }

    template <int kSlot>
    static __device__ __forceinline__ void copyPart(const Lane& at, size_t from, int rows, int lane) {
        unrolled<kCopies>([&](auto i) {
            constexpr int kTo = kSlot * kPitch + i / kPeriod * kPeriod * 32 * KV_VECTOR_BYTES;
            copyAsyncOrZero<kTo, i * 32 * KV_VECTOR_BYTES>(at.copy[i % kPeriod], from,
                                                           (i * 32 + lane) / kChunks < rows);
        });
    }

    // Keys: A is 16 tokens from kFirst × chunks 2 kStep and 2 kStep + 1: pairs 0 and 1 are of the first chunk, tokens 0 to
    // 7 and 8 to 15, pairs 2 and 3 of the second.
    template <int kSlot, int kFirst, int kStep>
    static __device__ __forceinline__ FragmentA keys(const Lane& at) {
        return loadMatrices<offset<kSlot, kFirst, kStep>()>(at.k[kStep % kPairs]);
    }

    // Values: A is chunks 2 kStep and 2 kStep + 1 × 16 tokens from kFirst, transposed: pairs 0 and 1 are of tokens 0 to 7,
    // first chunk and second, pairs 2 and 3 of tokens 8 to 15.
    template <int kSlot, int kFirst, int kStep>
    static __device__ __forceinline__ FragmentA values(const Lane& at) {
        return loadMatricesTransposed<offset<kSlot, kFirst, kStep>()>(at.v[kStep % kPairs]);
    }

    // The last chunk of an odd number alone, of 16 tokens from kFirst: tokens 0 to 7 and 8 to 15.
    static constexpr int kLastChunk = (kChunks - 1) * KV_VECTOR_BYTES;
    template <int kSlot, int kFirst>
    static __device__ __forceinline__ FragmentB lastKeys(const Lane& at) {
        return loadTwoMatrices<kSlot * kPitch + kFirst * kRowBytes + kLastChunk>(at.k[0]);
    }
    template <int kSlot, int kFirst>
    static __device__ __forceinline__ FragmentB lastValues(const Lane& at) {
        return loadTwoMatricesTransposed<kSlot * kPitch + kFirst * kRowBytes + kLastChunk>(at.k[0]);
    }

  private:
    template <int kSlot, int kFirst, int kStep>
    static __host__ __device__ constexpr int offset() {
        return kSlot * kPitch + kFirst * kRowBytes + kStep / kPairs * kPairs * 2 * KV_VECTOR_BYTES;
    }
};
