// The cache's element types: packed pairs in memory, fp32 in arithmetic.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "vector.cuh"

template <typename T>
struct Element;

template <>
struct Element<__half> {
    static __device__ __forceinline__ float2 unpack(uint32_t pair) {
        return __half22float2(reinterpret_cast<const __half2&>(pair));
    }
    static __device__ __forceinline__ uint32_t pack(float low, float high) {
        const __half2 pair = __floats2half2_rn(low, high);
        return reinterpret_cast<const uint32_t&>(pair);
    }
};

template <>
struct Element<__nv_bfloat16> {
    // A bf16 is the upper half of the fp32 of the same value.
    static __device__ __forceinline__ float2 unpack(uint32_t pair) {
        return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
    }
    static __device__ __forceinline__ uint32_t pack(float low, float high) {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
        return reinterpret_cast<const uint32_t&>(pair);
    }
};

// Elements of a 16-byte vector, for the 16-bit types.
constexpr int kPerVector = KV_VECTOR_BYTES / 2;
