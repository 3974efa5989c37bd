// append: copies the K and V vectors of a step's new tokens behind those already cached; on the way, where asked, K is
// turned by RoPE.
//
// Without: bytes in, the same bytes out, so it is a copy at the speed of memory: 16 bytes a thread, neighbouring threads
// on neighbouring addresses, K and V in the same thread so that two loads are in flight. A row is the vector of one token
// and head; rows are taken in the order the engine computed them (token by token, all heads of it).
//
// With: the same accesses, arranged so that the turn is cheap (turning.cuh): a lane takes several heads of one token,
// because sines and cosines are the token's.
#include "cache.cuh"
#include "step.cuh"
#include "turning.cuh"
#include "variants.h"
#include "vector.cuh"

namespace {

// Where elements of a new token's vectors come from and where they go.
struct Way {
    int64_t k_from, v_from, to;

    __device__ __forceinline__ Way(const KvAppendParams& p, const NewToken& t, int head, int element) {
        const bool packed = p.step.cu_seqlens != nullptr;
        to = cacheOffset(p.cache, t.sequence, head, t.position()) + element;
        k_from = tokenOffset(p.k_new, packed, t.step.first, t.sequence, t.nth, head) + element;
        v_from = tokenOffset(p.v_new, packed, t.step.first, t.sequence, t.nth, head) + element;
    }
};

template <typename Bits, int kHeadDim>
__device__ __forceinline__ void append(const KvAppendParams& p) {
    constexpr int kVectors = kHeadDim / kPerVector;  // of a row
    constexpr int kRows = KV_APPEND_THREADS / kVectors;
    static_assert(kHeadDim % kPerVector == 0 && kRows > 0, "whole rows a block");

    const unsigned row = blockIdx.x * kRows + threadIdx.x / kVectors;
    const int element = threadIdx.x % kVectors * kPerVector;
    // Threads beyond the last whole row have nothing to do.
    if (threadIdx.x >= kRows * kVectors || row >= static_cast<unsigned>(p.rows)) return;

    const int head = row % p.num_kv_heads;
    const NewToken t = newToken(p.step, row / p.num_kv_heads);
    if (!t.added()) {
        if (t.owned && head == 0 && element == 0) flag(p.step, t.sequence, t.step.status);
        return;
    }
    const Way way(p, t, head, element);
    const Vec16 k = loadOnce(static_cast<const Bits*>(p.k_new.data) + way.k_from);
    const Vec16 v = loadOnce(static_cast<const Bits*>(p.v_new.data) + way.v_from);
    store(static_cast<Bits*>(p.cache.k) + way.to, k);
    store(static_cast<Bits*>(p.cache.v) + way.to, v);
}

template <typename T, int kHeadDim>
__device__ __forceinline__ void appendTurned(const KvAppendParams& p) {
    using Unit = TurningUnit<kHeadDim>;
    __shared__ WarpTurns<kHeadDim> turns[KV_ROPE_THREADS / 32];
    const Unit unit(blockIdx.x * (KV_ROPE_THREADS / 32) + threadIdx.x / 32, threadIdx.x % 32);
    const int units = unitsOfHeads(p.num_kv_heads);
    const unsigned token = unit.index / units;
    const int first_head = unit.index % units;
    const bool exists = unit.is_whole && token < static_cast<unsigned>(p.rows / p.num_kv_heads);
    const NewToken t = newToken(p.step, exists ? token : 0);
    const bool added = exists && t.added();
    if (exists && t.owned && !added && first_head == 0 && unit.chunk == 0) flag(p.step, t.sequence, t.step.status);

    const Way way(p, t, first_head, unit.chunk * kPerVector);
    const auto isThere = [&](int pass) { return added && first_head + pass * units < p.num_kv_heads; };
    Vec16 k[KV_ROPE_PASSES], v[KV_ROPE_PASSES];
#pragma unroll
    for (int i = 0; i < KV_ROPE_PASSES; i++) {
        k[i] = v[i] = {};
        if (isThere(i)) {
            k[i] = loadOnce(static_cast<const T*>(p.k_new.data) + way.k_from + i * units * p.k_new.head_stride);
            v[i] = loadOnce(static_cast<const T*>(p.v_new.data) + way.v_from + i * units * p.v_new.head_stride);
        }
    }
    const ChunkTurn turn(p.rope, added ? t.position() : 0, unit, turns[threadIdx.x / 32]);
#pragma unroll
    for (int i = 0; i < KV_ROPE_PASSES; i++) {
        k[i] = turn.apply(k[i], Element<T>{});
        if (isThere(i)) {
            store(static_cast<T*>(p.cache.k) + way.to + i * units * p.cache.head_stride, k[i]);
            store(static_cast<T*>(p.cache.v) + way.to + i * units * p.cache.head_stride, v[i]);
        }
    }
}

}  // namespace

// fp16 and bf16 alike: a copy does not look at its bits.
#define KV_APPEND(bits, head_dim)                                                                             \
    extern "C" __global__ void __launch_bounds__(KV_APPEND_THREADS)                                           \
        kv_append_b##bits##_d##head_dim(const __grid_constant__ KvAppendParams params) {                      \
        append<uint##bits##_t, head_dim>(params);                                                             \
    }

#define HEAD_DIM(head_dim) KV_APPEND(16, head_dim)
KV_HEAD_DIMS(HEAD_DIM)
#undef HEAD_DIM

#define KV_APPEND_ROPE(name, type, head_dim)                                                                  \
    extern "C" __global__ void __launch_bounds__(KV_ROPE_THREADS)                                             \
        kv_append_rope_##name##_d##head_dim(const __grid_constant__ KvAppendParams params) {                  \
        appendTurned<type, head_dim>(params);                                                                 \
    }

#define HEAD_DIM(head_dim)                  \
    KV_APPEND_ROPE(f16, __half, head_dim)   \
    KV_APPEND_ROPE(bf16, __nv_bfloat16, head_dim)
KV_HEAD_DIMS(HEAD_DIM)
