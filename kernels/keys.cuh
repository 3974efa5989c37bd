// Keys of a tile times queries, on tensor cores: scores [tokens, query rows]. Tokens are the rows of A, query rows the
// columns of B, which stay in registers where there is room.
//
// One structure for each kind of storage, all with the same members:
//     stage()     puts a query row into shared memory as take() wants it, before the first tile
//     take()      reads the rows into B fragments
//     multiply()  the scores of a tile, without some factors
//     factors()   those factors: a score is c * factor, in base 2
#pragma once

#include <type_traits>

#include "quantize.cuh"
#include "stored.cuh"
#include "tile.cuh"

// Where staged rows lie in shared memory, 16 bits an element and stagedPitch() bytes apart, and a float for each row.
struct StagedQueries {
    unsigned char* rows;
    float* scales;
};

// An odd number of times 16 bytes: the same 16 of eight rows are on all banks.
__host__ __device__ constexpr int stagedPitch(int head_dim) { return 2 * head_dim + KV_VECTOR_BYTES; }

// B fragments of kSteps times 32 bytes of each row. Two steps a load; where they are odd in number the last but one is
// loaded twice.
template <int kPitch, int kSteps, int kColumnTiles>
__device__ __forceinline__ void takeRows(FragmentB (&q)[kColumnTiles][kSteps], const unsigned char* rows, int lane) {
    const uint32_t row = sharedAddress(rows + lane % 8 * kPitch + lane / 8 * KV_VECTOR_BYTES);
    unrolled<kColumnTiles>([&](auto n) {
        unrolled<(kSteps + 1) / 2>([&](auto i) {
            constexpr int kStep = i * 2 < kSteps - 1 ? i * 2 : kSteps - 2;
            const FragmentA two = loadMatrices<n * 8 * kPitch + kStep * 2 * KV_VECTOR_BYTES>(row);
            q[n][kStep] = {two.pair[0], two.pair[1]};
            q[n][kStep + 1] = {two.pair[2], two.pair[3]};
        });
    });
}

// One factor for all scores.
struct UniformFactor {
    float all;

    __device__ __forceinline__ float of(int, int, int, int) const { return all; }
    __device__ __forceinline__ void forget() { all = 1.0f; }
};

// A factor for each of the lane's tokens, and one for each of its columns.
template <int kTokenFragments, int kColumnTiles>
struct TokenFactors {
    float token[2 * kTokenFragments];
    float column[kColumnTiles][2];

    __device__ __forceinline__ float of(int n, int a, int half, int e) const { return token[2 * a + half] * column[n][e]; }
    __device__ __forceinline__ void forget() {
#pragma unroll
        for (float& factor : token) factor = 1.0f;
#pragma unroll
        for (int n = 0; n < kColumnTiles; n++) column[n][0] = column[n][1] = 1.0f;
    }
};

// Scales of a tile's vectors lie so that a lane's tokens, g, g + 8, g + 16, … for g = lane / 4, follow each other.
template <int kTokens>
__device__ __forceinline__ int placeOfScale(int token) {
    return token % 8 * (kTokens / 8) + token / 8;
}

template <int kOffset>
__device__ __forceinline__ float2 loadSharedPair(uint32_t address) {
    float2 pair;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2 + %3];"
                 : "=f"(pair.x), "=f"(pair.y)
                 : "r"(address), "n"(kOffset)
                 : "memory");
    return pair;
}

template <int kOffset, int kTokens>
__device__ __forceinline__ void loadScales(float (&scale)[kTokens / 8], uint32_t of_lane) {
    if constexpr (kTokens == 32) {
        asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4 + %5];"
                     : "=f"(scale[0]), "=f"(scale[1]), "=f"(scale[2]), "=f"(scale[3])
                     : "r"(of_lane), "n"(kOffset)
                     : "memory");
    } else {
        static_assert(kTokens == 16, "tiles are of 16 or 32 tokens");
        const float2 pair = loadSharedPair<kOffset>(of_lane);
        scale[0] = pair.x;
        scale[1] = pair.y;
    }
}

