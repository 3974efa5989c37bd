// Scales of channels [num_kv_heads, head_dim], of which a lane has those of its eight elements: K and V are divided by
// them before they are quantised, and multiplied by them after.
#pragma once

#include "quantize.cuh"

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

// Division by channel scales: by their reciprocals, made once a head, where scales and elements are neither very large
// nor very small; as `/` rounds it, always. kNeverTiny: elements are 0 or at least 2^-100.
template <bool kNeverTiny, int kHeadDim>
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
        float least = kNeverTiny ? 1.0f : fabsf(x[0]), most = 0.0f;
#pragma unroll
        for (int e = 0; e < kPerVector; e++) {
            if (!kNeverTiny) least = fminf(least, fabsf(x[e]));
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
