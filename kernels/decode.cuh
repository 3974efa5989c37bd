// decode: attention of a sequence's newest tokens over its cache; and, in the same launch where asked, what makes a whole
// step of a layer: rotary embedding of q and the new k, and appending the new k and v.
//
// One block works for one KV head of one sequence, on one split of its tokens, and serves up to 8 or 16 query rows that
// share the head: row r is query token r / group_size, head r % group_size of the group. Its four warps take tiles of
// the split in turn (attention.cuh) and are merged through shared memory. Where a sequence is split, each block leaves
// what it has in memory and counts itself; the last one to arrive merges all, and resets the count for the next launch.
//
// New tokens are no more than a tile. The block of the last split takes them straight from the step's k and v, after its
// tiles, and writes them to the cache: no block reads what another one writes.
#pragma once

#include "attention.cuh"
#include "cache.cuh"
#include "divisor.cuh"
#include "turning.cuh"
#include "variants.h"

namespace {

constexpr int kWarps = KV_DECODE_THREADS / 32;

template <typename T, int kHeadDim, int kColumnTiles>
struct Block {
    using Warp = WarpAttention<T, kHeadDim, kColumnTiles, kWarps>;
    using WarpTile = typename Warp::WarpTile;
    static constexpr int kColumns = 8 * kColumnTiles;
    static constexpr int kChunks = WarpTile::kChunks;

    // Queries on their way to fragments, in the one slot of the ring that nothing is copied to before the first tile is
    // worked on. Rows lie 16 bytes further apart than they are long: eight of them on all banks.
    static constexpr int kQueryPitch = kHeadDim + kPerVector;
    static constexpr int kQueryOffset = 2 * WarpTile::kBytes;  // slot 2 of warp 0
    static_assert(kColumns * kQueryPitch * sizeof(T) <= WarpTile::kBytes, "queries fit a slot");

    // What the warps have of the cache, and what the new tokens add, once nobody needs tiles any more: in the rings of
    // all warps but the first, which takes the new tokens in its own. Rows of O lie 4 floats further apart than they are
    // long: fragments are written by lanes 2 rows apart, which then are 8 banks apart.
    static constexpr int kNewTokens = kWarps;  // their part
    struct Merge {
        float out[kWarps + 1][kColumns][kHeadDim + 4];
        Partial partial[kWarps + 1][kColumns];
        bool last;
    };
    static_assert(sizeof(Merge) <= (kWarps - 1) * Warp::kRingBytes - WarpTile::kBytes,
                  "the host asks for the rings' size, and the last slot is for vectors being turned");

    const KvDecodeParams& p;
    Place at;
    unsigned char* shared;

    __device__ __forceinline__ int rows() const { return p.query_tokens * p.group_size.value - at.first_row; }  // at least 1

    using Unit = TurningUnit<kHeadDim>;

    // Turns of all pairs at some positions, one after another, in a slot that nothing else is in: those of the queries
    // before the first tile, those of the new tokens after the last.
    static constexpr int kPairs = kHeadDim / 2;
    static constexpr int kQueryTurnsOffset = Warp::kRingBytes + 2 * WarpTile::kBytes;  // slot 2 of warp 1
    static constexpr int kNewTurnsOffset = 2 * WarpTile::kBytes;                       // slot 2 of warp 0
    static_assert(KV_MAX_QUERY_TOKENS * kPairs * sizeof(Turn) <= WarpTile::kBytes, "turns fit a slot");
    // Vectors being turned, of each warp's units.
    static constexpr int kTurningOffset = 3 * Warp::kRingBytes + 2 * WarpTile::kBytes;  // slot 2 of warp 3
    static_assert(kWarps * Unit::kUnits * kHeadDim * sizeof(T) <= WarpTile::kBytes, "they fit a slot");

    // All threads together: a sine and cosine each, or few, instead of eight for each 16 bytes of every row.
    __device__ __forceinline__ const Turn* makeTurns(int offset, int first_position, int tokens) const {
        Turn* const turns = reinterpret_cast<Turn*>(shared + offset);
        for (int i = threadIdx.x; i < tokens * kPairs; i += KV_DECODE_THREADS) {
            const int token = i / kPairs, pair = i % kPairs;
            turns[token * kPairs + WarpTurns<kHeadDim>::place(pair)] =
                turnOf(p.rope, max(first_position + token, 0), min(pair, p.rope.rotary_dim / 2 - 1));
        }
        __syncthreads();
        return turns;
    }