// Keys of 16 bits.
template <typename S, int kHeadDim, int kTokens, int kColumnTiles, int kSlotBytes>
struct Keys {
    using KeyTile = Tile<2 * kHeadDim, kTokens, kSlotBytes>;
    static constexpr int kTokenFragments = kTokens / 16;
    static constexpr int kSteps = kHeadDim / 16;
    static constexpr int kPitch = stagedPitch(kHeadDim);
    static constexpr bool kResident = true;
    using Scores = FragmentC[kColumnTiles][kTokenFragments];
    using Factors = UniformFactor;

    FragmentB q[kColumnTiles][kSteps];

    template <typename Elements>
    static __device__ __forceinline__ void stage(const StagedQueries& to, int column, const Vec16& x,
                                                 const TurningUnit<kHeadDim>& unit, const float*, const Elements&) {
        if (unit.is_whole && column < 8 * kColumnTiles) {
            storeShared(to.rows + column * kPitch + unit.chunk * KV_VECTOR_BYTES, x);
        }
    }

    __device__ __forceinline__ void take(const StagedQueries& from, float, int lane) {
        takeRows<kPitch>(q, from.rows, lane);
    }

    template <int kSlot>
    __device__ __forceinline__ void multiply(Scores& scores, const typename KeyTile::Lane& at) const {
#pragma unroll
        for (int n = 0; n < kColumnTiles; n++)
#pragma unroll
            for (int a = 0; a < kTokenFragments; a++) scores[n][a] = {};
        unrolled<kSteps>([&](auto step) {
            unrolled<kTokenFragments>([&](auto a) {
                const FragmentA k = KeyTile::template keys<kSlot, a * 16, step>(at);
#pragma unroll
                for (int n = 0; n < kColumnTiles; n++) scores[n][a] = ::multiplyAdd<S>(k, q[n][step], scores[n][a]);
            });
        });
    }

    template <int kOffset>
    __device__ __forceinline__ Factors factors(uint32_t, float score_scale) const {
        return {score_scale};
    }
};

// The fragments of one step of two column tiles, read again for every tile of keys: there, 32 registers are worth more
// than the loads.
template <int kOffset>
__device__ __forceinline__ void takeStep(FragmentB (&q)[2], uint32_t row) {
    const FragmentA two = loadMatrices<kOffset>(row);
    q[0] = {two.pair[0], two.pair[1]};
    q[1] = {two.pair[2], two.pair[3]};
}

// Where a lane reads them from: rows kPitch bytes apart.
template <int kPitch>
__device__ __forceinline__ uint32_t rowOfSteps(const unsigned char* rows, int lane) {
    return sharedAddress(rows + (lane % 8 + lane / 16 * 8) * kPitch + lane / 8 % 2 * KV_VECTOR_BYTES);
}

// Of a query row in float: its largest magnitude, in all lanes of its unit; infinity where one is no number, so that
// scores are none either.
template <int kHeadDim>
__device__ __forceinline__ float largestOfRow(const float (&x)[kPerVector], const TurningUnit<kHeadDim>& unit) {
    float absmax = 0.0f;
#pragma unroll
    for (int e = 0; e < kPerVector; e++) absmax = largerOrNan(absmax, fabsf(x[e]));
    if (!isFinite(absmax)) absmax = __int_as_float(0x7f800000);
    // Not 0: divided by.
    return fmaxf(largestOfUnit(absmax, unit), 0x1p-100f);
}

// Two neighbouring lanes have 16 elements, each in two words of one kind and two of another. The first lane is given both
// lanes' first kind, the second their second kind, to be stored 16 bytes a lane. All lanes of the warp together.
__device__ __forceinline__ Vec16 byKind(const uint2& first, const uint2& second, bool is_second) {
    const uint2 kept = is_second ? second : first, given = is_second ? first : second;
    const uint2 taken = {__shfl_xor_sync(kAllLanes, given.x, 1), __shfl_xor_sync(kAllLanes, given.y, 1)};
    return is_second ? Vec16{{taken.x, taken.y, kept.x, kept.y}} : Vec16{{kept.x, kept.y, taken.x, taken.y}};
}

// The channels' scales go into the query, where K was divided by them.
template <typename Elements>
__device__ __forceinline__ void multiplyChannels(float (&x)[kPerVector], const Vec16& vector, const float* channel_scale,
                                                 const Elements& elements) {
    unpackVector(x, vector, elements);
    if (channel_scale == nullptr) return;
#pragma unroll
    for (int e = 0; e < kPerVector; e++) x[e] *= channel_scale[e];
}

