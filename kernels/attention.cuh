// A warp's attention of up to 8 kColumnTiles query rows over its share of a KV head's tokens, on tensor cores.
//
// Tokens are the rows of the scores' product (M), query rows its columns (N): a group of up to eight heads costs one
// column tile, and neither K nor V is transposed on the way.
//
//     scores   S [tokens, rows] = K · q          A = K as it lies, B = q, kept in registers
//     weights  P = exp2(S - maximum)             in registers; transposed within the warp to become B
//     values   O [head_dim, rows] += Vᵀ · P      A = V, transposed by its load
//     sums     1ᵀ P                              by one more product, with ones, or lane by lane
//
// How K and V are stored is the business of keys.cuh and values.cuh.
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
#include "values.cuh"

constexpr int kSlots = 3;

// Weights up to this fit fp16 with room for their products' sums; a larger one raises the maximum.
constexpr float kRaiseAbove = 256.0f;

// Of K stored as Sk and V as Sv: a slot of a warp's ring is a tile of either, then the scales of a tile of K and of one of
// V, as far as they have some. 4 to 8 KiB.
template <typename Sk, typename Sv, int kHeadDim>
struct RingOf {
    static constexpr int kWidest = Stored<Sk>::kBytes > Stored<Sv>::kBytes ? Stored<Sk>::kBytes : Stored<Sv>::kBytes;
    static constexpr int kTokens = kHeadDim * kWidest <= 256 ? 32 : 16;  // of a tile
    static constexpr int kTileBytes = kTokens * kHeadDim * kWidest;
    static constexpr int kScaleBytes = 128;  // of a tile's tokens, on all banks
    static constexpr int kKeyScales = kTileBytes;
    static constexpr int kValueScales = kTileBytes + (Stored<Sk>::kScaled ? kScaleBytes : 0);
    static constexpr int kSlotBytes = kValueScales + (Stored<Sv>::kScaled ? kScaleBytes : 0);
    static constexpr int kBytes = kSlots * kSlotBytes;
};

template <typename Sk, typename Sv, int kHeadDim, int kColumnTiles, int kWarps>
struct WarpAttention {
    using Ring = RingOf<Sk, Sv, kHeadDim>;
    static constexpr int kTokens = Ring::kTokens;
    using K = Keys<Sk, kHeadDim, kTokens, kColumnTiles, Ring::kSlotBytes>;
    using V = Values<Sv, kHeadDim, kTokens, kColumnTiles, Ring::kSlotBytes>;
    using KeyTile = typename K::KeyTile;
    using ValueTile = typename V::ValueTile;
    using Product = typename V::Product;
    static constexpr bool kAlike = Stored<Sk>::kBytes == Stored<Sv>::kBytes;
    static constexpr bool kKeysScaled = Stored<Sk>::kScaled, kValuesScaled = Stored<Sv>::kScaled;
    static constexpr int kTokenFragments = kTokens / 16;
    static constexpr int kSteps = kHeadDim / 16;
    static constexpr int kStride = kWarps * kTokens;  // tokens from one of a warp's tiles to its next

    // The product with ones sums weights as rounded for the product with V. In bf16 that is too coarse for lse: there
    // they are summed before they are rounded. So they are where scales of V are in what is rounded, and where the
    // accumulator's four registers a column tile (of which two are wanted) and the ones would not fit.
    static constexpr bool kExactSums =
        kValuesScaled || std::is_same_v<Product, __nv_bfloat16> || kColumnTiles * kHeadDim > 2 * 96;
    static constexpr bool kOnes = !kExactSums || V::kBiased;

    using Scores = typename K::Scores;
    using Factors = typename K::Factors;
    using Weights = typename V::Weights;
    using TokenScales = typename V::TokenScales;

    const KvDecodeParams& p;
    const Range& range;
    const Place& place;  // in shared memory
    int lane;

