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

// Division by one number, many times. As `/` rounds it wherever the quotient is at least 2^-11; smaller ones stay smaller
// than 2^-10, but may lose their sign.
//
// A quotient by the reciprocal is off by two units in the last place at most; the remainder, which fmaf gives exactly,
// corrects it to within one, and a second time to the nearest (Markstein's theorem). That wants a divisor whose
// reciprocal and whose remainders are normal numbers: small ones are lifted along with what they divide.
struct Divider {
    __device__ __forceinline__ explicit Divider(float by)
        : lift(by < 0x1p-64f ? 0x1p100f : 1.0f), divisor(by * lift), reciprocal(__frcp_rn(divisor)) {}

    // |x| is at most 512 times the divisor.
    __device__ __forceinline__ float divide(float x) const {
        const float dividend = x * lift;
        const float rough = dividend * reciprocal;
        const float close = fmaf(fmaf(-rough, divisor, dividend), reciprocal, rough);
        return fmaf(fmaf(-close, divisor, dividend), reciprocal, close);
    }

  private:
    float lift, divisor, reciprocal;
};

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
    float absmax = 0.0f;
#pragma unroll
    for (int e = 0; e < kPerVector; e++) absmax = largerOrNan(absmax, fabsf(x[e]));
    int non_finite = 0;
    if (!isFinite(absmax)) {  // seldom
        absmax = 0.0f;
#pragma unroll
        for (int e = 0; e < kPerVector; e++) {
            const bool counts = isFinite(x[e]);
            if (counts) absmax = fmaxf(absmax, fabsf(x[e]));
            non_finite += counts ? 0 : 1;
        }
    }
    absmax = largestOfUnit(absmax, unit);
    const float scale = __fdiv_rn(absmax, P::kMax);

    float finite[kPerVector];
#pragma unroll
    for (int e = 0; e < kPerVector; e++) finite[e] = x[e];
    if (non_finite > 0) {
        // Instead of infinity, what is past kMax times the scale even where the scale is coarsely rounded (subnormal).
        const float infinity = fmaxf(absmax, 512.0f * fminf(scale, 1.0f));
#pragma unroll
        for (int e = 0; e < kPerVector; e++) {
            if (!isFinite(x[e])) finite[e] = isnan(x[e]) ? 0.0f : copysignf(infinity, x[e]);
        }
    }

    const Divider by(scale);
    uint32_t nearest[2][4];
#pragma unroll
    for (int e = 0; e < kPerVector; e++) {
        nearest[e / 4][e % 4] = P::nearest(by.divide(finite[e]), finite[e]);
    }
    const bool is_zero = scale == 0.0f;  // its quotients are no numbers
    return {make_uint2(is_zero ? 0 : lowBytes(nearest[0]), is_zero ? 0 : lowBytes(nearest[1])), scale, non_finite};
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
