// decode: attention of a sequence's newest tokens over its cache; and, in the same launch where asked, what makes a whole
// step of a layer: rotary embedding of q and the new k, and appending the new k and v.
//
// One block works for one KV head of one sequence, on one split of its tokens, and serves up to 8 or 16 query rows that
// share the head: row r is query token r / group_size, head r % group_size of the group. Its four warps take tiles of
// the split in turn (attention.cuh) and are merged through shared memory. Where a sequence is split, each block leaves
// what it has in memory and counts itself; the last one to arrive merges all, and resets the count for the next launch.
//
// New tokens are no more than a tile. The block of the last split takes them straight from the step's k and v, after its
// tiles, and writes them to the cache, quantised where that is: no block reads what another one writes, and new tokens
// are attended to as they are stored.
#pragma once

#include "attention.cuh"
#include "cache.cuh"
#include "divisor.cuh"
#include "turning.cuh"
#include "variants.h"

namespace {

constexpr int kWarps = KV_DECODE_THREADS / 32;

// Elements of q, of new K and V and of the output, where K is stored as Sk and V as Sv: the type of the one that is stored
// as it is, or what the launch says.
template <typename Sk, typename Sv>
struct ElementsOf : Element<Sk> {
    __device__ __forceinline__ explicit ElementsOf(const KvDecodeParams&) {}
};
template <>
struct ElementsOf<Int8, Int8> : AnyElement {
    __device__ __forceinline__ explicit ElementsOf(const KvDecodeParams& p) : AnyElement{p.element == KV_DTYPE_BF16} {}
};
template <>
struct ElementsOf<Fp8E4M3, Fp8E4M3> : ElementsOf<Int8, Int8> {
    using ElementsOf<Int8, Int8>::ElementsOf;
};
template <typename Sv>
struct ElementsOf<Int8, Sv> : Element<Sv> {
    __device__ __forceinline__ explicit ElementsOf(const KvDecodeParams&) {}
};

constexpr int larger(int a, int b) { return a > b ? a : b; }

template <typename Sk, typename Sv, int kHeadDim, int kColumnTiles>
struct Block {
    using Warp = WarpAttention<Sk, Sv, kHeadDim, kColumnTiles, kWarps>;
    using Ring = typename Warp::Ring;
    using Elements = ElementsOf<Sk, Sv>;
    static constexpr int kColumns = 8 * kColumnTiles;
    static_assert(Ring::kBytes % Warp::KeyTile::kAlignment == 0, "rings begin where tiles may");

    // Slots of rings that nothing is copied to before the first tile is worked on.
    static __host__ __device__ constexpr int freeSlot(int warp) {
        return warp * Ring::kBytes + 2 * Ring::kSlotBytes;
    }
    // What the warps have of the cache, and what the new tokens add, once nobody needs tiles any more: behind the ring of
    // the first warp, which takes the new tokens in its own. Rows of O lie 4 floats further apart than they are long:
    // fragments are written by lanes 2 rows apart, which then are 8 banks apart.
    static constexpr int kNewTokens = kWarps;  // their part
    struct Merge {
        float out[kWarps + 1][kColumns][kHeadDim + 4];
        Partial partial[kWarps + 1][kColumns];
        bool last;
    };
    static constexpr int kMergeBytes = (sizeof(Merge) + 15) / 16 * 16;

    // Queries on their way to fragments: in free slots or, where they are read again for every tile, behind all else.
    static constexpr int kStagedBytes = kColumns * Warp::K::kPitch;
    static constexpr int kStagedScaleBytes = Warp::kKeysScaled ? kColumns * sizeof(float) : 0;
    static constexpr int kResidentOffset = larger(kWarps * Ring::kBytes, Ring::kBytes + kMergeBytes);
    static constexpr int kResidentBytes = Warp::K::kResident ? 0 : kStagedBytes + kStagedScaleBytes;
    static_assert(!Warp::K::kResident || kStagedBytes + kStagedScaleBytes <= Ring::kSlotBytes, "they fit a slot");
    __device__ __forceinline__ StagedQueries staged() const {
        unsigned char* const rows = shared + (Warp::K::kResident ? freeSlot(0) : kResidentOffset);
        return {rows, reinterpret_cast<float*>(rows + kStagedBytes)};
    }

