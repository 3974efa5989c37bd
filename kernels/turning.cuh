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
    bool is_whole;   // not so for lanes that are left over: they stay for the shuffles

    __device__ __forceinline__ TurningUnit(unsigned warp, int lane)
        : index(warp * kUnits + lane / kChunks),
          chunk(lane % kChunks),
          first_lane(lane - lane % kChunks),
          is_whole(lane < kUnits * kChunks) {}

    // Among the warp's units. Lanes that are left over read what the last one has.
    __device__ __forceinline__ int nth() const { return min(first_lane / kChunks, kUnits - 1); }
};

struct alignas(KV_VECTOR_BYTES) TwoTurns {
    Turn first, second;
};
static_assert(sizeof(TwoTurns) == KV_VECTOR_BYTES, "two turns are one 16-byte access");

// Cosines and sines of all pairs at the positions of a warp's units: made by the lanes of a unit together, each pair once
// where two channels want it. Pairs 8 g, …, 8 g + 7 are 64 bytes, of which a lane reads 16 at a time: they change places
// within the 64 by g / 2, so that the same 16 of eight neighbouring g are on all banks.
template <int kHeadDim>
struct alignas(KV_VECTOR_BYTES) WarpTurns {
    using Unit = TurningUnit<kHeadDim>;
    static constexpr int kPairs = kHeadDim / 2;
    // Apart so that what a unit's first lane writes is on the banks after those of the last lane before it.
    static constexpr int kPitch = kPairs + (Unit::kChunks + 15 * kPairs) % 16;
    static_assert(kPairs % 8 == 0 && kPitch % 2 == 0, "whole groups of pairs, units on 16-byte boundaries");

    Turn turn[Unit::kUnits][kPitch];
    static_assert(kPairs * sizeof(Turn) >= kHeadDim * sizeof(uint16_t), "room for a vector, too");

    static __device__ __forceinline__ int place(int pair) { return pair ^ pair / 16 % 4 * 2; }
    // Those of an even pair and the next one.
    static __device__ __forceinline__ TwoTurns two(const Turn* turn, int pair) {
        return *reinterpret_cast<const TwoTurns*>(turn + place(pair));
    }
};

// The turn of one lane's eight channels at a position. Costly to make, cheap to apply.
struct ChunkTurn {
    const KvRope& rope;
    int chunk, first_lane;
    bool is_whole;
    uint16_t* scratch;  // shared memory for a vector, the unit's
    float cosine[kPerVector];
    float sine[kPerVector];  // negative for the first channel of a pair

    // All lanes of the warp together, once: nobody waits before writing to `turns`.
    template <int kHeadDim>
    __device__ __forceinline__ ChunkTurn(const KvRope& rope_, int position, const TurningUnit<kHeadDim>& unit,
                                         WarpTurns<kHeadDim>& turns)
        : rope(rope_), chunk(unit.chunk), first_lane(unit.first_lane), is_whole(unit.is_whole) {
        using Unit = TurningUnit<kHeadDim>;
        Turn* const turn = turns.turn[unit.nth()];
        scratch = reinterpret_cast<uint16_t*>(turn);  // once the turns are taken
        const int half = rope.rotary_dim / 2;
        if (is_whole) {
#pragma unroll
            for (int i = 0; i < WarpTurns<kHeadDim>::kPairs / Unit::kChunks; i++) {
                const int pair = i * Unit::kChunks + chunk;
                turn[turns.place(pair)] = turnOf(rope, position, min(pair, half - 1));
            }
        }
        __syncwarp();
        read<kHeadDim>(turn);
    }

    // Of a position whose turns are made, as WarpTurns::place has them. `memory` is for a vector of each of the warp's
    // units.
    template <int kHeadDim>
    __device__ __forceinline__ ChunkTurn(const KvRope& rope_, const TurningUnit<kHeadDim>& unit, const Turn* turn,
                                         uint16_t* memory)
        : rope(rope_),
          chunk(unit.chunk),
          first_lane(unit.first_lane),
          is_whole(unit.is_whole),
          scratch(memory + unit.nth() * kHeadDim) {
        read<kHeadDim>(turn);
    }

    // All lanes of the warp together. `elements`: an Element or AnyElement.
    template <typename Elements>
    __device__ __forceinline__ Vec16 apply(const Vec16& x, const Elements& elements) const {
        const Vec16 other = others(x);
        Vec16 result;
#pragma unroll
        for (int w = 0; w < kPerVector / 2; w++) {
            const float2 a = elements.unpack(x.word[w]), b = elements.unpack(other.word[w]);
            const uint32_t pair = elements.pack(turned(a.x, b.x, cosine[2 * w], sine[2 * w]),
                                               turned(a.y, b.y, cosine[2 * w + 1], sine[2 * w + 1]));
            // rotary_dim is even: both channels of a word turn, or neither.
            result.word[w] = firstChannel() + 2 * w < rope.rotary_dim ? pair : x.word[w];
        }
        return result;
    }

  private:
    template <int kHeadDim>
    __device__ __forceinline__ void read(const Turn* turn) {
        using Turns = WarpTurns<kHeadDim>;
        const int half = rope.rotary_dim / 2;
        if (rope.interleaved) {
#pragma unroll
            for (int e = 0; e < kPerVector; e += 4) {
                const TwoTurns two = Turns::two(turn, (firstChannel() + e) / 2);
                take(e, two.first, true);
                take(e + 1, two.first, false);
                take(e + 2, two.second, true);
                take(e + 3, two.second, false);
            }
        } else if (half % kPerVector == 0) {  // neighbouring channels have neighbouring pairs
#pragma unroll
            for (int e = 0; e < kPerVector; e += 2) {
                const TwoTurns two = Turns::two(turn, firstChannel() % half + e);
                take(e, two.first, firstChannel() < half);
                take(e + 1, two.second, firstChannel() < half);
            }
        } else {
#pragma unroll
            for (int e = 0; e < kPerVector; e++) {
                const int channel = firstChannel() + e;
                const bool is_first = channel < half;
                take(e, turn[Turns::place(is_first ? channel : min(channel - half, half - 1))], is_first);
            }
        }
    }

    __device__ __forceinline__ int firstChannel() const { return chunk * kPerVector; }

    __device__ __forceinline__ void take(int e, const Turn& turn, bool is_first) {
        cosine[e] = turn.cosine;
        sine[e] = is_first ? -turn.sine : turn.sine;
    }

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
        } else {  // wherever they lie: by way of memory
            uint16_t* const vector = scratch;
            __syncwarp();  // until all have taken their turns, or read the vector before
            if (is_whole) storeShared(vector + firstChannel(), x);
            __syncwarp();
#pragma unroll
            for (int w = 0; w < kPerVector / 2; w++) {
                const uint32_t low = vector[otherChannel(firstChannel() + 2 * w)];
                const uint32_t high = vector[otherChannel(firstChannel() + 2 * w + 1)];
                other.word[w] = low | high << 16;
            }
        }
        return other;
    }

    __device__ __forceinline__ int otherChannel(int channel) const {
        const int half = rope.rotary_dim / 2;
        return channel < half ? channel + half : channel < 2 * half ? channel - half : channel;
    }
};
