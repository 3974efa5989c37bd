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
    static __device__ __forceinline__ uint32_t larger(uint32_t a, uint32_t b) {
        const __half2 m = __hmax2(reinterpret_cast<const __half2&>(a), reinterpret_cast<const __half2&>(b));
        return reinterpret_cast<const uint32_t&>(m);
    }
    // Whether either of a pair, neither of them negative, is above `limit`, or no number.
    static __device__ __forceinline__ bool anyAbove(uint32_t pair, float limit) {
        return !__hble2(reinterpret_cast<const __half2&>(pair), __float2half2_rn(limit));
    }
    static __device__ __forceinline__ float widen(__half x) { return __half2float(x); }
    static __device__ __forceinline__ __half narrow(float x) { return __float2half_rn(x); }
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
    static __device__ __forceinline__ uint32_t larger(uint32_t a, uint32_t b) {
        const __nv_bfloat162 m =
            __hmax2(reinterpret_cast<const __nv_bfloat162&>(a), reinterpret_cast<const __nv_bfloat162&>(b));
        return reinterpret_cast<const uint32_t&>(m);
    }
    static __device__ __forceinline__ bool anyAbove(uint32_t pair, float limit) {
        // Before compute_90 pairs have no comparison. As integers, what is above the limit carries into the sign's place.
        const uint32_t to_sign = 0x7fff - (__float_as_uint(limit) >> 16);
        return (pair + (to_sign << 16 | to_sign) & 0x80008000) != 0;
    }
    static __device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
    static __device__ __forceinline__ __nv_bfloat16 narrow(float x) { return __float2bfloat16_rn(x); }
};

// Either, as the launch says: where elements are only taken in and given out.
struct AnyElement {
    bool is_bf16;

    __device__ __forceinline__ float2 unpack(uint32_t pair) const {
        return is_bf16 ? Element<__nv_bfloat16>::unpack(pair) : Element<__half>::unpack(pair);
    }
    __device__ __forceinline__ uint32_t pack(float low, float high) const {
        return is_bf16 ? Element<__nv_bfloat16>::pack(low, high) : Element<__half>::pack(low, high);
    }
};

// Elements of a 16-byte vector, for the 16-bit types.
constexpr int kPerVector = KV_VECTOR_BYTES / 2;

// All of them. `elements`: an Element or AnyElement.
template <typename Elements>
__device__ __forceinline__ void unpackVector(float (&x)[kPerVector], const Vec16& vector, const Elements& elements) {
#pragma unroll
    for (int w = 0; w < kPerVector / 2; w++) {
        const float2 pair = elements.unpack(vector.word[w]);
        x[2 * w] = pair.x;
        x[2 * w + 1] = pair.y;
    }
}