    // The launch asks for as much (shared_bytes of src/decode_plan.rs): the last slot of it is for vectors being turned,
    // before the first tile and after the last one.
    static constexpr int kSharedBytes =
        Warp::K::kResident ? larger(kWarps * Ring::kBytes, Ring::kBytes + kMergeBytes + Ring::kSlotBytes)
                           : kResidentOffset + kResidentBytes + Ring::kSlotBytes;

    const KvDecodeParams& p;
    Elements elements;
    Place at;
    unsigned char* shared;

    __device__ __forceinline__ int rows() const { return at.last_row + 1 - at.first_row; }  // at least 1

    using Unit = TurningUnit<kHeadDim>;

    // Turns of all pairs at some positions, one after another, in a slot that nothing else is in: those of the queries
    // before the first tile, those of the new tokens after the last.
    static constexpr int kPairs = kHeadDim / 2;
    static constexpr int kQueryTurnsOffset = Ring::kBytes + 2 * Ring::kSlotBytes;  // the free slot of warp 1
    static constexpr int kNewTurnsOffset = 2 * Ring::kSlotBytes;                   // that of warp 0
    static_assert(KV_MAX_QUERY_TOKENS * kPairs * sizeof(Turn) <= Ring::kSlotBytes, "turns fit a slot");
    // Vectors being turned, of each warp's units.
    static constexpr int kTurningOffset = kSharedBytes - Ring::kSlotBytes;
    static_assert(kWarps * Unit::kUnits * kHeadDim * sizeof(uint16_t) <= Ring::kSlotBytes, "they fit a slot");

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
        uint16_t* const memory = reinterpret_cast<uint16_t*>(shared + kTurningOffset) + warp * Unit::kUnits * kHeadDim;
        return ChunkTurn(p.rope, unit, turns + token * kPairs, memory).apply(x, elements);
    }

    // Of a 16-bit vector that strides lead to.
    static __device__ __forceinline__ Vec16 loadVector(const void* data, int64_t element) {
        return loadOnce(static_cast<const uint16_t*>(data) + element);
    }

    // From the beginning of channel scales to those of a lane's elements; null where there are none.
    __device__ __forceinline__ const float* ofChannels(const float* channel_scale, const Unit& unit) const {
        const int chunk = unit.is_whole ? unit.chunk : 0;
        return channel_scale == nullptr ? nullptr : channel_scale + at.kv_head * kHeadDim + chunk * kPerVector;
    }

    // Brings the block's query rows to shared memory, turned, zeros for columns without one.
    __device__ __forceinline__ StagedQueries stageQueries(int warp, int lane) const {
        const StagedQueries to = staged();
        const bool turns = p.rope.rotary_dim > 0;
        const Turn* const turns_of = turns ? makeTurns(kQueryTurnsOffset, at.first_query, p.query_tokens) : nullptr;
        const Unit unit(warp, lane);
        const float* const channel_scale = ofChannels(p.cache.k_channel_scale, unit);
#pragma unroll 1
        for (int first = 0; first < kColumns; first += kWarps * Unit::kUnits) {
            const int column = first + unit.index;
            const Division row = divide(at.first_row + column, p.group_size);
            const int query = row.quotient;
            Vec16 x = {};
            if (unit.is_whole && column < min(rows(), kColumns)) {
                const int head = at.kv_head * p.group_size.value + row.remainder;
                x = loadVector(p.q.data, at.sequence * p.q.batch_stride + query * p.q.token_stride +
                                             head * p.q.head_stride + unit.chunk * kPerVector);
            }
            // Lanes without a row turn nothing, for some token there is: shuffles take them all.
            if (turns) x = turn(x, turns_of, min(query, p.query_tokens - 1), unit, warp);
            Warp::K::stage(to, column, x, unit, channel_scale, elements);
        }
        __syncthreads();
        return to;
    }

