// quantize: vectors of fp16 or bf16 to a byte an element and a scale each; dequantize: back.
//
// Both are bound by memory: a lane moves eight elements at a time, 16 bytes on the one side and 8 on the other (were it
// 16 on both, two accesses of the wide side would each leave every other 16 bytes to the other). The lanes of a vector
// follow each other, neighbouring vectors too, and each takes KV_QUANTIZE_PASSES vectors, loaded before the first is
// worked on.
#include "quantize.cuh"
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

// What a lane's channels are divided or multiplied by: read again only where the head is another.
template <int kHeadDim>
struct ChannelScales {
    const float* scales;
    int head = -1;
    float channel[kPerVector];

    __device__ __forceinline__ explicit ChannelScales(const float* scales_) : scales(scales_) {}

    // Whether they are others than before.
    __device__ __forceinline__ bool read(int of_head, int chunk) {
        if (of_head == head) return false;
        head = of_head;
        const float4* const from =
            reinterpret_cast<const float4*>(scales + head * kHeadDim + chunk * kPerVector);
        const float4 low = __ldg(from), high = __ldg(from + 1);
        channel[0] = low.x, channel[1] = low.y, channel[2] = low.z, channel[3] = low.w;
        channel[4] = high.x, channel[5] = high.y, channel[6] = high.z, channel[7] = high.w;
        return true;
    }
};

// Elements that are 0 or at least 2^-100, for division by reciprocals.
template <typename T>
constexpr bool kNeverTiny = false;
template <>
constexpr bool kNeverTiny<__half> = true;

// Division by channel scales: by their reciprocals, made once for all passes, where scales and elements are neither
// very large nor very small; as `/` rounds it, always.
template <typename T, int kHeadDim>
struct ChannelDividers {
    ChannelScales<kHeadDim> scales;
    float reciprocal[kPerVector];
    bool usual = false;

    __device__ __forceinline__ explicit ChannelDividers(const float* scales_) : scales(scales_) {}

    __device__ __forceinline__ void divide(float (&x)[kPerVector], int head, int chunk) {
        if (scales.read(head, chunk)) {
            usual = true;
#pragma unroll
            for (int e = 0; e < kPerVector; e++) {
                usual = usual && scales.channel[e] >= 0x1p-40f && scales.channel[e] <= 0x1p20f;
                reciprocal[e] = nearestReciprocal(scales.channel[e]);
            }
        }
        float least = kNeverTiny<T> ? 1.0f : fabsf(x[0]), most = 0.0f;
#pragma unroll
        for (int e = 0; e < kPerVector; e++) {
            if (!kNeverTiny<T>) least = fminf(least, fabsf(x[e]));
            most = largerOrNan(most, fabsf(x[e]));
        }
        if (!usual || least < 0x1p-100f || !(most <= 0x1p80f)) {  // seldom
            divideByChannels(x, scales.channel);
            return;
        }
#pragma unroll
        for (int e = 0; e < kPerVector; e++) x[e] = divideBy(x[e], scales.channel[e], reciprocal[e]);
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
    ChannelDividers<T, kHeadDim> channels(p.channel_scale);
#pragma unroll
    for (int pass = 0; pass < KV_QUANTIZE_PASSES; pass++) {
        const Spot& spot = passes.spot[pass];
        float x[kPerVector];
#pragma unroll
        for (int w = 0; w < kPerVector / 2; w++) {
            const float2 pair = Element<T>::unpack(vector[pass].word[w]);
            x[2 * w] = pair.x, x[2 * w + 1] = pair.y;
        }
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
