// decode: attention of one query token a sequence over its cached tokens.
//
// One block works for one KV head of one sequence and serves all query heads that share it, so every cached byte is
// read from memory once, whatever the group. Tiles of 32 tokens go from memory to shared memory, 16 bytes a thread
// and in address order; while one tile is worked on, the next is on its way in registers. Query head h of the group
// belongs to warp h mod 4:
//     scores   a lane takes a token: dot product of q (broadcast) and its K row
//     softmax  across the lanes, online
//     values   a lane takes kHeadDim / 32 neighbouring elements: sum over tokens of weight times V
//
// Shared memory, one tile:
//     k  32 rows of kHeadDim elements and 16 bytes more: lanes read the same 16-byte column of different rows, and the
//        extra 16 bytes put eight neighbouring rows on all 32 banks once
//     v  32 rows of kHeadDim elements: lanes read neighbouring words of the same row
//     q  fp32, scaled, read by all lanes at once
#include "cache.cuh"
#include "element.cuh"
#include "softmax.cuh"
#include "step.cuh"

namespace {

constexpr int kWarps = KV_DECODE_THREADS / 32;
constexpr int kTile = 32;  // tokens: one a lane

template <int kHeadDim, int kMaxGroup>
struct Shared {
    static constexpr int kVectors = kHeadDim / kPerVector;  // of a row
    Vec16 k[kTile][kVectors + 1];
    Vec16 v[kTile][kVectors];
    float q[kMaxGroup][kHeadDim];
};

// A thread's share of a tile on its way from memory to shared memory.
template <int kHeadDim>
struct InFlight {
    static constexpr int kVectors = kHeadDim / kPerVector;
    static constexpr int kCount = kTile * kVectors / KV_DECODE_THREADS;
    static_assert(kCount * KV_DECODE_THREADS == kTile * kVectors, "equal shares");
    Vec16 k[kCount], v[kCount];
};

// Vectors past the last visible token are zero and nothing is read there: what lies behind it may be NaN.
template <typename T, int kHeadDim>
__device__ __forceinline__ void fetchTile(InFlight<kHeadDim>& tile, const T* k, const T* v, int64_t token_stride,
                                          int first, int visible) {
#pragma unroll
    for (int i = 0; i < tile.kCount; i++) {
        const int vector = i * KV_DECODE_THREADS + threadIdx.x;
        const int token = first + vector / tile.kVectors;
        tile.k[i] = tile.v[i] = Vec16{};
        if (token < visible) {
            const int64_t offset = token * token_stride + vector % tile.kVectors * kPerVector;
            tile.k[i] = loadOnce(k + offset);
            tile.v[i] = loadOnce(v + offset);
        }
    }
}

template <int kHeadDim, int kMaxGroup>
__device__ __forceinline__ void depositTile(Shared<kHeadDim, kMaxGroup>& shared, const InFlight<kHeadDim>& tile) {
#pragma unroll
    for (int i = 0; i < tile.kCount; i++) {
        const int vector = i * KV_DECODE_THREADS + threadIdx.x;
        shared.k[vector / tile.kVectors][vector % tile.kVectors] = tile.k[i];
        shared.v[vector / tile.kVectors][vector % tile.kVectors] = tile.v[i];
    }
}

// Query heads the group does not have are zero: they are computed like others and not stored.
template <typename T, int kHeadDim, int kMaxGroup>
__device__ __forceinline__ void loadQueries(Shared<kHeadDim, kMaxGroup>& shared, const T* q, int64_t head_stride,
                                            int group_size, float scale) {
    constexpr int kVectors = kHeadDim / kPerVector;
    for (int vector = threadIdx.x; vector < kMaxGroup * kVectors; vector += KV_DECODE_THREADS) {
        const int head = vector / kVectors;
        const int element = vector % kVectors * kPerVector;
        Vec16 packed = {};
        if (head < group_size) packed = loadOnce(q + head * head_stride + element);
        float4 scaled[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float2 a = Element<T>::unpack(packed.word[2 * half]);
            const float2 b = Element<T>::unpack(packed.word[2 * half + 1]);
            scaled[half] = make_float4(a.x * scale, a.y * scale, b.x * scale, b.y * scale);
        }
        float4* to = reinterpret_cast<float4*>(&shared.q[head][element]);
        to[0] = scaled[0];
        to[1] = scaled[1];
    }
}

// scores[i] = q of the warp's i-th head · K of the lane's token
template <typename T, int kHeadDim, int kMaxGroup, int kHeads>
__device__ __forceinline__ void dotProducts(float (&scores)[kHeads], const Shared<kHeadDim, kMaxGroup>& shared,
                                            int warp, int lane) {
#pragma unroll
    for (int i = 0; i < kHeads; i++) scores[i] = 0.0f;
#pragma unroll
    for (int vector = 0; vector < kHeadDim / kPerVector; vector++) {
        const Vec16 packed = shared.k[lane][vector];
        float2 k[4];
#pragma unroll
        for (int j = 0; j < 4; j++) k[j] = Element<T>::unpack(packed.word[j]);
#pragma unroll
        for (int i = 0; i < kHeads; i++) {
            const float4* q = reinterpret_cast<const float4*>(&shared.q[i * kWarps + warp][vector * kPerVector]);
            const float4 low = q[0], high = q[1];
            scores[i] += low.x * k[0].x + low.y * k[0].y + low.z * k[1].x + low.w * k[1].y;
            scores[i] += high.x * k[2].x + high.y * k[2].y + high.z * k[3].x + high.w * k[3].y;
        }
    }
}

// A lane's elements of a row of V or of the output: kHeadDim / 32 neighbouring ones, in packed pairs, one access.
template <int kHeadDim>
struct alignas(kHeadDim / 16) LanePairs {
    static constexpr int kPairs = kHeadDim / 64;
    uint32_t word[kPairs];
};

// The same elements of one head's output so far, not yet divided by the softmax's denominator.
template <int kHeadDim>
struct Accumulator {
    static constexpr int kPairs = LanePairs<kHeadDim>::kPairs;
    float2 pair[kPairs] = {};