    __device__ __forceinline__ Vec16 turn(const Vec16& x, const Turn* turns, int token, const Unit& unit,
                                          int warp) const {
        T* const memory = reinterpret_cast<T*>(shared + kTurningOffset) + warp * Unit::kUnits * kHeadDim;
        return ChunkTurn<T>(p.rope, unit, turns + token * kPairs, memory).apply(x);
    }

    // Brings the block's query rows to shared memory, turned, zeros for columns without one.
    __device__ __forceinline__ T* stageQueries(int warp, int lane) const {
        T* const staged = reinterpret_cast<T*>(shared + kQueryOffset);
        const T* const q = static_cast<const T*>(p.q.data) + at.sequence * p.q.batch_stride;
        const bool turns = p.rope.rotary_dim > 0;
        const Turn* const turns_of = turns ? makeTurns(kQueryTurnsOffset, at.first_query, p.query_tokens) : nullptr;
        const Unit unit(warp, lane);
#pragma unroll 1
        for (int first = 0; first < kColumns; first += kWarps * Unit::kUnits) {
            const int column = first + unit.index;
            const Division row = divide(at.first_row + column, p.group_size);
            const int query = row.quotient;
            Vec16 x = {};
            if (unit.is_whole && column < min(rows(), kColumns)) {
                const int head = at.kv_head * p.group_size.value + row.remainder;
                x = loadOnce(q + query * p.q.token_stride + head * p.q.head_stride + unit.chunk * kPerVector);
            }
            // Lanes without a row turn nothing, for some token there is: shuffles take them all.
            if (turns) x = turn(x, turns_of, min(query, p.query_tokens - 1), unit, warp);
            if (unit.is_whole && column < kColumns) {
                storeShared(staged + column * kQueryPitch + unit.chunk * kPerVector, x);
            }
        }
        __syncthreads();
        return staged;
    }

    // One warp puts the new tokens into the first two slots of its ring, K turned, zeros behind them; and, once a KV
    // head, into the cache.
    __device__ __forceinline__ void takeNewTokens(int lane, const Turn* turns) const {
        const bool packed = p.step.cu_seqlens != nullptr;
        const Unit unit(0, lane);
#pragma unroll 1
        for (int first = 0; first < Warp::kTokens; first += Unit::kUnits) {
            const int token = first + unit.index;
            const bool exists = unit.is_whole && token < at.step.added;
            const int element = unit.chunk * kPerVector;
            Vec16 k = {}, v = {};
            if (exists) {
                const int64_t k_from = tokenOffset(p.k_new, packed, at.step.first, at.sequence, token, at.kv_head);
                const int64_t v_from = tokenOffset(p.v_new, packed, at.step.first, at.sequence, token, at.kv_head);
                k = loadOnce(static_cast<const T*>(p.k_new.data) + k_from + element);
                v = loadOnce(static_cast<const T*>(p.v_new.data) + v_from + element);
            }
            if (turns != nullptr && first < at.step.added) {
                k = turn(k, turns, min(token, at.step.added - 1), unit, 0);
            }
            if (unit.is_whole && token < Warp::kTokens) {
                const int to = (token * kChunks + (unit.chunk ^ WarpTile::exchange(token))) * KV_VECTOR_BYTES;
                storeShared(shared + to, k);
                storeShared(shared + WarpTile::kBytes + to, v);
            }
            if (exists && at.row_group == 0) {
                const int64_t to = cacheOffset(p.cache, at.sequence, at.kv_head, at.step.cached + token) + element;
                store(static_cast<T*>(p.cache.k) + to, k);
                store(static_cast<T*>(p.cache.v) + to, v);
            }
        }
        __syncwarp();
    }

