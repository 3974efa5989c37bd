// What K or V may be stored as: elements of 16 bits as they are, or a byte each with a scale for each vector.
#pragma once

#include "payload.cuh"
#include "element.cuh"

// kBytes of an element; whether vectors have scales; the type that products on tensor cores take.
template <typename S>
struct Stored {
    static constexpr int kBytes = 2;
    static constexpr bool kScaled = false;
    using Product = S;
};

template <>
struct Stored<Int8> {
    static constexpr int kBytes = 1;
    static constexpr bool kScaled = true;
    using Product = __half;
};

template <>
struct Stored<Fp8E4M3> : Stored<Int8> {};

// Bytes as fp16 pairs, exactly but for a power of two and a bias: the bits of a byte are those of an fp16 number when they
// are put in the right place, which a tensor core then takes as it is. Of a word's four bytes, even() gives the first and
// the third, odd() the second and the fourth.
template <typename S>
struct AsHalves;

// Subnormals, (value + 128) * 2^-24: a byte with its sign turned around, below ten zeros of fp16's exponent and mantissa.
template <>
struct AsHalves<Int8> {
    static constexpr float kUnit = 0x1p24f;       // of a value
    static constexpr uint32_t kBias = 0x00800080;  // of 128, as a pair

    static __device__ __forceinline__ uint32_t even(uint32_t bytes) {
        uint32_t pair;  // (bytes & 0x00ff00ff) ^ kBias: two instructions where it is left to the compiler
        asm("lop3.b32 %0, %1, 0x00ff00ff, %2, 0x6a;" : "=r"(pair) : "r"(bytes), "n"(kBias));
        return pair;
    }
    static __device__ __forceinline__ uint32_t odd(uint32_t bytes) { return __byte_perm(bytes, 0, 0x4341) ^ kBias; }
};

// The exponent's four bits below one zero, which makes value * 2^-8, subnormals included.
template <>
struct AsHalves<Fp8E4M3> {
    static constexpr float kUnit = 0x1p8f;
    static constexpr uint32_t kBias = 0;

    static __device__ __forceinline__ uint32_t even(uint32_t bytes) { return odd(bytes << 8); }
    static __device__ __forceinline__ uint32_t odd(uint32_t bytes) {
        return (bytes & 0x80008000) | (bytes >> 1 & 0x3f803f80);
    }
};
