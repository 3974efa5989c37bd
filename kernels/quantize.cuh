// A vector quantised in registers, by the lanes that hold it (turning.cuh): one scale, and a byte an element.
//
//     scale   = absmax / P::kMax                over the finite elements
//     payload = nearest(x / scale)              ties to even, never past ±P::kMax; all 0 where the scale is 0
//
// The reference fixes these bits (src/reference/quantize.rs). What is not finite is counted and has no part in the
// scale: NaN is stored as 0, an infinity as ±P::kMax.
#pragma once

#include "element.cuh"
#include "payload.cuh"
#include "turning.cuh"
#include "warp.cuh"

// A lane's part of a quantised vector.
template <typename P>
struct Quantized {
    uint2 payload;   // of the lane's eight elements
    float scale;     // of the vector: the same in all lanes of the unit
    int non_finite;  // of the lane's eight elements
};

// 1 / x, rounded to nearest, for x from 2^-120 to 2^120: what `__frcp_rn` does once it has looked at the exponent.
__device__ __forceinline__ float nearestReciprocal(float x) {
    float rough;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(rough) : "f"(x));
    return fmaf(rough, fmaf(-x, rough, 1.0f), rough);
}

// x / divisor, as `/` rounds it: by the divisor's nearest reciprocal, and by remainders, which fmaf gives exactly. The
// product is off by two units in the last place at most; one remainder corrects it to within one, and the second to
// the nearest (Markstein's theorem). That wants remainders that are no subnormals, x from 2^-100 on, and a quotient
// that is none. Of smaller x the quotient is small, too, but may have lost its sign; zeros keep theirs, because
// it is the negative of a remainder that is made and subtracted.
__device__ __forceinline__ float divideBy(float x, float divisor, float reciprocal) {
    const float rough = x * reciprocal;
    const float close = fmaf(-fmaf(rough, divisor, -x), reciprocal, rough);
    return fmaf(-fmaf(close, divisor, -x), reciprocal, close);
}

// Not a number if either is none.
__device__ __forceinline__ float largerOrNan(float a, float b) {
    float larger;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(a), "f"(b));
    return larger;
}

__device__ __forceinline__ bool isFinite(float x) { return fabsf(x) < __int_as_float(0x7f800000); }

// The largest of the lanes of a unit, in all of them. All lanes of the warp together.
template <int kHeadDim>
__device__ __forceinline__ float largestOfUnit(float x, const TurningUnit<kHeadDim>& unit) {
    constexpr int kChunks = TurningUnit<kHeadDim>::kChunks;
    constexpr bool kPowerOfTwo = (kChunks & (kChunks - 1)) == 0;
#pragma unroll
    for (int step = 1; step < kChunks; step *= 2) {
        if constexpr (kPowerOfTwo) {
            x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, step));
        } else {  // of the lanes behind, around the unit: some count twice, which a maximum bears
            const int from = unit.chunk + step;
            x = fmaxf(x, __shfl_sync(kAllLanes, x, unit.first_lane + (from < kChunks ? from : from - kChunks)));
        }
    }
    return x;
}

// Divides a lane's elements by their channels' scales, which lie from `channel_scale` on.
__device__ __forceinline__ void divideByChannels(float (&x)[kPerVector], const float* channel_scale) {
#pragma unroll
    for (int e = 0; e < kPerVector; e++) x[e] = __fdiv_rn(x[e], channel_scale[e]);
}

// Quantises the vector that a unit holds. All lanes of the warp together; those without elements (of no unit, or whose
// unit has no vector) pass zeros.
template <typename P, int kHeadDim>
__device__ __forceinline__ Quantized<P> quantizeChunk(const float (&x)[kPerVector],
                                                      const TurningUnit<kHeadDim>& unit) {
    float y[kPerVector];
    float absmax = 0.0f;
#pragma unroll
    for (int e = 0; e < kPerVector; e++) {
        y[e] = x[e];
        absmax = largerOrNan(absmax, fabsf(x[e]));
    }
    int non_finite = 0;
    if (!isFinite(absmax)) {  // seldom
        absmax = 0.0f;
#pragma unroll
        for (int e = 0; e < kPerVector; e++) {
            absmax = fmaxf(absmax, isFinite(x[e]) ? fabsf(x[e]) : 0.0f);
            non_finite += isFinite(x[e]) ? 0 : 1;
            y[e] = isnan(x[e]) ? 0.0f : x[e];  // an infinity stays: its quotient is none, `nearest` gives ±kMax
        }
    }
    absmax = largestOfUnit(absmax, unit);

    // absmax / kMax: of a constant, one remainder is enough (tried for every float from 2^-60 on).
    constexpr float kPart = 1.0f / P::kMax;
    const float part = absmax * kPart;
    float scale = fmaf(fmaf(-part, P::kMax, absmax), kPart, part);
    float divisor = scale;
    if (absmax < 0x1p-60f) {  // seldom: the scale may be subnormal, and is lifted with what it divides
        scale = __fdiv_rn(absmax, P::kMax);
        divisor = scale * 0x1p100f;
#pragma unroll
        for (int e = 0; e < kPerVector; e++) y[e] *= 0x1p100f;
    }

    const float reciprocal = nearestReciprocal(divisor);
    float quotient[kPerVector];
#pragma unroll
    for (int e = 0; e < kPerVector; e++) quotient[e] = divideBy(y[e], divisor, reciprocal);
    const uint32_t low = P::nearest(quotient, y), high = P::nearest(quotient + 4, y + 4);
    const bool is_zero = scale == 0.0f;  // its quotients are none
    return {make_uint2(is_zero ? 0 : low, is_zero ? 0 : high), scale, non_finite};
}

// Tells the sequence's status word of elements that were not finite.
__device__ __forceinline__ void flagNonFinite(uint32_t* status, int sequence, int count) {
    if (count > 0 && status != nullptr) {
        atomicAdd(&status[sequence], static_cast<uint32_t>(count) << KV_STATUS_COUNT_SHIFT);
        atomicOr(&status[sequence], KV_STATUS_NON_FINITE);
    }
}

// The lane's eight elements: payload * scale.
template <typename P>
__device__ __forceinline__ void dequantizeChunk(const uint2& payload, float scale, float (&x)[kPerVector]) {
    const uint32_t word[2] = {payload.x, payload.y};
#pragma unroll
    for (int w = 0; w < 2; w++) {
        x[4 * w] = P::template value<0>(word[w]) * scale;
        x[4 * w + 1] = P::template value<1>(word[w]) * scale;
        x[4 * w + 2] = P::template value<2>(word[w]) * scale;
        x[4 * w + 3] = P::template value<3>(word[w]) * scale;
    }
}