    __device__ __forceinline__ void leave(Merge& merge, const Warp& attention, int part, int lane) const {
#pragma unroll
        for (int n = 0; n < kColumnTiles; n++) {
            const int column = n * 8 + lane % 4 * 2;
#pragma unroll
            for (int step = 0; step < Warp::kSteps; step++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    merge.out[part][column + i % 2][step * 16 + i / 2 * 8 + lane / 4] =
                        attention.out[n][step].c[i];
                }
            }
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const Partial partial = attention.partial(n, e);
                if (lane / 4 == 0) merge.partial[part][column + e] = partial;
            }
        }
    }

    // Four neighbouring elements of a column's output and the softmax they belong to.
    struct Quad {
        float4 o = {0.0f, 0.0f, 0.0f, 0.0f};
        Partial partial = {kNoScore, 0.0f};

        __device__ __forceinline__ void merge(const float4& other_o, const Partial& other_partial) {
            float other;
            const float factor = partial.merge(other_partial, other);
            o = {o.x * factor + other_o.x * other, o.y * factor + other_o.y * other, o.z * factor + other_o.z * other,
                 o.w * factor + other_o.w * other};
        }
    };
    static constexpr int kQuads = kHeadDim / 4;

    // Of all warps, and of the new tokens where there are some.
    __device__ __forceinline__ Quad mergeParts(const Merge& merge, bool has_new, int column, int quad) const {
        Quad x;
#pragma unroll
        for (int w = 0; w < kWarps; w++) {
            x.partial.maximum = fmaxf(x.partial.maximum, merge.partial[w][column].maximum);
        }
        if (has_new) x.partial.maximum = fmaxf(x.partial.maximum, merge.partial[kNewTokens][column].maximum);
        const auto add = [&](int part) {
            const Partial& partial = merge.partial[part][column];
            const float4 o = reinterpret_cast<const float4*>(merge.out[part][column])[quad];
            const float weight = exp2Fast(partial.maximum - x.partial.maximum);
            x.partial.sum = fmaf(partial.sum, weight, x.partial.sum);
            x.o = {fmaf(o.x, weight, x.o.x), fmaf(o.y, weight, x.o.y), fmaf(o.z, weight, x.o.z),
                   fmaf(o.w, weight, x.o.w)};
        };
#pragma unroll
        for (int w = 0; w < kWarps; w++) add(w);
        if (has_new) add(kNewTokens);
        return x;
    }

    // [unit, split, column]: a row of O, its maximum and its sum.
    static constexpr int kPartialFloats = kHeadDim + 4;
    __device__ __forceinline__ float* partialsOf(int of_split, int column) const {
        return p.partials +
               ((static_cast<int64_t>(at.unit) * p.num_splits.value + of_split) * kColumns + column) * kPartialFloats;
    }

    __device__ __forceinline__ void handOver(const Quad& x, int column, int quad) const {
        float* const to = partialsOf(at.split, column);
        reinterpret_cast<float4*>(to)[quad] = x.o;
        if (quad == 0) *reinterpret_cast<float2*>(to + kHeadDim) = {x.partial.maximum, x.partial.sum};
    }

    __device__ __forceinline__ Quad mergeSplits(int column, int quad) const {
        Quad x;
        for (int of_split = 0; of_split < at.splits; of_split++) {
            const float* const from = partialsOf(of_split, column);
            const float2 m = __ldcg(reinterpret_cast<const float2*>(from + kHeadDim));
            x.merge(__ldcg(reinterpret_cast<const float4*>(from) + quad), {m.x, m.y});
        }
        return x;
    }

    __device__ __forceinline__ void finish(Quad x, int column, int quad) const {
        const Division row = divide(at.first_row + column, p.group_size);
        const int query = row.quotient;
        const int head = at.kv_head * p.group_size.value + row.remainder;
        if (p.sinks != nullptr && x.partial.sum != 0.0f) x.merge({}, {p.sinks[head] * kLog2E, 1.0f});
        // A query that sees no token: zeros.
        const float factor = x.partial.sum == 0.0f ? 0.0f : 1.0f / x.partial.sum;
        const int64_t to = (static_cast<int64_t>(at.sequence) * p.query_tokens + query) * p.num_kv_heads.value *
                               p.group_size.value +
                           head;
        reinterpret_cast<uint2*>(static_cast<T*>(p.out) + to * kHeadDim)[quad] = {
            Element<T>::pack(x.o.x * factor, x.o.y * factor), Element<T>::pack(x.o.z * factor, x.o.w * factor)};
        if (p.lse != nullptr && quad == 0) p.lse[to] = x.partial.logSumExp();
    }

    // Calls body for every column in use and quad of its elements, over the block's threads.
    template <typename Body>
    __device__ __forceinline__ void forQuads(const Body& body) const {
        const int count = min(rows(), kColumns) * kQuads;
        for (int i = threadIdx.x; i < count; i += KV_DECODE_THREADS) body(i / kQuads, i % kQuads);
    }
};

