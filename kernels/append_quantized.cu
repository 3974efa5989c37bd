// append to a cache of which K, V or both are stored by the byte: new vectors are quantised on the way, K turned by RoPE
// and either divided by its channels' scales first, where asked. What types there are the launch says: they are the same
// for all, and no pass over memory depends on them.
//
// Arranged as append with RoPE is (append.cu): a lane takes 16 bytes of several heads' vectors of one token, the lanes of a
// vector follow each other in a warp.
#include "cache.cuh"
#include "channels.cuh"
#include "step.cuh"
#include "variants.h"

namespace {

// K or V: where it comes from and where it goes.
struct Side {
    const uint16_t* from;  // the lane's first elements
    int64_t head_stride;
    void* cache;
    float* scales;
    const float* channel_scale;
    int dtype;
};

template <int kHeadDim>
struct Append {
    using Unit = TurningUnit<kHeadDim>;

    const KvAppendParams& p;
    const AnyElement elements;
    const Unit& unit;
    const NewToken& token;

    // `element`: of the cache, where the lane's begin. All lanes of the warp together; `exists` where there is a vector.
    __device__ __forceinline__ void put(const Side& side, const Vec16& x, int64_t element, int head, bool exists) const {
        if (side.dtype == KV_DTYPE_INT8) {
            putQuantized<Int8>(side, x, element, head, exists);
        } else if (side.dtype == KV_DTYPE_FP8) {
            putQuantized<Fp8E4M3>(side, x, element, head, exists);
        } else if (exists) {
            store(static_cast<uint16_t*>(side.cache) + element, x);
        }
    }

    template <typename P>
    __device__ __forceinline__ void putQuantized(const Side& side, const Vec16& x, int64_t element, int head,
                                                 bool exists) const {
        float y[kPerVector];
        unpackVector(y, x, elements);
        if (side.channel_scale != nullptr && exists) {
            ChannelDividers<false, kHeadDim> channels(side.channel_scale);
            channels.divide(y, head, unit.chunk);
        }
        const Quantized<P> quantized = quantizeChunk<P, kHeadDim>(y, unit);
        if (!exists) return;
        *reinterpret_cast<uint2*>(static_cast<int8_t*>(side.cache) + element) = quantized.payload;
        if (unit.chunk == 0) side.scales[element / kHeadDim] = quantized.scale;
        flagNonFinite(p.step.status, token.sequence, quantized.non_finite);
    }
};

template <int kHeadDim>
__device__ __forceinline__ void appendQuantized(const KvAppendParams& p) {
    using Unit = TurningUnit<kHeadDim>;
    __shared__ WarpTurns<kHeadDim> turns[KV_ROPE_THREADS / 32];
    const Unit unit(blockIdx.x * (KV_ROPE_THREADS / 32) + threadIdx.x / 32, threadIdx.x % 32);
    const int units = unitsOfHeads(p.num_kv_heads);
    const unsigned nth = unit.index / units;
    const int first_head = unit.index % units;
    const bool exists = unit.is_whole && nth < static_cast<unsigned>(p.rows / p.num_kv_heads);
    const NewToken token = newToken(p.step, exists ? nth : 0);
    const bool added = exists && token.added();
    if (exists && token.owned && !added && first_head == 0 && unit.chunk == 0) {
        flag(p.step, token.sequence, token.step.status);
    }

    const bool packed = p.step.cu_seqlens != nullptr;
    const int element = unit.chunk * kPerVector;
    const auto sideOf = [&](const KvTokens& tokens, void* cache, float* scales, const float* channel_scale, int dtype) {
        const int64_t from = tokenOffset(tokens, packed, token.step.first, token.sequence, token.nth, 0) + element;
        return Side{static_cast<const uint16_t*>(tokens.data) + from, tokens.head_stride, cache, scales, channel_scale,
                    dtype};
    };
    const Side k = sideOf(p.k_new, p.cache.k, p.cache.k_scale, p.cache.k_channel_scale, p.k_dtype);
    const Side v = sideOf(p.v_new, p.cache.v, p.cache.v_scale, p.cache.v_channel_scale, p.v_dtype);
    const auto headOf = [&](int pass) { return first_head + pass * units; };
    const auto isThere = [&](int pass) { return added && headOf(pass) < p.num_kv_heads; };

    Vec16 k_vector[KV_ROPE_PASSES], v_vector[KV_ROPE_PASSES];
#pragma unroll
    for (int i = 0; i < KV_ROPE_PASSES; i++) {
        k_vector[i] = v_vector[i] = {};
        if (isThere(i)) {
            k_vector[i] = loadOnce(k.from + headOf(i) * k.head_stride);
            v_vector[i] = loadOnce(v.from + headOf(i) * v.head_stride);
        }
    }
    const Append<kHeadDim> to = {p, {p.element == KV_DTYPE_BF16}, unit, token};
    if (p.rope.rotary_dim > 0) {
        const ChunkTurn turn(p.rope, added ? token.position() : 0, unit, turns[threadIdx.x / 32]);
#pragma unroll
        for (int i = 0; i < KV_ROPE_PASSES; i++) k_vector[i] = turn.apply(k_vector[i], to.elements);
    }
#pragma unroll
    for (int i = 0; i < KV_ROPE_PASSES; i++) {
        const int64_t at = cacheOffset(p.cache, token.sequence, headOf(i), token.position()) + element;
        to.put(k, k_vector[i], at, headOf(i), isThere(i));
        to.put(v, v_vector[i], at, headOf(i), isThere(i));
    }
}

}  // namespace

#define HEAD_DIM(head_dim)                                                                        \
    extern "C" __global__ void __launch_bounds__(KV_ROPE_THREADS)                                 \
        kv_append_quantized_d##head_dim(const __grid_constant__ KvAppendParams params) {          \
        appendQuantized<head_dim>(params);                                                        \
    }
KV_HEAD_DIMS(HEAD_DIM)