    typename KeyTile::Lane at;
    typename ValueTile::Lane v_at;  // where tiles of V are not like K's
    uint32_t scale_to, scales_at;   // where the lane's scales go in slot 0, and where it reads those of its tokens
    size_t from;                    // the lane's source of the next K tile to copy
    size_t v_from;                  // and of V, where it does not lie as far from K everywhere
    size_t scale_from;              // the lane's scale of that K tile, or V's where K has none
    K keys;
    FragmentC out[kColumnTiles][kSteps];
    FragmentC ones[kColumnTiles];  // the product of ones, or of V's bias; its rows are all the same
    float sum[kColumnTiles][2];    // the lane's part, where sums are exact
    float maximum[kColumnTiles][2];
    bool fresh;  // no tile yet; the same in all lanes

    __device__ __forceinline__ const typename ValueTile::Lane& valuesAt() const {
        if constexpr (kAlike) {
            return at;
        } else {
            return v_at;
        }
    }

    // Forgets all tokens attended to.
    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int n = 0; n < kColumnTiles; n++) {
            maximum[n][0] = maximum[n][1] = kNoScore;
            sum[n][0] = sum[n][1] = 0.0f;
            ones[n] = {};
#pragma unroll
            for (int step = 0; step < kSteps; step++) out[n][step] = {};
        }
        fresh = true;
    }

    // `first`: elements from the beginning of K, and of V, to the sequence's first token.
    __device__ __forceinline__ void start(uint32_t ring, int64_t first, int warp) {
        clear();
        KeyTile::place(at, ring, lane);
        const int tile = range.begin + warp * kTokens;
        const int64_t element = first + static_cast<int64_t>(tile) * kHeadDim;
        from = KeyTile::source(globalAddress(p.cache.k) + element * Stored<Sk>::kBytes, lane);
        if constexpr (!kAlike) {
            ValueTile::place(v_at, ring, lane);
            v_from = ValueTile::source(globalAddress(p.cache.v) + element * Stored<Sv>::kBytes, lane);
        }
        if constexpr (kKeysScaled || kValuesScaled) {
            scale_to = ring + placeOfScale<kTokens>(lane) * sizeof(float);
            scales_at = ring + placeOfScale<kTokens>(lane / 4) * sizeof(float);
            keepInRegister(scale_to);
            keepInRegister(scales_at);
            const float* const scales = kKeysScaled ? p.cache.k_scale : p.cache.v_scale;
            scale_from = globalAddress(scales) + (element / kHeadDim + lane) * sizeof(float);
        }
        copyKeys<0>(range.end - tile);
        copyValues<1>(range.end - tile);
    }

    // All of this warp's tiles in the cache.
    __device__ __forceinline__ void attend(int warp) {
        int left = range.end - (range.begin + warp * kTokens);
        while (left > 0) {
            attendTile<0>(left);
            if ((left -= kStride) <= 0) break;
            attendTile<1>(left);
            if ((left -= kStride) <= 0) break;
            attendTile<2>(left);
            left -= kStride;
        }
        waitForCopies<0>();
        __syncwarp();
    }

    // A tile that was put into slots 0 (K) and 1 (V) by other means; its first token has this position.
    __device__ __forceinline__ void attendPresent(int position) {
        Scores scores;
        Weights weights;
        keys.template multiply<0>(scores, at);
        weigh<0, false>(weights, scores, kTokens, position + kTokens);
        multiplyValues<1>(weights);
    }

    // The softmax of column n * 8 + 2 (lane % 4) + e so far, the same in the lanes of a column.
    __device__ __forceinline__ Partial partial(int n, int e) const {
        float total = kExactSums ? sum[n][e] : ones[n].c[e];
        if constexpr (kExactSums) {
#pragma unroll
            for (int lanes = 4; lanes < 32; lanes *= 2) total += __shfl_xor_sync(kAllLanes, total, lanes);
        }
        return {maximum[n][e], total};
    }

    // What accumulator i of a column tile and step stands for.
    __device__ __forceinline__ float output(int n, int step, int i) const {
        return V::finished(out[n][step].c[i], ones[n].c[i % 2]);
    }

  private:
    // The kPhase-th of three tiles that go through the ring in turn. `left`: the block's tokens from its first one on, those
    // of other warps' tiles too.
    template <int kPhase>
    __device__ __forceinline__ void attendTile(int left) {
        constexpr int kKeys = 2 * kPhase % kSlots;
        constexpr int kValues = (2 * kPhase + 1) % kSlots;
        constexpr int kFree = (2 * kPhase + 2) % kSlots;
        Scores scores;
        Weights weights;

        waitForCopies<1>();  // for K; V may be under way
        __syncwarp();        // for all lanes' copies, and until all are done with the V before
        copyKeys<kFree>(left - kStride);
        keys.template multiply<kKeys>(scores, at);
        weigh<kKeys, true>(weights, scores, left, place.end);

        waitForCopies<1>();  // for V
        __syncwarp();
        copyValues<kKeys>(left - kStride);
        multiplyValues<kValues>(weights);
    }

    // The next tile's K and all its scales, then its V: as many rows of it as there are.
    template <int kSlot>
    __device__ __forceinline__ void copyKeys(int rows) {
        if (rows >= kTokens) {
            KeyTile::template copyWhole<kSlot>(at, from);
            copyScales([&](auto to, size_t scale) {
                copyWordAsync<kSlot * Ring::kSlotBytes + to>(scale_to, scale);
            });
        } else if (rows > 0) {
            KeyTile::template copyPart<kSlot>(at, from, rows, lane);
            copyScales([&](auto to, size_t scale) {
                copyWordAsyncOrZero<kSlot * Ring::kSlotBytes + to>(scale_to, scale, lane < rows);
            });
        }
        commitCopies();  // an empty group too: groups are counted
    }

    // Copies the lane's scales by copy(where in a slot, from where).
    template <typename Copy>
    __device__ __forceinline__ void copyScales(const Copy& copy) {
        if constexpr (kKeysScaled || kValuesScaled) {
            if (kTokens == 32 || lane < kTokens) {
                if constexpr (kKeysScaled) copy(Constant<Ring::kKeyScales>{}, scale_from);
                const size_t to_values = kKeysScaled ? distance(p.cache.v_scale, p.cache.k_scale) : 0;
                if constexpr (kValuesScaled) copy(Constant<Ring::kValueScales>{}, scale_from + to_values);
            }
            scale_from += kStride * sizeof(float);
        }
    }

    __device__ __forceinline__ size_t valuesFrom() const {
        if constexpr (kAlike) {
            return from + distance(p.cache.v, p.cache.k);
        } else {
            return v_from;
        }
    }

    template <int kSlot>
    __device__ __forceinline__ void copyValues(int rows) {
        if (rows >= kTokens) {
            ValueTile::template copyWhole<kSlot>(valuesAt(), valuesFrom());
            from += kStride * KeyTile::kRowBytes;
            if constexpr (!kAlike) v_from += kStride * ValueTile::kRowBytes;
        } else if (rows > 0) {  // the last
            ValueTile::template copyPart<kSlot>(valuesAt(), valuesFrom(), rows, lane);
        }
        commitCopies();
    }

    template <int kSlot>
    __device__ __forceinline__ void multiplyValues(const Weights& weights) {
        V::template add<kSlot>(out, weights, valuesAt());
        if constexpr (kOnes) {
            FragmentA rows;
#pragma unroll
            for (int i = 0; i < 4; i++) rows.pair[i] = V::biasPair();
#pragma unroll
            for (int a = 0; a < kTokenFragments; a++)
#pragma unroll
                for (int n = 0; n < kColumnTiles; n++) ones[n] = multiplyAdd<Product>(rows, weights[n][a], ones[n]);
        }
    }

    // kSlot is that of the tile's K, which has the scales. Tokens from `end` on, `left` behind the tile's first, do not
    // exist. By reference: it is seldom asked for, and then found in shared memory.
    template <int kSlot, bool kMayBePlain>
    __device__ __forceinline__ void weigh(Weights& weights, Scores& scores, int left, const int& end) {
        constexpr int kSlotAt = kSlot * Ring::kSlotBytes;
        Factors factors = keys.template factors<kSlotAt + Ring::kKeyScales>(scales_at, p.score_scale);
        const TokenScales scales = V::template tokenScales<kSlotAt + Ring::kValueScales>(scales_at);
        // From registers, where there is room.
        const Plain plain = kColumnTiles == 1 ? range.plain : place.plain;
        if (!kMayBePlain || !plain.has(left)) {
            shapeScores(scores, factors, left, end);
            factors.forget();
        }
        float sums[kColumnTiles][2];
        // Before its first tile a warp has no maximum, and nothing to rescale.
        if (fresh || weighAgainstMaximum(weights, sums, scores, factors, scales)) {
            raiseMaximum(scores, factors, scales);
            weighAgainstMaximum(weights, sums, scores, factors, scales);
        }
        if constexpr (kExactSums) {
#pragma unroll
            for (int n = 0; n < kColumnTiles; n++)
#pragma unroll
                for (int e = 0; e < 2; e++) sum[n][e] += sums[n][e];
        }
#pragma unroll
        for (int n = 0; n < kColumnTiles; n++)
#pragma unroll
            for (int a = 0; a < kTokenFragments; a++)
#pragma unroll
                for (int half = 0; half < 2; half++) weights[n][a].pair[half] = transpose(weights[n][a].pair[half]);
    }

    // Scores of a tile that not all queries see alike, or that goes beyond the tokens there are: capped, biased and masked,
    // in base 2.
    __device__ __forceinline__ void shapeScores(Scores& scores, const Factors& factors, int left, int end) const {
        const int tile = end - left;
#pragma unroll
        for (int n = 0; n < kColumnTiles; n++) {
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int row = min(place.first_row + n * 8 + lane % 4 * 2 + e, place.last_row);
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
                        score *= factors.of(n, a, half, e);
                        if (p.soft_cap != 0.0f) score = softCapped(score, p.soft_cap, p.soft_cap_scale);
                        score -= slope * static_cast<float>(position - token);
                        if (token > position || token < oldest || token >= end) score = minusInfinity();
                    }
                }
            }
        }
    }

    // Weights against the maximum as it is, in pairs of neighbouring columns; true where one is too large for it.
    __device__ __forceinline__ bool weighAgainstMaximum(Weights& weights, float (&sums)[kColumnTiles][2],
                                                        const Scores& scores, const Factors& factors,
                                                        const TokenScales& scales) const {
        uint32_t largest;
#pragma unroll
        for (int n = 0; n < kColumnTiles; n++) {
#pragma unroll
            for (int a = 0; a < kTokenFragments; a++) {
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const bool is_first = a + half == 0;
                    const float* c = &scores[n][a].c[2 * half];
                    const float low = exp2Fast(fmaf(c[0], factors.of(n, a, half, 0), -maximum[n][0]));
                    const float high = exp2Fast(fmaf(c[1], factors.of(n, a, half, 1), -maximum[n][1]));
                    sums[n][0] = is_first ? low : sums[n][0] + low;
                    sums[n][1] = is_first ? high : sums[n][1] + high;
                    const uint32_t pair =
                        Element<Product>::pack(scales.weightOf(low, a, half), scales.weightOf(high, a, half));
                    weights[n][a].pair[half] = pair;
                    largest = n == 0 && is_first ? pair : Element<Product>::larger(largest, pair);
                }
            }
        }
        return __any_sync(kAllLanes, Element<Product>::anyAbove(largest, kRaiseAbove));
    }

    __device__ __forceinline__ void raiseMaximum(const Scores& scores, const Factors& factors,
                                                 const TokenScales& scales) {
#pragma unroll
        for (int n = 0; n < kColumnTiles; n++) {
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float highest = maximum[n][e];
#pragma unroll
                for (int a = 0; a < kTokenFragments; a++) {
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        const float score = scores[n][a].c[2 * half + e] * factors.of(n, a, half, e);
                        highest = fmaxf(highest, score + scales.logOf(a, half));
                    }
                }
#pragma unroll
                for (int lanes = 4; lanes < 32; lanes *= 2) {  // those of the same column
                    highest = fmaxf(highest, __shfl_xor_sync(kAllLanes, highest, lanes));
                }
                const float factor = exp2Fast(maximum[n][e] - highest);
                maximum[n][e] = highest;
                if (fresh) continue;
                if constexpr (kExactSums) sum[n][e] *= factor;
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    if constexpr (kOnes) ones[n].c[2 * half + e] *= factor;
#pragma unroll
                    for (int step = 0; step < kSteps; step++) out[n][step].c[2 * half + e] *= factor;
                }
            }
        }
        fresh = false;
    }
};
