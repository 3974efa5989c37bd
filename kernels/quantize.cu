// quantize: vectors of fp16 or bf16 to a byte an element and a scale each; dequantize: back.
//
// Both are bound by memory: a lane moves eight elements at a time, 16 bytes on the one side and 8 on the other (were it
// 16 on both, two accesses of the wide side would each leave every other 16 bytes to the other). The lanes of a vector
// follow each other, neighbouring vectors too, and each takes KV_QUANTIZE_PASSES vectors, loaded before the first is worked on.
#include "quantize.cuh"
#include "span.cuh"
#include "variants.h"

namespace {

// The vectors of a lane's unit, one a pass.
template <int kHeadDim>
struct Passes {
    using Unit = TurningUnit<kHeadDim>;
    static constexpr unsigned kUnits = KV_QUANTIZE_THREADS / 32 * Unit::kUnits;  // of the block

    Unit unit;

    __device__ __forceinline__ Passes() : unit(threadIdx.x / 32, threadIdx.x % 32) {}

    __device__ __forceinline__ Spot spot(const KvSpan& span, int pass) const {
        Spot spot = spotOfVector(span, (blockIdx.x * KV_QUANTIZE_PASSES + pass) * kUnits + unit.index);
        spot.covered = spot.covered && unit.is_whole;
        return spot;
    }

    // Of the lane's first element, among all.
    __device__ __forceinline__ int64_t element(const Spot& spot) const {
        return spot.vector * kHeadDim + unit.chunk * kPerVector;
    }
};

// What a lane's channels are divided or multiplied by: read again only where the head is another.
template <int kHeadDim>
struct ChannelScales {
    const float* scales;
    int head = -1;
    float channel[kPerVector];

    __device__ __forceinline__ explicit ChannelScales(const float* scales_) : scales(scales_) {}

    __device__ __forceinline__ bool given() const { return scales != nullptr; }

    __device__ __forceinline__ void read(int of_head, int chunk) {
        if (of_head == head) return;
        head = of_head;
        const float4* const from =
            reinterpret_cast<const float4*>(scales + head * kHeadDim + chunk * kPerVector);
        const float4 low = __ldg(from), high = __ldg(from + 1);
        channel[0] = low.x, channel[1] = low.y, channel[2] = low.z, channel[3] = low.w;
        channel[4] = high.x, channel[5] = high.y, channel[6] = high.z, channel[7] = high.w;
    }
};

template <typename T, typename P, int kHeadDim>
__device__ __forceinline__ void quantize(const KvQuantizeParams& p) {
    const Passes<kHeadDim> passes;
    Spot spot[KV_QUANTIZE_PASSES];
    Vec16 vector[KV_QUANTIZE_PASSES];
#pragma unroll
    for (int pass = 0; pass < KV_QUANTIZE_PASSES; pass++) {
        spot[pass] = passes.spot(p.span, pass);
        vector[pass] = {};
        if (spot[pass].covered) {
            vector[pass] = loadOnce(static_cast<const T*>(p.elements) + passes.element(spot[pass]));
        }
    }
    ChannelScales<kHeadDim> scales(p.channel_scale);
#pragma unroll
    for (int pass = 0; pass < KV_QUANTIZE_PASSES; pass++) {
        float x[kPerVector];
#pragma unroll
        for (int w = 0; w < kPerVector / 2; w++) {
            const float2 pair = Element<T>::unpack(vector[pass].word[w]);
            x[2 * w] = pair.x, x[2 * w + 1] = pair.y;
        }
        if (scales.given() && spot[pass].covered) {
            scales.read(spot[pass].head, passes.unit.chunk);
            divideByChannels(x, scales.channel);
        }
        const Quantized<P> quantized = quantizeChunk<P>(x, passes.unit);
        if (!spot[pass].covered) continue;
        uint8_t* const to = static_cast<uint8_t*>(p.payload) + passes.element(spot[pass]);
        *reinterpret_cast<uint2*>(to) = quantized.payload;
        if (passes.unit.chunk == 0) p.scales[spot[pass].vector] = quantized.scale;
        flagNonFinite(p.status, spot[pass].sequence, quantized.non_finite);
    }
}

template <typename P, typename T, int kHeadDim>
__device__ __forceinline__ void dequantize(const KvQuantizeParams& p) {
    const Passes<kHeadDim> passes;
    Spot spot[KV_QUANTIZE_PASSES];
    uint2 payload[KV_QUANTIZE_PASSES];
    float scale[KV_QUANTIZE_PASSES];
#pragma unroll
    for (int pass = 0; pass < KV_QUANTIZE_PASSES; pass++) {
        spot[pass] = passes.spot(p.span, pass);
        if (spot[pass].covered) {
            const uint8_t* const from = static_cast<const uint8_t*>(p.payload) + passes.element(spot[pass]);
            payload[pass] = __ldg(reinterpret_cast<const uint2*>(from));
            scale[pass] = __ldg(p.scales + spot[pass].vector);
        }
    }
    ChannelScales<kHeadDim> scales(p.channel_scale);
#pragma unroll
    for (int pass = 0; pass < KV_QUANTIZE_PASSES; pass++) {
        if (!spot[pass].covered) continue;
        float x[kPerVector];
        dequantizeChunk<P>(payload[pass], scale[pass], x);
        if (scales.given()) {
            scales.read(spot[pass].head, passes.unit.chunk);
#pragma unroll
            for (int e = 0; e < kPerVector; e++) x[e] *= scales.channel[e];
        }
        Vec16 vector;
#pragma unroll
        for (int w = 0; w < kPerVector / 2; w++) vector.word[w] = Element<T>::pack(x[2 * w], x[2 * w + 1]);
        store(static_cast<T*>(p.elements) + passes.element(spot[pass]), vector);
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
