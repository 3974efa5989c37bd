// Vectors turned by RoPE in registers, 16 bytes a lane: the lanes that hold a vector follow each other in a warp, so that
// memory is accessed by whole vectors, and a pair's two channels find each other by shuffles.
//
//     head_dim 128    lanes  0 … 15   16 … 31              two vectors a warp
//     head_dim 80     lanes  0 … 9    10 … 19   20 … 29    three, and two lanes idle
//
// A unit is the lanes of one vector and takes up to KV_ROPE_PASSES heads of one token, because sines and cosines are the
// token's: made once for all of them. Neighbouring units take neighbouring heads, so that a warp's accesses have no gaps:
//
//     8 heads, 2 units a token     unit 0 takes heads 0, 2, 4, 6     unit 1 takes heads 1, 3, 5, 7
#pragma once

#include "rope.cuh"
#include "warp.cuh"

// Units for this many heads of a token: head h is taken by unit h % units.
__device__ __forceinline__ int unitsOfHeads(int heads) { return (heads + KV_ROPE_PASSES - 1) / KV_ROPE_PASSES; }

// A lane's part in a unit.
template <int kHeadDim>
struct TurningUnit {
    static constexpr int kChunks = kHeadDim / kPerVector;  // of 16 bytes in a vector
    static constexpr int kUnits = 32 / kChunks;            // of a warp
    static_assert(kHeadDim % kPerVector == 0 && kUnits > 0, "whole vectors a warp");

    unsigned index;  // among all units
    int chunk;       // of the vector, the lane's
    int first_lane;  // of the unit
    bool exists;     // not so for lanes that are left over: they stay for the shuffles

    __device__ __forceinline__ TurningUnit(unsigned warp, int lane)
        : index(warp * kUnits + lane / kChunks),
          chunk(lane % kChunks),
          first_lane(lane - lane % kChunks),
          exists(lane < kUnits * kChunks) {}
};

// The turn of one lane's eight channels at a position. Costly to make (eight sines and cosines), cheap to apply.
template <typename T>
struct ChunkTurn {
    const KvRope& rope;
    int chunk, first_lane;
    float cosine[kPerVector];
    float sine[kPerVector];  // negative for the first channel of a pair

    __device__ __forceinline__ ChunkTurn(const KvRope& rope_, int position, int chunk_, int first_lane_)
        : rope(rope_), chunk(chunk_), first_lane(first_lane_) {
        const int half = rope.rotary_dim / 2;
        // Channels that do not turn ask for the last pair's angle: for some pair there is.
        if (rope.interleaved) {
#pragma unroll
            for (int w = 0; w < kPerVector / 2; w++) {
                const Turn turn = turnOf(rope, position, min(firstChannel() / 2 + w, half - 1));
                cosine[2 * w] = cosine[2 * w + 1] = turn.cosine;
                sine[2 * w] = -turn.sine;
                sine[2 * w + 1] = turn.sine;
            }
        } else {
#pragma unroll
            for (int e = 0; e < kPerVector; e++) {
                const int channel = firstChannel() + e;
                const bool is_first = channel < half;
                const Turn turn = turnOf(rope, position, is_first ? channel : min(channel - half, half - 1));
                cosine[e] = turn.cosine;
                sine[e] = is_first ? -turn.sine : turn.sine;
            }
        }
    }

    // All lanes of the warp together.
    __device__ __forceinline__ Vec16 apply(const Vec16& x) const {
        const Vec16 other = others(x);
        Vec16 result;
#pragma unroll
        for (int w = 0; w < kPerVector / 2; w++) {
            const float2 a = Element<T>::unpack(x.word[w]), b = Element<T>::unpack(other.word[w]);
            const uint32_t pair = Element<T>::pack(turned(a.x, b.x, cosine[2 * w], sine[2 * w]),
                                                   turned(a.y, b.y, cosine[2 * w + 1], sine[2 * w + 1]));
            // rotary_dim is even: both channels of a word turn, or neither.
            result.word[w] = firstChannel() + 2 * w < rope.rotary_dim ? pair : x.word[w];
        }
        return result;
    }

  private:
    __device__ __forceinline__ int firstChannel() const { return chunk * kPerVector; }

    // For each channel the other one of its pair.
    __device__ __forceinline__ Vec16 others(const Vec16& x) const {
        Vec16 other;
        const int half = rope.rotary_dim / 2;
        if (rope.interleaved) {
#pragma unroll
            for (int w = 0; w < kPerVector / 2; w++) other.word[w] = __byte_perm(x.word[w], 0, 0x1032);
        } else if (half % kPerVector == 0) {  // whole chunks change places
            const int chunks = half / kPerVector;
            const int from = chunk < chunks ? chunk + chunks : chunk < 2 * chunks ? chunk - chunks : chunk;
#pragma unroll
            for (int w = 0; w < kPerVector / 2; w++) {
                other.word[w] = __shfl_sync(kAllLanes, x.word[w], first_lane + from);
            }
        } else {
#pragma unroll
            for (int w = 0; w < kPerVector / 2; w++) {
                other.word[w] = otherChannel(x, firstChannel() + 2 * w) |
                                otherChannel(x, firstChannel() + 2 * w + 1) << 16;
            }
        }
        return other;
    }

    // The other channel of `channel`'s pair wherever it lies, for a rotary_dim that is no multiple of 16.
    __device__ __forceinline__ uint32_t otherChannel(const Vec16& x, int channel) const {
        const int half = rope.rotary_dim / 2;
        const int other = channel < half ? channel + half : channel < 2 * half ? channel - half : channel;
        uint32_t word = 0;
#pragma unroll
        for (int w = 0; w < kPerVector / 2; w++) {
            const uint32_t theirs = __shfl_sync(kAllLanes, x.word[w], first_lane + other / kPerVector);
            if (other % kPerVector / 2 == w) word = theirs;
        }
        return other % 2 == 0 ? word & 0xffffu : word >> 16;
    }
};
