// Values of a tile, transposed by their load, times weights: outputs [head_dim, query rows]. Elements of a vector are the
// rows of A, tokens its columns.
//
// One structure for each kind of storage, all with the same members:
//     add()         the products of a tile
//     weightOf()    what a token's weight is multiplied by on the way to its product
//     logOf()       its logarithm: an upper bound of weights is one of their products
//     element()     which element of a vector an accumulator holds
//     finished()    what it stands for at the end
#pragma once

#include "keys.cuh"

// Values of 16 bits.
template <typename S, int kHeadDim, int kTokens, int kColumnTiles, int kSlotBytes>
struct Values {
    using ValueTile = Tile<2 * kHeadDim, kTokens, kSlotBytes>;
    using Product = S;
    static constexpr int kTokenFragments = kTokens / 16;
    static constexpr int kSteps = kHeadDim / 16;
    using Weights = FragmentB[kColumnTiles][kTokenFragments];
    using Out = FragmentC[kColumnTiles][kSteps];
    // A row of the product with these, beside those of values.
    static constexpr bool kBiased = false;
    static __device__ __forceinline__ uint32_t biasPair() { return Element<S>::pack(1.0f, 1.0f); }

    struct TokenScales {
        __device__ __forceinline__ float weightOf(float weight, int, int) const { return weight; }
        __device__ __forceinline__ float logOf(int, int) const { return 0.0f; }
    };
    template <int kOffset>
    static __device__ __forceinline__ TokenScales tokenScales(uint32_t) {
        return {};
    }

    template <int kSlot>
    static __device__ __forceinline__ void add(Out& out, const Weights& weights, const typename ValueTile::Lane& at) {
        unrolled<kTokenFragments>([&](auto a) {
            unrolled<kSteps>([&](auto step) {
                const FragmentA v = ValueTile::template values<kSlot, a * 16, step>(at);
#pragma unroll
                for (int n = 0; n < kColumnTiles; n++) out[n][step] = ::multiplyAdd<S>(v, weights[n][a], out[n][step]);
            });
        });
    }

    // Columns of 16 rows of A are g and g + 8: two accumulators of a lane are 8 elements apart.
    static constexpr bool kNeighbours = false;
    static __device__ __forceinline__ int element(int step, int half, int lane) { return step * 16 + half * 8 + lane / 4; }
    static __device__ __forceinline__ float finished(float out, float) { return out; }
};

// Values of a byte: to fp16 in registers. A word of the transposed load holds two neighbouring elements of two tokens,
// whose even and odd bytes are rows g and g + 8 of A: elements 2g and 2g + 1. Scales of tokens go into the weights, so that
// these bound no probability but its product with the scale; int8's bias comes out of a product with itself.
template <typename S, int kHeadDim, int kTokens, int kColumnTiles, int kSlotBytes>
struct ByteValues {
    using ValueTile = Tile<kHeadDim, kTokens, kSlotBytes>;
    using Product = __half;
    using Halves = AsHalves<S>;
    static constexpr int kTokenFragments = kTokens / 16;
    static constexpr int kSteps = kHeadDim / 16;
    using Weights = FragmentB[kColumnTiles][kTokenFragments];
    using Out = FragmentC[kColumnTiles][kSteps];
    static constexpr bool kBiased = Halves::kBias != 0;
    static __device__ __forceinline__ uint32_t biasPair() { return Halves::kBias; }

    struct TokenScales {
        float scale[kTokens / 8];

        __device__ __forceinline__ float weightOf(float weight, int a, int half) const {
            return weight * scale[2 * a + half];
        }
        __device__ __forceinline__ float logOf(int a, int half) const { return __log2f(scale[2 * a + half]); }
    };
    template <int kOffset>
    static __device__ __forceinline__ TokenScales tokenScales(uint32_t scales_of_lane) {
        TokenScales scales;
        loadScales<kOffset, kTokens>(scales.scale, scales_of_lane);
        // A vector of zeros has no logarithm; with any scale it is one.
#pragma unroll
        for (float& scale : scales.scale) scale = fmaxf(scale, 0x1p-100f);
        return scales;
    }

    template <int kSlot>
    static __device__ __forceinline__ void add(Out& out, const Weights& weights, const typename ValueTile::Lane& at) {
        unrolled<kTokenFragments>([&](auto a) {
            const auto addStep = [&](auto step, uint32_t first, uint32_t second) {
                const FragmentA v = {Halves::even(first), Halves::odd(first), Halves::even(second), Halves::odd(second)};
#pragma unroll
                for (int n = 0; n < kColumnTiles; n++) {
                    out[n][step] = ::multiplyAdd<__half>(v, weights[n][a], out[n][step]);
                }
            };
            unrolled<kSteps / 2>([&](auto two) {
                const FragmentA v = ValueTile::template values<kSlot, a * 16, two>(at);
                addStep(Constant<2 * two>{}, v.pair[0], v.pair[2]);
                addStep(Constant<2 * two + 1>{}, v.pair[1], v.pair[3]);
            });
            if constexpr (kSteps % 2 != 0) {
                const FragmentB v = ValueTile::template lastValues<kSlot, a * 16>(at);
                addStep(Constant<kSteps - 1>{}, v.pair[0], v.pair[1]);
            }
        });
    }

    static constexpr bool kNeighbours = true;
    static __device__ __forceinline__ int element(int step, int half, int lane) { return step * 16 + lane / 4 * 2 + half; }
    static __device__ __forceinline__ float finished(float out, float bias) {
        return (kBiased ? out - bias : out) * Halves::kUnit;
    }
};

template <int kHeadDim, int kTokens, int kColumnTiles, int kSlotBytes>
struct Values<Int8, kHeadDim, kTokens, kColumnTiles, kSlotBytes>
    : ByteValues<Int8, kHeadDim, kTokens, kColumnTiles, kSlotBytes> {};

template <int kHeadDim, int kTokens, int kColumnTiles, int kSlotBytes>
struct Values<Fp8E4M3, kHeadDim, kTokens, kColumnTiles, kSlotBytes>
    : ByteValues<Fp8E4M3, kHeadDim, kTokens, kColumnTiles, kSlotBytes> {};