    // Where a new token's vector goes, in shared memory and in the cache.
    struct Destination {
        unsigned char* slot;  // of its tile
        float* tile_scales;
        void* cache;
        float* cache_scales;
        const float* channel_scale;
    };

    // One vector of K or of V, zeros where it does not exist; into the cache where it is `kept`.
    template <typename S, typename Tile>
    __device__ __forceinline__ void put(const Vec16& x, const Destination& to, int token, bool exists, bool kept,
                                        const Unit& unit) const {
        const bool present = unit.is_whole && token < Warp::kTokens;
        const int64_t element = cacheOffset(p.cache, at.sequence, at.kv_head, at.step.cached + token);
        if constexpr (!Stored<S>::kScaled) {
            const int chunk = token * Tile::kChunks + (unit.chunk ^ Tile::exchange(token));
            if (present) storeShared(to.slot + chunk * KV_VECTOR_BYTES, x);
            if (kept) store(static_cast<uint16_t*>(to.cache) + element + unit.chunk * kPerVector, x);
        } else {
            float y[kPerVector];
            unpackVector(y, x, elements);
            if (to.channel_scale != nullptr) divideByChannels(y, to.channel_scale);
            const Quantized<S> quantized = quantizeChunk<S, kHeadDim>(y, unit);
            if (present) {
                const int chunk = token * Tile::kChunks + (unit.chunk / 2 ^ Tile::exchange(token));
                *reinterpret_cast<uint2*>(to.slot + chunk * KV_VECTOR_BYTES + unit.chunk % 2 * kPerVector) =
                    quantized.payload;
                if (unit.chunk == 0) to.tile_scales[placeOfScale<Warp::kTokens>(token)] = quantized.scale;
            }
            if (kept) {
                *reinterpret_cast<uint2*>(static_cast<int8_t*>(to.cache) + element + unit.chunk * kPerVector) =
                    quantized.payload;
                if (unit.chunk == 0) to.cache_scales[element / kHeadDim] = quantized.scale;
                flagNonFinite(p.step.status, at.sequence, quantized.non_finite);
            }
        }
    }