// The scales of a lane's query rows, times score_scale: in registers, or read again with the queries.
template <int kColumnTiles, bool kResident>
struct RowScales {
    float column[kColumnTiles][2];

    __device__ __forceinline__ void take(const float* scales, float score_scale, int lane) {
#pragma unroll
        for (int n = 0; n < kColumnTiles; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) column[n][e] = scales[n * 8 + lane % 4 * 2 + e] * score_scale;
    }
    __device__ __forceinline__ void give(float (&to)[kColumnTiles][2], float) const {
#pragma unroll
        for (int n = 0; n < kColumnTiles; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) to[n][e] = column[n][e];
    }
};

template <int kColumnTiles>
struct RowScales<kColumnTiles, false> {
    uint32_t of_lane;

    __device__ __forceinline__ void take(const float* scales, float, int lane) {
        of_lane = sharedAddress(scales + lane % 4 * 2);
    }
    __device__ __forceinline__ void give(float (&to)[kColumnTiles][2], float score_scale) const {
        unrolled<kColumnTiles>([&](auto n) {
            const float2 pair = loadSharedPair<n * 8 * sizeof(float)>(of_lane);
            to[n][0] = pair.x * score_scale;
            to[n][1] = pair.y * score_scale;
        });
    }
};

// Keys of int8: integer products, exact. A query row is scaled to 16-bit integers, of which the high byte (rounded, so
// that the rest is a signed byte too) and the low one are multiplied apart. An element is off by 1 / 65278 of the row's
// largest at most.
template <int kHeadDim, int kTokens, int kColumnTiles, int kSlotBytes>
struct Keys<Int8, kHeadDim, kTokens, kColumnTiles, kSlotBytes> {
    using KeyTile = Tile<kHeadDim, kTokens, kSlotBytes>;
    static constexpr int kTokenFragments = kTokens / 16;
    static constexpr int kSteps = kHeadDim / 32;
    static constexpr bool kLast = kHeadDim % 32 != 0;  // half a step
    static constexpr int kPitch = stagedPitch(kHeadDim);
    static constexpr float kLargest = 127 * 256 + 127;
    using Scores = FragmentC[kColumnTiles][kTokenFragments];
    using Factors = TokenFactors<kTokenFragments, kColumnTiles>;

    static constexpr bool kResident = kColumnTiles == 1;  // queries stay in registers

    // A step of both digits.
    struct Digits {
        FragmentB high, low;
    };
    struct Registers {
        Digits steps[kColumnTiles][kSteps];
        uint32_t last_high[kColumnTiles], last_low[kColumnTiles];
    };
    // Where a lane reads steps, and the half one.
    struct Addresses {
        uint32_t row, last;
    };
    std::conditional_t<kResident, Registers, Addresses> q;
    RowScales<kColumnTiles, kResident> scales;

    template <typename Elements>
    static __device__ __forceinline__ void stage(const StagedQueries& to, int column, const Vec16& vector,
                                                 const TurningUnit<kHeadDim>& unit, const float* channel_scale,
                                                 const Elements& elements) {
        float x[kPerVector];
        multiplyChannels(x, vector, channel_scale, elements);
        const float absmax = largestOfRow(x, unit);
        const float to_integer = kLargest / absmax;
        uint32_t high[2][4], low[2][4];
#pragma unroll
        for (int e = 0; e < kPerVector; e++) {
            const int integer = __float2int_rn(x[e] * to_integer);
            high[e / 4][e % 4] = (integer + 128) >> 8;
            low[e / 4][e % 4] = integer;
        }
        // Of every 32 bytes of a row, 16 are high bytes and 16 low ones.
        const Vec16 digits = byKind({lowBytes(high[0]), lowBytes(high[1])}, {lowBytes(low[0]), lowBytes(low[1])},
                                    unit.chunk % 2 != 0);
        if (unit.is_whole && column < 8 * kColumnTiles) {
            storeShared(to.rows + column * kPitch + unit.chunk * KV_VECTOR_BYTES, digits);
            if (unit.chunk == 0) to.scales[column] = absmax / kLargest;
        }
    }

