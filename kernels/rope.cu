// rope: turns the q and k vectors of a step's new tokens in place, each token's by its own position.
//
// Bytes in, as many out, at the speed of memory: 16 bytes a lane, whole vectors a unit, several heads of a token each
// (turning.cuh), loaded before the sines and cosines they wait for are computed.
#include "cache.cuh"
#include "step.cuh"
#include "turning.cuh"
#include "variants.h"

namespace {

template <typename T, int kHeadDim>
__device__ __forceinline__ void rope(const KvRopeParams& p) {
    __shared__ WarpTurns<kHeadDim> turns[KV_ROPE_THREADS / 32];
    const TurningUnit<kHeadDim> unit(blockIdx.x * (KV_ROPE_THREADS / 32) + threadIdx.x / 32, threadIdx.x % 32);
    const int q_units = unitsOfHeads(p.num_q_heads), k_units = unitsOfHeads(p.num_kv_heads);
    const unsigned token = unit.index / (q_units + k_units);
    const int unit_of_token = unit.index % (q_units + k_units);
    const bool is_q = unit_of_token < q_units;
    const int first_head = is_q ? unit_of_token : unit_of_token - q_units;
    const int units = is_q ? q_units : k_units;
    const int heads = is_q ? p.num_q_heads : p.num_kv_heads;
    const KvTokens& x = is_q ? p.q : p.k;

    const bool exists = unit.is_whole && token < static_cast<unsigned>(p.tokens);
    const NewToken t = newToken(p.step, exists ? token : 0);
    const bool present = exists && t.added();
    const int64_t first =
        tokenOffset(x, p.step.cu_seqlens != nullptr, t.step.first, t.sequence, t.nth, first_head);
    T* const vectors = static_cast<T*>(const_cast<void*>(x.data)) + first + unit.chunk * kPerVector;
    const int64_t stride = units * x.head_stride;
    const auto isThere = [&](int pass) { return present && first_head + pass * units < heads; };

    Vec16 vector[KV_ROPE_PASSES];
#pragma unroll
    for (int i = 0; i < KV_ROPE_PASSES; i++) {
        vector[i] = {};
        if (isThere(i)) vector[i] = load(vectors + i * stride);
    }
    const ChunkTurn turn(p.rope, present ? t.position() : 0, unit, turns[threadIdx.x / 32]);
#pragma unroll
    for (int i = 0; i < KV_ROPE_PASSES; i++) {
        const Vec16 turned = turn.apply(vector[i], Element<T>{});
        if (isThere(i)) store(vectors + i * stride, turned);
    }
}

}  // namespace

#define KV_ROPE(name, type, head_dim)                                               \
    extern "C" __global__ void __launch_bounds__(KV_ROPE_THREADS)                   \
        kv_rope_##name##_d##head_dim(const __grid_constant__ KvRopeParams params) { \
        rope<type, head_dim>(params);                                               \
    }

#define HEAD_DIM(head_dim)           \
    KV_ROPE(f16, __half, head_dim)   \
    KV_ROPE(bf16, __nv_bfloat16, head_dim)
KV_HEAD_DIMS(HEAD_DIM)