    // One warp puts the new tokens into the first two slots of its ring, K turned, zeros behind them; and, once a KV
    // head, into the cache.
    __device__ __forceinline__ void takeNewTokens(int lane, const Turn* turns) const {
        const bool packed = p.step.cu_seqlens != nullptr;
        const Unit unit(0, lane);
        const Destination k_to = {shared, reinterpret_cast<float*>(shared + Ring::kKeyScales), p.cache.k,
                                  p.cache.k_scale, ofChannels(p.cache.k_channel_scale, unit)};
        const Destination v_to = {shared + Ring::kSlotBytes, reinterpret_cast<float*>(shared + Ring::kValueScales),
                                  p.cache.v, p.cache.v_scale, ofChannels(p.cache.v_channel_scale, unit)};
#pragma unroll 1
        for (int first = 0; first < Warp::kTokens; first += Unit::kUnits) {
            const int token = first + unit.index;
            const bool exists = unit.is_whole && token < at.step.added;
            const int element = unit.chunk * kPerVector;
            Vec16 k = {}, v = {};
            if (exists) {
                k = loadVector(p.k_new.data,
                               tokenOffset(p.k_new, packed, at.step.first, at.sequence, token, at.kv_head) + element);
                v = loadVector(p.v_new.data,
                               tokenOffset(p.v_new, packed, at.step.first, at.sequence, token, at.kv_head) + element);
            }
            if (turns != nullptr && first < at.step.added) {
                k = turn(k, turns, min(token, at.step.added - 1), unit, 0);
            }
            const bool kept = exists && at.row_group == 0;
            put<Sk, typename Warp::KeyTile>(k, k_to, token, exists, kept, unit);
            put<Sv, typename Warp::ValueTile>(v, v_to, token, exists, kept, unit);
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
                for (int e = 0; e < 2; e++) {
                    float* const row = merge.out[part][column + e];
                    const float first = attention.output(n, step, e), second = attention.output(n, step, 2 + e);
                    if constexpr (Warp::V::kNeighbours) {
                        *reinterpret_cast<float2*>(row + Warp::V::element(step, 0, lane)) = {first, second};
                    } else {
                        row[Warp::V::element(step, 0, lane)] = first;
                        row[Warp::V::element(step, 1, lane)] = second;
                    }
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

        // Against a maximum that is no lower.
        __device__ __forceinline__ void rescale(float maximum) {
            const float factor = exp2Fast(partial.maximum - maximum);
            partial = {maximum, partial.sum * factor};
            o = {o.x * factor, o.y * factor, o.z * factor, o.w * factor};
        }
        // Another part, of which the maximum is no higher.
        __device__ __forceinline__ void add(const float4& other_o, const Partial& other) {
            const float weight = exp2Fast(other.maximum - partial.maximum);
            partial.sum = fmaf(other.sum, weight, partial.sum);
            o = {fmaf(other_o.x, weight, o.x), fmaf(other_o.y, weight, o.y), fmaf(other_o.z, weight, o.z),
                 fmaf(other_o.w, weight, o.w)};
        }
    };
    static constexpr int kQuads = kHeadDim / 4;

    // Of all warps, and of the new tokens where there are some.
    __device__ __forceinline__ Quad mergeParts(const Merge& merge, bool has_new, int column, int quad) const {
        Quad x;
        Partial partial[kWarps + 1];
#pragma unroll
        for (int part = 0; part <= kWarps; part++) {
            if (part < kNewTokens || has_new) {
                partial[part] = merge.partial[part][column];
                x.partial.maximum = fmaxf(x.partial.maximum, partial[part].maximum);
            }
        }
#pragma unroll
        for (int part = 0; part <= kWarps; part++) {
            if (part < kNewTokens || has_new) {
                x.add(reinterpret_cast<const float4*>(merge.out[part][column])[quad], partial[part]);
            }
        }
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

    // Four splits at a time: their loads are under way together, and one maximum serves all.
    __device__ __forceinline__ Quad mergeSplits(int column, int quad) const {
        constexpr int kAtOnce = 4;
        Quad x;
        const float* from = partialsOf(0, column);
        for (int first = 0; first < at.splits; first += kAtOnce) {
            Quad part[kAtOnce];
#pragma unroll
            for (int i = 0; i < kAtOnce; i++) {
                if (first + i < at.splits) {
                    const float2 partial = __ldcg(reinterpret_cast<const float2*>(from + kHeadDim));
                    part[i].partial = {partial.x, partial.y};
                    part[i].o = __ldcg(reinterpret_cast<const float4*>(from) + quad);
                }
                from += kColumns * kPartialFloats;
            }
            float maximum = x.partial.maximum;
#pragma unroll
            for (int i = 0; i < kAtOnce; i++) maximum = fmaxf(maximum, part[i].partial.maximum);
            x.rescale(maximum);
#pragma unroll
            for (int i = 0; i < kAtOnce; i++) x.add(part[i].o, part[i].partial);
        }
        return x;
    }

    __device__ __forceinline__ void finish(Quad x, int column, int quad) const {
        const Division row = divide(at.first_row + column, p.group_size);
        const int query = row.quotient;
        const int head = at.kv_head * p.group_size.value + row.remainder;
        if (p.sinks != nullptr && x.partial.sum != 0.0f) {
            const Partial sink = {p.sinks[head] * kLog2E, 1.0f};
            x.rescale(fmaxf(x.partial.maximum, sink.maximum));
            x.add({}, sink);
        }
        // A query that sees no token: zeros.
        const float factor = x.partial.sum == 0.0f ? 0.0f : 1.0f / x.partial.sum;
        const int64_t to = (static_cast<int64_t>(at.sequence) * p.query_tokens + query) * p.num_kv_heads.value *
                               p.group_size.value +
                           head;
        float4 o = {x.o.x * factor, x.o.y * factor, x.o.z * factor, x.o.w * factor};
        if (Stored<Sv>::kScaled && p.cache.v_channel_scale != nullptr) {
            const float* const of_head = p.cache.v_channel_scale + at.kv_head * kHeadDim;
            const float4 scale = reinterpret_cast<const float4*>(of_head)[quad];
            o = {o.x * scale.x, o.y * scale.y, o.z * scale.z, o.w * scale.w};
        }
        reinterpret_cast<uint2*>(static_cast<uint16_t*>(p.out) + to * kHeadDim)[quad] = {elements.pack(o.x, o.y),
                                                                                          elements.pack(o.z, o.w)};
        if (p.lse != nullptr && quad == 0) p.lse[to] = x.partial.logSumExp();
    }

    // Calls body for every column in use and quad of its elements, over the block's threads: each keeps to a quad.
    template <typename Body>
    __device__ __forceinline__ void forQuads(const Body& body) const {
        constexpr int kColumnsAtOnce = KV_DECODE_THREADS / kQuads;
        const int thread = threadIdx.x;
        if (kQuads * kColumnsAtOnce < KV_DECODE_THREADS && thread >= kQuads * kColumnsAtOnce) return;
        const int columns = min(rows(), kColumns);
        for (int column = thread / kQuads; column < columns; column += kColumnsAtOnce) body(column, thread % kQuads);
    }
};

__device__ __forceinline__ int threadInBlock() {
    int thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    return thread;
}

template <typename Sk, typename Sv, int kHeadDim, int kColumnTiles>
__device__ __forceinline__ void decode(const KvDecodeParams& p) {
    using B = Block<Sk, Sv, kHeadDim, kColumnTiles>;
    extern __shared__ __align__(128) unsigned char shared[];
    const int warp = warpInBlock(), lane = threadIdx.x % 32;
    B block = {p, typename B::Elements(p), {}, shared};
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
    const Range range = rangeOfBlock(p, at.step, at.split, B::Warp::kTokens, B::Warp::kStride);
    at.splits = range.splits;
    at.first_query = range.first_query;
    at.last_row = p.query_tokens * p.group_size.value - 1;
    at.end = range.end;
    at.plain = range.plain;
    at.first_row = at.row_group * B::kColumns;
    if (at.split >= at.splits) return;
    __shared__ Place parked;
    if (threadIdx.x == 0) parked = at;

    typename B::Warp attention = {p, range, parked, lane};
    attention.start(sharedAddress(shared) + warp * B::Ring::kBytes, cacheOffset(p.cache, at.sequence, at.kv_head, 0),
                    warp);
    attention.keys.take(block.stageQueries(warp, lane), p.score_scale, lane);
    __syncthreads();  // the slots that held queries are the rings' again
    attention.attend(warp);
    __syncthreads();  // nobody reads tiles any more
    at = parked;
    // Asked again, so that the compiler does not keep through the loop what it can work out from it.
    const int thread = threadInBlock();
    const int warp_after = thread / 32, lane_after = thread % 32;

    auto& merge = *reinterpret_cast<typename B::Merge*>(shared + B::Ring::kBytes);
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

// Of how K and V are stored, head dimension and number of query rows a block.
#define KV_DECODE(name, k, v, head_dim, columns)                                                     \
    extern "C" __global__ void __launch_bounds__(KV_DECODE_THREADS, 3)                               \
        kv_decode_##name##_d##head_dim##_n##columns(const __grid_constant__ KvDecodeParams params) { \
        decode<k, v, head_dim, columns / 8>(params);                                                 \
    }