    __device__ __forceinline__ void take(const StagedQueries& from, float score_scale, int lane) {
        // Lanes by eights read high bytes of both 16 elements, then low ones: in that order they are pairs of registers.
        const int sixteen = lane / 8 % 2 * 2 + lane / 16;
        const uint32_t row = sharedAddress(from.rows + lane % 8 * kPitch + sixteen * KV_VECTOR_BYTES);
        const uint32_t last = sharedAddress(from.rows + lane / 4 * kPitch + kSteps * 64 + lane % 4 * 4);
        if constexpr (kResident) {
            unrolled<kColumnTiles>([&](auto n) {
                unrolled<kSteps>([&](auto step) { q.steps[n][step] = takeStep<n, step>(row); });
                if constexpr (kLast) {
                    q.last_high[n] = loadShared(last + n * 8 * kPitch);
                    q.last_low[n] = loadShared(last + n * 8 * kPitch + KV_VECTOR_BYTES);
                }
            });
        } else {
            q.row = row;
            q.last = last;
        }
        scales.take(from.scales, score_scale, lane);
    }

    template <int kSlot>
    __device__ __forceinline__ void multiply(Scores& scores, const typename KeyTile::Lane& at) const {
        unrolled<kTokenFragments>([&](auto a) {
            FragmentInt highs[kColumnTiles] = {}, lows[kColumnTiles] = {};
            unrolled<kSteps>([&](auto step) {
                const FragmentA k = KeyTile::template keys<kSlot, a * 16, step>(at);
                unrolled<kColumnTiles>([&](auto n) {
                    Digits digits;
                    if constexpr (kResident) {
                        digits = q.steps[n][step];
                    } else {
                        digits = takeStep<n, step>(q.row);
                    }
                    highs[n] = multiplyAdd(k, digits.high, highs[n]);
                    lows[n] = multiplyAdd(k, digits.low, lows[n]);
                });
            });
            if constexpr (kLast) {
                const FragmentB k = KeyTile::template lastKeys<kSlot, a * 16>(at);
#pragma unroll
                for (int n = 0; n < kColumnTiles; n++) {
                    uint32_t high, low;
                    if constexpr (kResident) {
                        high = q.last_high[n];
                        low = q.last_low[n];
                    } else {
                        high = loadShared(q.last + n * 8 * kPitch);
                        low = loadShared(q.last + n * 8 * kPitch + KV_VECTOR_BYTES);
                    }
                    highs[n] = multiplyAddHalf(k, high, highs[n]);
                    lows[n] = multiplyAddHalf(k, low, lows[n]);
                }
            }
#pragma unroll
            for (int n = 0; n < kColumnTiles; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    scores[n][a].c[i] = __int2float_rn(highs[n].c[i] * 256 + lows[n].c[i]);
                }
        });
    }

    template <int kOffset>
    __device__ __forceinline__ Factors factors(uint32_t scales_of_lane, float score_scale) const {
        Factors factors;
        loadScales<kOffset, kTokens>(factors.token, scales_of_lane);
        scales.give(factors.column, score_scale);
        return factors;
    }

  private:
    template <int kColumnTile, int kStep>
    static __device__ __forceinline__ Digits takeStep(uint32_t row) {
        const FragmentA both = loadMatrices<kColumnTile * 8 * kPitch + kStep * 64>(row);
        return {{both.pair[0], both.pair[1]}, {both.pair[2], both.pair[3]}};
    }
};

// Keys of fp8, as fp16 in registers. Their bytes come apart into even and odd elements of four: so do those of a query
// row, on the way to shared memory, and it is scaled by a power of two to what fp16 holds.
template <int kHeadDim, int kTokens, int kColumnTiles, int kSlotBytes>
struct Keys<Fp8E4M3, kHeadDim, kTokens, kColumnTiles, kSlotBytes> {
    using KeyTile = Tile<kHeadDim, kTokens, kSlotBytes>;
    static constexpr int kTokenFragments = kTokens / 16;
    static constexpr int kSteps = kHeadDim / 16;
    static constexpr int kPitch = stagedPitch(kHeadDim);
    using Scores = FragmentC[kColumnTiles][kTokenFragments];
    using Factors = TokenFactors<kTokenFragments, kColumnTiles>;
    using Halves = AsHalves<Fp8E4M3>;

