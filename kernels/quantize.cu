// quantize: vectors of fp16 or bf16 to a byte an element and a scale each; dequantize: back.
//
// Both are bound by memory: a lane moves eight elements at a time, 16 bytes on the one side and 8 on the other (were it
// 16 on both, two accesses of the wide side would each leave every other 16 bytes to the other). The lanes of a vector
// follow each other, neighbouring vectors too, and each takes KV_QUANTIZE_PASSES vectors, loaded before the first is
// worked on.
#include <type_traits>

#include "channels.cuh"
#include "span.cuh"
#include "variants.h"

namespace {

// One of the vectors that a lane's unit takes.
struct Spot {
    int sequence, head;
    uint32_t vector;  // among all
    bool covered;
};

// The vectors of a lane's unit, one a pass.
template <int kHeadDim>
struct Passes {
    using Unit = TurningUnit<kHeadDim>;
    static constexpr unsigned kUnits = KV_QUANTIZE_THREADS / 32 * Unit::kUnits;  // of the block

    Unit unit;
    Spot spot[KV_QUANTIZE_PASSES];

    __device__ __forceinline__ explicit Passes(const KvSpan& span) : unit(threadIdx.x / 32, threadIdx.x % 32) {
        SpanWalk walk(span);
        const unsigned index = blockIdx.x * KV_QUANTIZE_PASSES * kUnits + unit.index;
        walk.goTo(index);
#pragma unroll
        for (int pass = 0; pass < KV_QUANTIZE_PASSES; pass++) {
            if (pass > 0 && !walk.advance(kUnits)) walk.goTo(index + pass * kUnits);
            spot[pass] = {walk.sequence, walk.head, walk.vector(), walk.covered() && unit.is_whole};
        }
    }

    // Of the lane's first element, among all.
    __device__ __forceinline__ int64_t element(int pass) const {
        return static_cast<int64_t>(spot[pass].vector) * kHeadDim + unit.chunk * kPerVector;
    }
};

template <typename T, typename P, int kHeadDim>
__device__ __forceinline__ void quantize(const KvQuantizeParams& p) {
    const Passes<kHeadDim> passes(p.span);
    Vec16 vector[KV_QUANTIZE_PASSES];
#pragma unroll
    for (int pass = 0; pass < KV_QUANTIZE_PASSES; pass++) {
        vector[pass] = {};
        if (passes.spot[pass].covered) {
            vector[pass] = loadOnce(static_cast<const T*>(p.elements) + passes.element(pass));
        }
    }
    // fp16 has nothing between 0 and 2^-24.
    ChannelDividers<std::is_same_v<T, __half>, kHeadDim> channels(p.channel_scale);
#pragma unroll
    for (int pass = 0; pass < KV_QUANTIZE_PASSES; pass++) {
        const Spot& spot = passes.spot[pass];
        float x[kPerVector];
        unpackVector(x, vector[pass], Element<T>());
        if (p.channel_scale != nullptr && spot.covered) channels.divide(x, spot.head, passes.unit.chunk);
        const Quantized<P> quantized = quantizeChunk<P>(x, passes.unit);
        if (!spot.covered) continue;
        uint8_t* const to = static_cast<uint8_t*>(p.payload) + passes.element(pass);
        *reinterpret_cast<uint2*>(to) = quantized.payload;
        if (passes.unit.chunk == 0) p.scales[spot.vector] = quantized.scale;
        flagNonFinite(p.status, spot.sequence, quantized.non_finite);
    }
}

template <typename P, typename T, int kHeadDim>
__device__ __forceinline__ void dequantize(const KvQuantizeParams& p) {
    const Passes<kHeadDim> passes(p.span);
    uint2 payload[KV_QUANTIZE_PASSES];
    float scale[KV_QUANTIZE_PASSES];
#pragma unroll
    for (int pass = 0; pass < KV_QUANTIZE_PASSES; pass++) {
        if (passes.spot[pass].covered) {
            const uint8_t* const from = static_cast<const uint8_t*>(p.payload) + passes.element(pass);
            payload[pass] = __ldg(reinterpret_cast<const uint2*>(from));
            scale[pass] = __ldg(p.scales + passes.spot[pass].vector);
        }
    }
    ChannelScales<kHeadDim> channels(p.channel_scale);
#pragma unroll
    for (int pass = 0; pass < KV_QUANTIZE_PASSES; pass++) {
        if (!passes.spot[pass].covered) continue;
        float x[kPerVector];
        dequantizeChunk<P>(payload[pass], scale[pass], x);
        if (p.channel_scale != nullptr) {
            channels.read(passes.spot[pass].head, passes.unit.chunk);
#pragma unroll
            for (int e = 0; e < kPerVector; e++) x[e] *= channels.channel[e];
        }
        Vec16 vector;
#pragma unroll
        for (int w = 0; w < kPerVector / 2; w++) vector.word[w] = Element<T>::pack(x[2 * w], x[2 * w + 1]);
        store(static_cast<T*>(p.elements) + passes.element(pass), vector);
    }
}

}  // namespace

#define KV_QUANTIZE(name, type, payload_name, payload, head_dim)                                            \
    extern "C" __global__ void __launch_bounds__(KV_QUANTIZE_THREADS)                                       \
        kv_quantize_##name##_##payload_name##_d##head_dim(const __grid_constant__ KvQuantizeParams params) { \
        quantize<type, payload, head_dim>(params);                                                          \
    }                                                                                                       \
    extern "C" __global__ void __launch_bounds__(KV_QUANTIZE_THREADS)                                       \
        kv_dequantize_##payload_name##_##name##_d##head_dim(const __grid_constant__ KvQuantizeParams params) { \
        dequantize<payload, type, head_dim>(params);                                                        \
    }

#define HEAD_DIM(head_dim)                                  \
    KV_QUANTIZE(f16, __half, int8, Int8, head_dim)          \
    KV_QUANTIZE(f16, __half, fp8, Fp8E4M3, head_dim)        \
    KV_QUANTIZE(bf16, __nv_bfloat16, int8, Int8, head_dim)  \
    KV_QUANTIZE(bf16, __nv_bfloat16, fp8, Fp8E4M3, head_dim)
KV_HEAD_DIMS(HEAD_DIM)
