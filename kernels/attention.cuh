// A warp's attention of up to 8 kColumnTiles query rows over its share of a KV head's tokens, on tensor cores.
//
// Tokens are the rows of the scores' product (M), query rows its columns (N): a group of up to eight heads costs one
// column tile, and neither K nor V is transposed on the way.
//
//     scores   S [tokens, rows] = K · q          A = K as it lies, B = q, kept in registers
//     weights  P = exp2(S - maximum)             in registers; transposed within the warp to become B
//     values   O [head_dim, rows] += Vᵀ · P      A = V, transposed by its load
//     sums     1ᵀ P                              by one more product, with ones
//
// A warp copies, waits for and consumes its own tiles: the loop knows no barrier of the block. Its ring in shared memory
// has three slots, for K and V tiles in turn; while one is worked on, the next two are on their way:
//
//     slot     0    1    2    0    1    2    …
//     tile     K0   V0   K1   V1   K2   V2   …   three pairs make two rounds of the ring: the loop's body
//
// A running maximum only moves when a weight would pass kRaiseAbove. Weights are relative to it, whatever it is, so that
// rescaling O is rare.
#pragma once

#include <type_traits>

#include "divisor.cuh"
#include "range.cuh"
#include "rope.cuh"
#include "softmax.cuh"
#include "tile.cuh"

constexpr int kSlots = 3;

// Weights up to this fit fp16 with room for their products' sums; a larger one raises the maximum.
constexpr float kRaiseAbove = 256.0f;

template <typename T, int kHeadDim, int kColumnTiles, int kWarps>
struct WarpAttention {
    static constexpr int kTokens = kHeadDim <= 128 ? 32 : 16;  // of a tile: 4 to 8 KiB
    using WarpTile = Tile<kHeadDim, kTokens>;
    static constexpr int kTokenFragments = kTokens / 16;
    static constexpr int kSteps = kHeadDim / 16;
    static constexpr int kStride = kWarps * kTokens;  // tokens from one of a warp's tiles to its next
    static constexpr int kRingBytes = kSlots * WarpTile::kBytes;

    // The product with ones sums weights as rounded for the product with V. In bf16 that is too coarse for lse: there
    // they are summed before they are rounded. So they are where the accumulator's four registers a column tile (of which
    // two are wanted) and the ones would not fit.
    static constexpr bool kExactSums = std::is_same_v<T, __nv_bfloat16> || kColumnTiles * kHeadDim > 2 * 96;

    using Scores = FragmentC[kColumnTiles][kTokenFragments];
    using Weights = FragmentB[kColumnTiles][kTokenFragments];

    const KvDecodeParams& p;
    const Range& range;
    const Place& place;  // in shared memory
    int lane;

    typename WarpTile::Lane at;
    size_t from;  // the lane's first chunk of the next K tile to copy; V lies as far from K everywhere
    FragmentB q[kColumnTiles][kSteps];
    FragmentC out[kColumnTiles][kSteps];
    FragmentC sum[kColumnTiles];  // its rows are all the same; with exact sums, c[0] and c[1] are the lane's part
    float maximum[kColumnTiles][2];
    bool fresh;  // no tile yet; the same in all lanes

