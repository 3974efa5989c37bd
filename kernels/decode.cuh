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

    // What the warps have, once nobody needs tiles any more. Rows of O lie 4 floats further apart than they are long:
    // fragments are written by lanes 2 rows apart, which then are 8 banks apart.
    struct Merge {
        float out[kWarps][kColumns][kHeadDim + 4];
        Partial partial[kWarps][kColumns];
        bool last;
    };
    static_assert(sizeof(Merge) <= kWarps * Warp::kRingBytes, "the host asks for the ring's size");

    const KvDecodeParams& p;
    int split, unit;  // blocks of a unit work for the same query rows of the same KV head and sequence
    int row_group, kv_head, sequence;
    SequenceStep step;
    Range range;
    unsigned char* shared;

    __device__ __forceinline__ int firstRow() const { return row_group * kColumns; }
    __device__ __forceinline__ int rows() const { return p.query_tokens * p.group_size - firstRow(); }  // at least 1

    // Brings the block's query rows to shared memory, zeros for columns without one, and turns them.
    __device__ __forceinline__ T* stageQueries() const {
        T* const staged = reinterpret_cast<T*>(shared + kQueryOffset);
        const T* const q = static_cast<const T*>(p.q.data) + sequence * p.q.batch_stride;
        for (int i = threadIdx.x; i < kColumns * kChunks; i += KV_DECODE_THREADS) {
            const int column = i / kChunks, element = i % kChunks * kPerVector;
            Vec16 x = {};
            if (column < rows()) {
                const int row = firstRow() + column;
                const int query = row / p.group_size;
                const int head = kv_head * p.group_size + row % p.group_size;
                x = loadOnce(q + query * p.q.token_stride + head * p.q.head_stride + element);
            }
            *reinterpret_cast<Vec16*>(staged + column * kQueryPitch + element) = x;
        }
        __syncthreads();
        const int pairs = p.rope.rotary_dim / 2;
        if (pairs > 0) {
            const int count = min(rows(), kColumns) * pairs;
            for (int first = 0; first < count; first += KV_DECODE_THREADS) {
                const int i = first + threadIdx.x, column = i / pairs;
                const int position = max(range.first_query + (firstRow() + column) / p.group_size, 0);
                turnPair<T>(p.rope, position, i % pairs, i < count,
                            [&](int channel) { return staged + column * kQueryPitch + channel; });
            }
            __syncthreads();
        }
        return staged;
    }

    // One warp puts the new tokens into the first two slots of its ring, K turned, zeros behind them; and, once a KV
    // head, into the cache.
    __device__ __forceinline__ void takeNewTokens(int lane) const {
        unsigned char* const keys = shared;
        unsigned char* const values = shared + WarpTile::kBytes;
        const auto chunk = [](unsigned char* tile, int token, int chunk) {
            return reinterpret_cast<Vec16*>(
                tile + (token * kChunks + (chunk ^ WarpTile::exchange(token))) * KV_VECTOR_BYTES);
        };
        const bool packed = p.step.cu_seqlens != nullptr;
        for (int i = lane; i < Warp::kTokens * kChunks; i += 32) {
            const int token = i / kChunks, c = i % kChunks;
            Vec16 k = {}, v = {};
            if (token < step.added) {
                const int64_t k_from = tokenOffset(p.k_new, packed, step.first, sequence, token, kv_head);
                const int64_t v_from = tokenOffset(p.v_new, packed, step.first, sequence, token, kv_head);
                k = loadOnce(static_cast<const T*>(p.k_new.data) + k_from + c * kPerVector);
                v = loadOnce(static_cast<const T*>(p.v_new.data) + v_from + c * kPerVector);
            }
            *chunk(keys, token, c) = k;
            *chunk(values, token, c) = v;
        }
        __syncwarp();
        const int pairs = p.rope.rotary_dim / 2;
        for (int first = 0; first < step.added * pairs; first += 32) {
            const int i = first + lane, token = i / pairs;
            turnPair<T>(p.rope, step.cached + token, i % pairs, token < step.added, [&](int channel) {
                return reinterpret_cast<T*>(chunk(keys, token, channel / kPerVector)) + channel % kPerVector;
            });
        }
        __syncwarp();
        if (row_group != 0) return;
        for (int i = lane; i < step.added * kChunks; i += 32) {
            const int token = i / kChunks, c = i % kChunks;
            const int64_t to = cacheOffset(p.cache, sequence, kv_head, step.cached + token) + c * kPerVector;
            store(static_cast<T*>(p.cache.k) + to, *chunk(keys, token, c));
            store(static_cast<T*>(p.cache.v) + to, *chunk(values, token, c));
        }
    }

    __device__ __forceinline__ void leave(Merge& merge, const Warp& warp_attention, int warp, int lane) const {
#pragma unroll
        for (int n = 0; n < kColumnTiles; n++) {
            const int column = n * 8 + lane % 4 * 2;
#pragma unroll
            for (int step = 0; step < Warp::kSteps; step++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    merge.out[warp][column + i % 2][step * 16 + i / 2 * 8 + lane / 4] =
                        warp_attention.out[n][step].c[i];
                }
            }
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const Partial partial = warp_attention.partial(n, e);
                if (lane / 4 == 0) merge.partial[warp][column + e] = partial;
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

    // [unit, split, column]: a row of O, its maximum and its sum.
    static constexpr int kPartialFloats = kHeadDim + 4;
    __device__ __forceinline__ float* partialsOf(int of_split, int column) const {
        return p.partials +
               ((static_cast<int64_t>(unit) * p.num_splits + of_split) * kColumns + column) * kPartialFloats;
    }

    __device__ __forceinline__ void handOver(const Quad& x, int column, int quad) const {
        float* const to = partialsOf(split, column);
        reinterpret_cast<float4*>(to)[quad] = x.o;
        if (quad == 0) *reinterpret_cast<float2*>(to + kHeadDim) = {x.partial.maximum, x.partial.sum};
    }

    __device__ __forceinline__ Quad mergeSplits(int column, int quad) const {
        Quad x;
        for (int of_split = 0; of_split < range.splits; of_split++) {
            const float* const from = partialsOf(of_split, column);
            const float2 m = __ldcg(reinterpret_cast<const float2*>(from + kHeadDim));
            x.merge(__ldcg(reinterpret_cast<const float4*>(from) + quad), {m.x, m.y});
        }
        return x;
    }

    __device__ __forceinline__ void finish(Quad x, int column, int quad) const {
        const int row = firstRow() + column;
        const int query = row / p.group_size;
        const int head = kv_head * p.group_size + row % p.group_size;
        if (p.sinks != nullptr && x.partial.sum != 0.0f) x.merge({}, {p.sinks[head] * kLog2E, 1.0f});
        // A query that sees no token: zeros.
        const float factor = x.partial.sum == 0.0f ? 0.0f : 1.0f / x.partial.sum;
        const int64_t to = (static_cast<int64_t>(sequence) * p.query_tokens + query) * p.num_kv_heads * p.group_size +
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

template <typename T, int kHeadDim, int kColumnTiles>
__device__ __forceinline__ void decode(const KvDecodeParams& p) {
    using B = Block<T, kHeadDim, kColumnTiles>;
    extern __shared__ __align__(128) unsigned char shared[];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    B block = {p};
    block.split = blockIdx.x % p.num_splits;
    block.unit = blockIdx.x / p.num_splits;
    block.row_group = block.unit % p.row_groups;
    block.kv_head = block.unit / p.row_groups % p.num_kv_heads;
    block.sequence = block.unit / p.row_groups / p.num_kv_heads;
    block.step = sequenceStep(p.step, block.sequence);
    block.range = rangeOfBlock(p, block.step, block.split, B::Warp::kStride);
    block.shared = shared;
    const Range& range = block.range;
    const bool is_last_split = block.split == range.splits - 1;
    if (block.split >= range.splits) return;

    const int64_t start = cacheOffset(p.cache, block.sequence, block.kv_head, 0);
    typename B::Warp attention = {p, range, block.kv_head, block.firstRow(), lane};
    attention.start(sharedAddress(shared) + warp * B::Warp::kRingBytes, static_cast<const T*>(p.cache.k) + start,
                    static_cast<const T*>(p.cache.v) + start, warp);
    attention.takeQueries(block.stageQueries(), B::kQueryPitch);
    __syncthreads();  // the slot that held the queries is the ring's again
    attention.attend(warp);
    if (is_last_split && p.k_new.data != nullptr && warp == 0) {
        block.takeNewTokens(lane);
        if (block.step.added > 0) attention.attendPresent(block.step.cached);
        if (lane == 0 && block.row_group == 0 && block.kv_head == 0) flag(p.step, block.sequence, block.step.status);
    }

    __syncthreads();  // nobody reads tiles any more
    auto& merge = *reinterpret_cast<typename B::Merge*>(shared);
    block.leave(merge, attention, warp, lane);
    __syncthreads();
    block.forQuads([&](int column, int quad) {
        typename B::Quad x;
#pragma unroll
        for (int w = 0; w < kWarps; w++) {
            x.merge(reinterpret_cast<const float4*>(merge.out[w][column])[quad], merge.partial[w][column]);
        }
        if (range.splits == 1) {
            block.finish(x, column, quad);
        } else {
            block.handOver(x, column, quad);
        }
    });
    if (range.splits == 1) return;

    // What a block has written is in memory before it counts itself; who counts last sees all of it.
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        const unsigned others = range.splits - 1;
        merge.last = atomicInc(&p.arrivals[block.unit], others) == others;  // and the count is 0 again
        __threadfence();
    }
    __syncthreads();
    if (!merge.last) return;
    block.forQuads([&](int column, int quad) { block.finish(block.mergeSplits(column, quad), column, quad); });
}

}  // namespace

// Kernels by element type, head dimension and query rows of a block; src/plan.rs has the same table.
#define KV_DECODE(name, type, head_dim, columns)                                                     \
    extern "C" __global__ void __launch_bounds__(KV_DECODE_THREADS, 3)                               \
        kv_decode_##name##_d##head_dim##_n##columns(const __grid_constant__ KvDecodeParams params) { \
        decode<type, head_dim, columns / 8>(params);                                                 \
    }
#define KV_DECODE_TYPE(name, type) \
    KV_DECODE(name, type, 64, 8)   \
    KV_DECODE(name, type, 80, 8)   \
    KV_DECODE(name, type, 96, 8)   \
    KV_DECODE(name, type, 112, 8)  \
    KV_DECODE(name, type, 128, 8)  \
    KV_DECODE(name, type, 192, 8)  \
    KV_DECODE(name, type, 256, 8)  \
    KV_DECODE(name, type, 64, 16)  \
    KV_DECODE(name, type, 80, 16)  \
    KV_DECODE(name, type, 96, 16)  \
    KV_DECODE(name, type, 112, 16) \
    KV_DECODE(name, type, 128, 16)
