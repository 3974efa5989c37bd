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

    // Where a lane puts what it copies (in the first 32 chunks, to which later ones are added), and where it reads
    // fragments: addresses in the first tile, made once.
    static constexpr int kPairs = kSet > 1 ? kSet / 2 : 1;  // of chunks in a set
    struct Lane {
        uint32_t copy[kPeriod];
        // Of a load's four matrices, two tokens' eights by two chunks, the second one follows the first down the tokens,
        // or across the chunks.
        uint32_t down[kPairs];
        uint32_t across[kPairs];
    };

    // `base` is a multiple of kAlignment, of which a set's chunks are parts: there, to exchange them is to flip bits of an
    // address. Made from one address each they are an instruction, not four.
    static constexpr int kAlignment = 8 * KV_VECTOR_BYTES;
    static __device__ __forceinline__ void place(Lane& at, uint32_t base, int lane) {
        at.copy[0] = base + (lane ^ exchange(lane / kChunks)) * KV_VECTOR_BYTES;
#pragma unroll
        for (int i = 1; i < kPeriod; i++) {
            if constexpr (32 % kChunks == 0) {
                at.copy[i] = at.copy[0] ^ exchange(i * 32 / kChunks) * KV_VECTOR_BYTES;
            } else {
                at.copy[i] = base + (lane ^ exchange((i * 32 + lane) / kChunks)) * KV_VECTOR_BYTES;
            }
        }
        // Rows and chunks as ldmatrix numbers its lanes.
        const auto chunkOfRow = [&](int row, int chunk) {
            return base + row * kRowBytes + (chunk ^ exchange(row)) * KV_VECTOR_BYTES;
        };
        at.down[0] = chunkOfRow(lane % 16, lane / 16);
        at.across[0] = chunkOfRow(lane % 8 + lane / 16 * 8, lane / 8 % 2);
#pragma unroll
        for (int i = 1; i < kPairs; i++) {
            at.down[i] = at.down[0] ^ 2 * i * KV_VECTOR_BYTES;
            at.across[i] = at.across[0] ^ 2 * i * KV_VECTOR_BYTES;
        }
        // The compiler would rather work these out again in every tile than keep them: a fifth of the instructions. Where
        // sets are of two there are many, and a bit of each row tells them apart: not worth the registers.
        if constexpr (kSet > 2) {
#pragma unroll
            for (int i = 0; i < kPeriod; i++) keepInRegister(at.copy[i]);
        }
#pragma unroll
        for (int i = 0; i < kPairs; i++) {
            keepInRegister(at.down[i]);
            keepInRegister(at.across[i]);
        }
    }

    // What a lane copies from, of a tile at this global address. Copies' offsets go from -2048 to 2047: there, eight copies
    // share an address.
    static constexpr int kMiddle = 2048;
    static __device__ __forceinline__ size_t source(size_t tile, int lane) {
        return tile + lane * KV_VECTOR_BYTES + kMiddle;
    }

    // Has the warp copy a tile to the kSlot-th place of its ring, from the lane's source. Only the first `rows` rows are
    // read; the others become zeros, so that what lies there, NaN perhaps, has no part in a sum even with weight 0.
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
            constexpr int kChunk = i * 32 * KV_VECTOR_BYTES;
            copyAsync<kSlot * kPitch + kChunk, kChunk - kMiddle>(at.copy[i % kPeriod], from);
        });
    }

    template <int kSlot>
    static __device__ __forceinline__ void copyPart(const Lane& at, size_t from, int rows, int lane) {
        unrolled<kCopies>([&](auto i) {
            constexpr int kChunk = i * 32 * KV_VECTOR_BYTES;
            copyAsyncOrZero<kSlot * kPitch + kChunk, kChunk - kMiddle>(at.copy[i % kPeriod], from,
                                                                       (i * 32 + lane) / kChunks < rows);
        });
    }

    // 16 tokens from kFirst × chunks 2 kStep and 2 kStep + 1.
    //
    // Tokens as rows of A: pairs 0 and 1 are of the first chunk, tokens 0 to 7 and 8 to 15, pairs 2 and 3 of the second.
    template <int kSlot, int kFirst, int kStep>
    static __device__ __forceinline__ FragmentA keys(const Lane& at) {
        return loadMatrices<offset<kSlot, kFirst, kStep>()>(at.down[kStep % kPairs]);
    }

    // Tokens as columns of A, transposed by the load: pairs 0 and 1 are of tokens 0 to 7, first chunk and second, pairs 2
    // and 3 of tokens 8 to 15.
    template <int kSlot, int kFirst, int kStep>
    static __device__ __forceinline__ FragmentA values(const Lane& at) {
        return loadMatricesTransposed<offset<kSlot, kFirst, kStep>()>(at.across[kStep % kPairs]);
    }

    // Tokens as columns of two B, tokens 0 to 7 and 8 to 15.
    template <int kSlot, int kFirst, int kStep>
    static __device__ __forceinline__ TwoB keyColumns(const Lane& at) {
        return twoB(loadMatrices<offset<kSlot, kFirst, kStep>()>(at.across[kStep % kPairs]));
    }

    // Tokens as rows of two B, transposed by the load: of the first chunk and of the second.
    template <int kSlot, int kFirst, int kStep>
    static __device__ __forceinline__ TwoB valueRows(const Lane& at) {
        return twoB(loadMatricesTransposed<offset<kSlot, kFirst, kStep>()>(at.down[kStep % kPairs]));
    }

    // The last chunk of an odd number alone, of 16 tokens from kFirst: tokens 0 to 7 and 8 to 15.
    static constexpr int kLastChunk = (kChunks - 1) * KV_VECTOR_BYTES;
    template <int kSlot, int kFirst>
    static __device__ __forceinline__ FragmentB lastKeys(const Lane& at) {
        return loadTwoMatrices<kSlot * kPitch + kFirst * kRowBytes + kLastChunk>(at.down[0]);
    }
    template <int kSlot, int kFirst>
    static __device__ __forceinline__ FragmentB lastValues(const Lane& at) {
        return loadTwoMatricesTransposed<kSlot * kPitch + kFirst * kRowBytes + kLastChunk>(at.down[0]);
    }

  private:
    template <int kSlot, int kFirst, int kStep>
    static __host__ __device__ constexpr int offset() {
        return kSlot * kPitch + kFirst * kRowBytes + kStep / kPairs * kPairs * 2 * KV_VECTOR_BYTES;
    }
};