__device__ __forceinline__ int threadInBlock() {
    int thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    return thread;
}

template <typename T, int kHeadDim, int kColumnTiles>
__device__ __forceinline__ void decode(const KvDecodeParams& p) {
    using B = Block<T, kHeadDim, kColumnTiles>;
    extern __shared__ __align__(128) unsigned char shared[];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    B block = {p, {}, shared};
    Place& at = block.at;
    const Division of_splits = divide(blockIdx.x, p.num_splits);
    at.split = of_splits.remainder;
    at.unit = of_splits.quotient;
    const Division of_row_groups = divide(at.unit, p.row_groups);
    at.row_group = of_row_groups.remainder;
    const Division of_heads = divide(of_row_groups.quotient, p.num_kv_heads);
    at.kv_head = of_heads.remainder;
    at.sequence = of_heads.quotient;
    at.step = sequenceStep(p.step, at.sequence);
    const Range range = rangeOfBlock(p, at.step, at.split, B::Warp::kStride);
    at.splits = range.splits;
    at.first_query = range.first_query;
    at.first_row = at.row_group * B::kColumns;
    if (at.split >= at.splits) return;
    __shared__ Place parked;
    if (threadIdx.x == 0) parked = at;

    const int64_t start = cacheOffset(p.cache, at.sequence, at.kv_head, 0);
    typename B::Warp attention = {p, range, parked, lane};
    attention.start(sharedAddress(shared) + warp * B::Warp::kRingBytes, static_cast<const T*>(p.cache.k) + start,
                    warp);
    attention.template takeQueries<B::kQueryPitch>(block.stageQueries(warp, lane));
    __syncthreads();  // the slots that held queries are the rings' again
    attention.attend(warp);
    __syncthreads();  // nobody reads tiles any more
    at = parked;
    // Asked again, so that the compiler does not keep through the loop what it can work out from it.
    const int thread = threadInBlock();
    const int warp_after = thread / 32, lane_after = thread % 32;

    auto& merge = *reinterpret_cast<typename B::Merge*>(shared + B::Warp::kRingBytes);
    block.leave(merge, attention, warp_after, lane_after);
    const bool appends = p.k_new.data != nullptr && at.split == at.splits - 1;
    const bool has_new = appends && at.step.added > 0;
    const Turn* turns = nullptr;
    if (has_new && p.rope.rotary_dim > 0) {
        turns = block.makeTurns(B::kNewTurnsOffset, at.step.cached, at.step.added);
    }
    if (has_new && warp_after == 0) {
        block.takeNewTokens(lane_after, turns);
        attention.clear();
        attention.attendPresent(at.step.cached);
        block.leave(merge, attention, B::kNewTokens, lane_after);
    }
    if (appends && threadIdx.x == 0 && at.row_group == 0 && at.kv_head == 0) {
        flag(p.step, at.sequence, at.step.status);
    }
    __syncthreads();
    block.forQuads([&](int column, int quad) {
        const typename B::Quad x = block.mergeParts(merge, has_new, column, quad);
        if (at.splits == 1) {
            block.finish(x, column, quad);
        } else {
            block.handOver(x, column, quad);
        }
    });
    if (at.splits == 1) return;

    // What a block has written is in memory before it counts itself; who counts last sees all of it.
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        const unsigned others = at.splits - 1;
        merge.last = atomicInc(&p.arrivals[at.unit], others) == others;  // and the count is 0 again
        __threadfence();
    }
    __syncthreads();
    if (!merge.last) return;
    block.forQuads([&](int column, int quad) { block.finish(block.mergeSplits(column, quad), column, quad); });
}

}  // namespace

// Of an element type, head dimension and number of query rows a block.
#define KV_DECODE(name, type, head_dim, columns)                                                     \
    extern "C" __global__ void __launch_bounds__(KV_DECODE_THREADS, 3)                               \
        kv_decode_##name##_d##head_dim##_n##columns(const __grid_constant__ KvDecodeParams params) { \
        decode<type, head_dim, columns / 8>(params);                                                 \
    }