    __device__ __forceinline__ void scale(float factor) {
#pragma unroll
        for (int j = 0; j < kPairs; j++) {
            pair[j].x *= factor;
            pair[j].y *= factor;
        }
    }
};

// Adds every token's V, weighted; weights[i] is the lane's token's weight for the warp's i-th head.
template <typename T, int kHeadDim, int kMaxGroup, int kHeads>
__device__ __forceinline__ void addValues(Accumulator<kHeadDim> (&sums)[kHeads], const float (&weights)[kHeads],
                                          const Shared<kHeadDim, kMaxGroup>& shared, int lane) {
#pragma unroll 8
    for (int token = 0; token < kTile; token++) {
        const auto packed = reinterpret_cast<const LanePairs<kHeadDim>*>(shared.v[token])[lane];
#pragma unroll
        for (int j = 0; j < packed.kPairs; j++) {
            const float2 v = Element<T>::unpack(packed.word[j]);
#pragma unroll
            for (int i = 0; i < kHeads; i++) {
                const float weight = __shfl_sync(kAllLanes, weights[i], token);
                sums[i].pair[j].x += weight * v.x;
                sums[i].pair[j].y += weight * v.y;
            }
        }
    }
}

template <typename T, int kHeadDim>
__device__ __forceinline__ void storeHead(T* out, const Accumulator<kHeadDim>& sum, float factor, int lane) {
    LanePairs<kHeadDim> packed;
#pragma unroll
    for (int j = 0; j < packed.kPairs; j++) {
        packed.word[j] = Element<T>::pack(sum.pair[j].x * factor, sum.pair[j].y * factor);
    }
    reinterpret_cast<LanePairs<kHeadDim>*>(out)[lane] = packed;
}

template <typename T, int kHeadDim, int kMaxGroup>
__device__ __forceinline__ void decode(const KvDecodeParams& p) {
    constexpr int kHeads = kMaxGroup / kWarps;  // of a warp
    __shared__ Shared<kHeadDim, kMaxGroup> shared;

    const int sequence = blockIdx.x / p.num_kv_heads;
    const int kv_head = blockIdx.x % p.num_kv_heads;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int first_q_head = kv_head * p.group_size;
    const SequenceStep s = sequenceStep(p.step, sequence);
    const int visible = s.cached + s.added;

    const int64_t start = cacheOffset(p.cache, sequence, kv_head, 0);
    const T* k = static_cast<const T*>(p.cache.k) + start;
    const T* v = static_cast<const T*>(p.cache.v) + start;
    InFlight<kHeadDim> tile;
    fetchTile(tile, k, v, p.cache.token_stride, 0, visible);

    const int64_t q_start = tokenOffset(p.q, false, 0, sequence, 0, first_q_head);
    loadQueries(shared, static_cast<const T*>(p.q.data) + q_start, p.q.head_stride, p.group_size, p.score_scale);

    OnlineSoftmax softmax[kHeads];
    Accumulator<kHeadDim> sums[kHeads];
    for (int first = 0; first < visible; first += kTile) {
        depositTile(shared, tile);
        __syncthreads();
        fetchTile(tile, k, v, p.cache.token_stride, first + kTile, visible);

        float scores[kHeads], weights[kHeads];
        dotProducts<T>(scores, shared, warp, lane);
#pragma unroll
        for (int i = 0; i < kHeads; i++) {
            float rescale;
            weights[i] = softmax[i].add(first + lane < visible ? scores[i] : kMinusInfinity, rescale);
            sums[i].scale(rescale);
        }
        addValues<T>(sums, weights, shared, lane);
        __syncthreads();  // before the next tile overwrites this one
    }

#pragma unroll
    for (int i = 0; i < kHeads; i++) {
        const int head = i * kWarps + warp;
        if (head >= p.group_size) continue;
        const int64_t row = static_cast<int64_t>(sequence) * p.num_kv_heads * p.group_size + first_q_head + head;
        const float denominator = softmax[i].denominator();
        // Nothing visible: zeros and -inf.
        storeHead(static_cast<T*>(p.out) + row * kHeadDim, sums[i],
                  denominator > 0.0f ? __frcp_rn(denominator) : 0.0f, lane);
        if (p.lse != nullptr && lane == 0) p.lse[row] = softmax[i].logSumExp(denominator);
    }
}

}  // namespace

#define KV_DECODE(name, type, head_dim, max_group)                                              \
    extern "C" __global__ void __launch_bounds__(KV_DECODE_THREADS)                             \
        kv_decode_##name##_d##head_dim##_g##max_group(const __grid_constant__ KvDecodeParams params) { \
        decode<type, head_dim, max_group>(params);                                              \
    }
#define KV_DECODE_GROUPS(name, type, head_dim) \
    KV_DECODE(name, type, head_dim, 4)         \
    KV_DECODE(name, type, head_dim, 8)         \
    KV_DECODE(name, type, head_dim, 16)

KV_DECODE_GROUPS(f16, __half, 64)
KV_DECODE_GROUPS(f16, __half, 128)
KV_DECODE_GROUPS(bf16, __nv_bfloat16, 64)
KV_DECODE_GROUPS(bf16, __nv_bfloat16, 128)