    static constexpr bool kResident = kColumnTiles == 1;

    struct Registers {
        FragmentB steps[kColumnTiles][kSteps];
    };
    struct Addresses {
        uint32_t row;
    };
    std::conditional_t<kResident, Registers, Addresses> q;
    RowScales<kColumnTiles, kResident> scales;

    template <typename Elements>
    static __device__ __forceinline__ void stage(const StagedQueries& to, int column, const Vec16& vector,
                                                 const TurningUnit<kHeadDim>& unit, const float* channel_scale,
                                                 const Elements& elements) {
        float x[kPerVector];
        multiplyChannels(x, vector, channel_scale, elements);
        // The largest becomes 128 to 256: far from fp16's ends on both sides.
        const uint32_t binade = __float_as_uint(largestOfRow(x, unit)) >> 23;
        const float factor = __uint_as_float((254 + 7 - binade) << 23);
#pragma unroll
        for (int e = 0; e < kPerVector; e++) x[e] *= factor;
        // Of a step of sixteen, the even elements are in its first half and the odd ones in its second.
        const Vec16 half = byKind({Element<__half>::pack(x[0], x[2]), Element<__half>::pack(x[4], x[6])},
                                  {Element<__half>::pack(x[1], x[3]), Element<__half>::pack(x[5], x[7])},
                                  unit.chunk % 2 != 0);
        if (unit.is_whole && column < 8 * kColumnTiles) {
            storeShared(to.rows + column * kPitch + unit.chunk * KV_VECTOR_BYTES, half);
            if (unit.chunk == 0) to.scales[column] = __uint_as_float(binade << 23) * (Halves::kUnit * 0x1p-7f);
        }
    }

    __device__ __forceinline__ void take(const StagedQueries& from, float score_scale, int lane) {
        if constexpr (kResident) {
            takeRows<kPitch>(q.steps, from.rows, lane);
        } else {
            q.row = rowOfSteps<kPitch>(from.rows, lane);
        }
        scales.take(from.scales, score_scale, lane);
    }

    template <int kSlot>
    __device__ __forceinline__ void multiply(Scores& scores, const typename KeyTile::Lane& at) const {
#pragma unroll
        for (int n = 0; n < kColumnTiles; n++)
#pragma unroll
            for (int a = 0; a < kTokenFragments; a++) scores[n][a] = {};
        const auto takeQueries = [&](auto step, FragmentB(&of_step)[kColumnTiles]) {
            if constexpr (kResident) {
                of_step[0] = q.steps[0][step];
            } else {
                takeStep<step * 32>(of_step, q.row);
            }
        };
        const auto add = [&](const FragmentB(&of_step)[kColumnTiles], auto a, uint32_t first, uint32_t second) {
            const FragmentA k = {Halves::even(first), Halves::even(second), Halves::odd(first), Halves::odd(second)};
#pragma unroll
            for (int n = 0; n < kColumnTiles; n++) scores[n][a] = ::multiplyAdd<__half>(k, of_step[n], scores[n][a]);
        };
        unrolled<kSteps / 2>([&](auto two) {
            FragmentB first[kColumnTiles], second[kColumnTiles];
            takeQueries(Constant<2 * two>{}, first);
            takeQueries(Constant<2 * two + 1>{}, second);
            unrolled<kTokenFragments>([&](auto a) {
                const FragmentA k = KeyTile::template keys<kSlot, a * 16, two>(at);
                add(first, a, k.pair[0], k.pair[1]);
                add(second, a, k.pair[2], k.pair[3]);
            });
        });
        if constexpr (kSteps % 2 != 0) {
            FragmentB last[kColumnTiles];
            takeQueries(Constant<kSteps - 1>{}, last);
            unrolled<kTokenFragments>([&](auto a) {
                const FragmentB k = KeyTile::template lastKeys<kSlot, a * 16>(at);
                add(last, a, k.pair[0], k.pair[1]);
            });
        }
    }

    template <int kOffset>
    __device__ __forceinline__ Factors factors(uint32_t scales_of_lane, float score_scale) const {
        Factors factors;
        loadScales<kOffset, kTokens>(factors.token, scales_of_lane);
        scales.give(factors.column, score_scale);
        return factors;
    }
};