    // Forgets all tokens attended to.
    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int n = 0; n < kColumnTiles; n++) {
            maximum[n][0] = maximum[n][1] = kNoScore;
            sum[n] = {};
#pragma unroll
            for (int step = 0; step < kSteps; step++) out[n][step] = {};
        }
        fresh = true;
    }

    __device__ __forceinline__ void start(uint32_t ring, const T* k, int warp) {
        clear();
        WarpTile::place(at, ring, lane);
        const int tile = range.begin + warp * kTokens;
        const int64_t first = static_cast<int64_t>(tile) * kHeadDim + lane * kPerVector;
        from = __cvta_generic_to_global(k + first);
        copyKeys<0>(tile);
        copyValues<1>(tile);
    }

    // B fragments from rows of queries in shared memory, kPitch elements apart: rows are B's columns as they lie.
    template <int kPitch>
    __device__ __forceinline__ void takeQueries(const T* rows) {
        // Two steps a load; an odd number of steps has its last but one loaded twice.
        const uint32_t row = sharedAddress(rows + lane % 8 * kPitch + lane / 8 * kPerVector);
        unrolled<kColumnTiles>([&](auto n) {
            unrolled<(kSteps + 1) / 2>([&](auto i) {
                constexpr int kStep = i * 2 < kSteps - 1 ? i * 2 : kSteps - 2;
                const FragmentA two = loadMatrices<(n * 8 * kPitch + kStep * 16) * sizeof(T)>(row);
                q[n][kStep] = {two.pair[0], two.pair[1]};
                q[n][kStep + 1] = {two.pair[2], two.pair[3]};
            });
        });
    }

    // All of this warp's tiles in the cache.
    __device__ __forceinline__ void attend(int warp) {
        int tile = range.begin + warp * kTokens;
        while (tile < range.end) {
            attendTile<0>(tile);
            if ((tile += kStride) >= range.end) break;
            attendTile<1>(tile);
            if ((tile += kStride) >= range.end) break;
            attendTile<2>(tile);
            tile += kStride;
        }
        waitForCopies<0>();
        __syncwarp();
    }

    // A tile that was put into slots 0 (K) and 1 (V) by other means; its first token has this position.
    __device__ __forceinline__ void attendPresent(int position) {
        Scores scores;
        Weights weights;
        multiplyKeys<0>(scores);
        weigh(weights, scores, position, position + kTokens);
        multiplyValues<1>(weights);
    }

    // The softmax of column n * 8 + 2 (lane % 4) + e so far, the same in the lanes of a column.
    __device__ __forceinline__ Partial partial(int n, int e) const {
        float total = sum[n].c[e];
        if constexpr (kExactSums) {
#pragma unroll
            for (int lanes = 4; lanes < 32; lanes *= 2) total += __shfl_xor_sync(kAllLanes, total, lanes);
        }
        return {maximum[n][e], total};
    }

  private:
    // The kPhase-th of three tiles that go through the ring in turn.
    template <int kPhase>
    __device__ __forceinline__ void attendTile(int tile) {
        constexpr int kKeys = 2 * kPhase % kSlots;
        constexpr int kValues = (2 * kPhase + 1) % kSlots;
        constexpr int kFree = (2 * kPhase + 2) % kSlots;
        Scores scores;
        Weights weights;

        waitForCopies<1>();  // for K; V may be under way
        __syncwarp();        // for all lanes' copies, and until all are done with the V before
        copyKeys<kFree>(tile + kStride);
        multiplyKeys<kKeys>(scores);
        weigh(weights, scores, tile, range.end);

        waitForCopies<1>();  // for V
        __syncwarp();
        copyValues<kKeys>(tile + kStride);
        multiplyValues<kValues>(weights);
    }

    // The next tile's K, then its V.
    template <int kSlot>
    __device__ __forceinline__ void copyKeys(int tile) {
        if (tile < range.end) WarpTile::template copy<kSlot>(at, from, range.end - tile, lane);
        commitCopies();  // an empty group too: groups are counted
    }

    template <int kSlot>
    __device__ __forceinline__ void copyValues(int tile) {
        if (tile < range.end) {
            const size_t v_from = from + (__cvta_generic_to_global(p.cache.v) - __cvta_generic_to_global(p.cache.k));
            WarpTile::template copy<kSlot>(at, v_from, range.end - tile, lane);
            from += kStride * WarpTile::kRowBytes;
        }
        commitCopies();
    }

    template <int kSlot>
    __device__ __forceinline__ void multiplyKeys(Scores& scores) const {
#pragma unroll
        for (int n = 0; n < kColumnTiles; n++)
#pragma unroll
            for (int a = 0; a < kTokenFragments; a++) scores[n][a] = {};
        unrolled<kSteps>([&](auto step) {
            unrolled<kTokenFragments>([&](auto a) {
                const FragmentA k = WarpTile::template keys<kSlot, a * 16, step>(at);
#pragma unroll
                for (int n = 0; n < kColumnTiles; n++) scores[n][a] = multiplyAdd<T>(k, q[n][step], scores[n][a]);
            });
        });
    }

    template <int kSlot>
    __device__ __forceinline__ void multiplyValues(const Weights& weights) {
        unrolled<kTokenFragments>([&](auto a) {
            unrolled<kSteps>([&](auto step) {
                const FragmentA v = WarpTile::template values<kSlot, a * 16, step>(at);
#pragma unroll
                for (int n = 0; n < kColumnTiles; n++) out[n][step] = multiplyAdd<T>(v, weights[n][a], out[n][step]);
            });
        });
        if constexpr (!kExactSums) {
            FragmentA ones;
#pragma unroll
            for (int i = 0; i < 4; i++) ones.pair[i] = Element<T>::pack(1.0f, 1.0f);
#pragma unroll
            for (int a = 0; a < kTokenFragments; a++)
#pragma unroll
                for (int n = 0; n < kColumnTiles; n++) sum[n] = multiplyAdd<T>(ones, weights[n][a], sum[n]);
        }
    }

    __device__ __forceinline__ void weigh(Weights& weights, Scores& scores, int tile, int end) {
        float scale = p.score_scale;
        if (tile < range.plain_begin || tile + kTokens > range.plain_end) {
            shapeScores(scores, tile, end);
            scale = 1.0f;
        }
        float sums[kColumnTiles][2];
        // Before its first tile a warp has no maximum, and nothing to rescale.
        if (fresh || weighAgainstMaximum(weights, sums, scores, scale)) {
            raiseMaximum(scores, scale);
            weighAgainstMaximum(weights, sums, scores, scale);
        }
        if constexpr (kExactSums) {
#pragma unroll
            for (int n = 0; n < kColumnTiles; n++)
#pragma unroll
                for (int e = 0; e < 2; e++) sum[n].c[e] += sums[n][e];
        }
#pragma unroll
        for (int n = 0; n < kColumnTiles; n++)
#pragma unroll
            for (int a = 0; a < kTokenFragments; a++)
#pragma unroll
                for (int half = 0; half < 2; half++) weights[n][a].pair[half] = transpose(weights[n][a].pair[half]);
    }

    // Scores of a tile that not all queries see alike, or that goes beyond the tokens there are (from `end` on): capped,
    // biased and masked, in base 2.
    __device__ __forceinline__ void shapeScores(Scores& scores, int tile, int end) const {
        const int last_row = p.query_tokens * p.group_size.value - 1;
#pragma unroll
        for (int n = 0; n < kColumnTiles; n++) {
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int row = min(place.first_row + n * 8 + lane % 4 * 2 + e, last_row);
                const int query = divide(row, p.group_size).quotient;
                const int position = place.first_query + query;
                const int oldest = p.sliding_window > 0 ? position - p.sliding_window + 1 : 0;
                float slope = 0.0f;
                if (p.alibi_slopes != nullptr) {
                    slope = p.alibi_slopes[place.kv_head * p.group_size.value + row - query * p.group_size.value] * kLog2E;
                }
#pragma unroll
                for (int a = 0; a < kTokenFragments; a++) {
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        float& score = scores[n][a].c[2 * half + e];
                        const int token = tile + a * 16 + half * 8 + lane / 4;
                        score = p.soft_cap != 0.0f ? softCapped(score, p.soft_cap, p.soft_cap_scale)
                                                   : score * p.score_scale;
                        score -= slope * static_cast<float>(position - token);
                        if (token > position || token < oldest || token >= end) score = minusInfinity();
                    }
                }
            }
        }
    }

    // Weights against the maximum as it is, in pairs of neighbouring columns; true where one is too large for it.
    __device__ __forceinline__ bool weighAgainstMaximum(Weights& weights, float (&sums)[kColumnTiles][2],
                                                        const Scores& scores, float scale) const {
        uint32_t largest = 0;  // two positive zeros
#pragma unroll
        for (int n = 0; n < kColumnTiles; n++) {
            sums[n][0] = sums[n][1] = 0.0f;
#pragma unroll
            for (int a = 0; a < kTokenFragments; a++) {
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const float* c = &scores[n][a].c[2 * half];
                    const float low = exp2Fast(fmaf(c[0], scale, -maximum[n][0]));
                    const float high = exp2Fast(fmaf(c[1], scale, -maximum[n][1]));
                    sums[n][0] += low;
                    sums[n][1] += high;
                    const uint32_t pair = Element<T>::pack(low, high);
                    weights[n][a].pair[half] = pair;
                    largest = n + a + half == 0 ? pair : Element<T>::larger(largest, pair);
                }
            }
        }
        const float2 pair = Element<T>::unpack(largest);
        return __any_sync(kAllLanes, fmaxf(pair.x, pair.y) > kRaiseAbove);
    }

    __device__ __forceinline__ void raiseMaximum(const Scores& scores, float scale) {
#pragma unroll
        for (int n = 0; n < kColumnTiles; n++) {
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float highest = maximum[n][e];
#pragma unroll
                for (int a = 0; a < kTokenFragments; a++) {
                    highest = fmaxf(highest, fmaxf(scores[n][a].c[e] * scale, scores[n][a].c[2 + e] * scale));
                }
#pragma unroll
                for (int lanes = 4; lanes < 32; lanes *= 2) {  // those of the same column
                    highest = fmaxf(highest, __shfl_xor_sync(kAllLanes, highest, lanes));
                }
                const float factor = exp2Fast(maximum[n][e] - highest);
                maximum[n][e] = highest;
                if (fresh) continue;
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    sum[n].c[2 * half + e] *= factor;
#pragma unroll
                    for (int step = 0; step < kSteps; step++) out[n][step].c[2 * half + e] *= factor;
                }
            }
        }
        fresh = false;
    }
};
