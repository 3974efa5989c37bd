// Online softmax of one query head over a stream of scores, 32 at a time, one a lane of a warp.
//
// Scores come multiplied by log2(e), so the exponential is the hardware's base 2. After any number of tiles
//     maximum = max of the scores so far (the same in all lanes)
//     sum     = this lane's part of sum(exp2(score - maximum))
// and the values accumulated beside it are weighted by the same exp2(score - maximum).
#pragma once

#include <cuda_runtime.h>

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr float kMinusInfinity = -__builtin_huge_valf();

__device__ __forceinline__ float exp2Fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float warpMax(float x) {
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) {
        x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, lanes));
    }
    return x;
}

__device__ __forceinline__ float warpSum(float x) {
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) {
        x += __shfl_xor_sync(kAllLanes, x, lanes);
    }
    return x;
}

struct OnlineSoftmax {
    float maximum = kMinusInfinity;
    float sum = 0.0f;

    // Takes in one score a lane (-inf where there is none). Returns the lane's weight and leaves in `rescale` the
    // factor for everything accumulated before.
    __device__ __forceinline__ float add(float score, float& rescale) {
        const float highest = fmaxf(maximum, warpMax(score));
        // Where every score so far is -inf, -inf - -inf would be NaN; against 0 all weights are 0, as they should be.
        const float reference = highest == kMinusInfinity ? 0.0f : highest;
        rescale = exp2Fast(maximum - reference);
        const float weight = exp2Fast(score - reference);
        maximum = highest;
        sum = sum * rescale + weight;
        return weight;
    }

    // The denominator, over all lanes.
    __device__ __forceinline__ float denominator() const { return warpSum(sum); }

    // Natural logarithm of the denominator without the maximum taken out; -inf where nothing was added.
    __device__ __forceinline__ float logSumExp(float denominator) const {
        constexpr float kLn2 = 0.693147180559945309f;
        return denominator > 0.0f ? (maximum + __log2f(denominator)) * kLn2 : kMinusInfinity;
    }
};
