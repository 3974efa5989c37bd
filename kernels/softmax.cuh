// Softmax in base 2: scores come multiplied by log2(e), so that the exponential is the hardware's own.
#pragma once

#include <cuda_runtime.h>

#include "warp.cuh"

// What a maximum is before any score: finite, so that subtracting it from a masked score, -inf, is no NaN; far below
// any score, so that weights against it vanish.
constexpr float kNoScore = -1e30f;

constexpr float kLog2E = 1.442695040888963407f;
constexpr float kLn2 = 0.693147180559945309f;

__device__ __forceinline__ float minusInfinity() { return __int_as_float(0xff800000); }

__device__ __forceinline__ float exp2Fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float reciprocalFast(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// cap · tanh(score / cap): score and `cap` in base 2, `scale` 2 / cap with the cap in base e.
__device__ __forceinline__ float softCapped(float score, float cap, float scale) {
    // tanh(x) = 1 - 2 / (exp(2x) + 1)
    return cap * (1.0f - 2.0f * reciprocalFast(exp2Fast(score * scale) + 1.0f));
}

// A part of a softmax: the weights of its scores, exp2(score - maximum), and their sum. Values accumulated beside it
// are weighted alike.
struct alignas(8) Partial {
    float maximum;
    float sum;

    // Takes in another part. What was accumulated for this one is to be multiplied by the factor returned; the other's
    // by `other_factor`.
    __device__ __forceinline__ float merge(const Partial& other, float& other_factor) {
        const float highest = fmaxf(maximum, other.maximum);
        const float factor = exp2Fast(maximum - highest);
        other_factor = exp2Fast(other.maximum - highest);
        sum = sum * factor + other.sum * other_factor;
        maximum = highest;
        return factor;
    }

    // Natural logarithm of the sum of exp(score); -inf where there is none.
    __device__ __forceinline__ float logSumExp() const {
        return sum == 0.0f ? minusInfinity() : (maximum + __log2f(sum)) * kLn2;
    }
};
