// The byte types of a quantised cache: an element is payload * scale, with one scale a vector.
//
// Both are rounded to by integer arithmetic on the bits of a sum, on every architecture: compute_89 has a conversion
// to e4m3, but what the emulator executes and what sm_80 to sm_120 run is one PTX (build/arch.rs).
#pragma once

#include <cuda_runtime.h>
#include <stdint.h>

// Four payloads from four words whose low bytes they are, the first one lowest.
__device__ __forceinline__ uint32_t lowBytes(const uint32_t (&word)[4]) {
    return __byte_perm(__byte_perm(word[0], word[1], 0x0040), __byte_perm(word[2], word[3], 0x0040), 0x5410);
}

// The highest bytes of four numbers, which have their signs.
__device__ __forceinline__ uint32_t signBytes(const float* x) {
    const uint32_t low = __byte_perm(__float_as_uint(x[0]), __float_as_uint(x[1]), 0x0073);
    const uint32_t high = __byte_perm(__float_as_uint(x[2]), __float_as_uint(x[3]), 0x0073);
    return __byte_perm(low, high, 0x5410);
}

// Integers from -127 to 127; -128 is never stored.
struct Int8 {
    static constexpr float kMax = 127.0f;

    // The nearest to four quotients, ties to even, within ±kMax. Signs are the dividends'; NaN is ±kMax.
    static __device__ __forceinline__ uint32_t nearest(const float* quotient, const float* dividend) {
        constexpr float kOne = 12582912.0f;  // 1.5 * 2^23: sums with it are rounded to integers, two's complement below
        uint32_t sum[4];
#pragma unroll
        for (int e = 0; e < 4; e++) {
            sum[e] = __float_as_uint(copysignf(fminf(fabsf(quotient[e]), kMax), dividend[e]) + kOne);
        }
        return lowBytes(sum);
    }

    // Of payload `kByte` of a word.
    template <int kByte>
    static __device__ __forceinline__ float value(uint32_t word) {
        // 2^23 + 128 + payload, by its bits.
        return __uint_as_float(__byte_perm(word ^ 0x80808080u, 0x4b000000u, 0x7440 + kByte)) - 8388736.0f;
    }
};

// Floating point of 4 exponent and 3 mantissa bits, without infinities: e4m3 as compute_89 has it.
//
//     bit   7      6 5 4 3     2 1 0
//          sign   exponent   mantissa      exponent 0: mantissa * 2^-9, else (8 + mantissa) * 2^(exponent - 10)
struct Fp8E4M3 {
    static constexpr float kMax = 448.0f;

    // The nearest to four quotients, ties to even, within ±kMax. Signs are the dividends'; NaN is ±kMax.
    static __device__ __forceinline__ uint32_t nearest(const float* quotient, const float* dividend) {
        uint32_t code[4];
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const float magnitude = fminf(fabsf(quotient[e]), kMax);
            // The power of two at or below it, 2^e, of which a step is an eighth; subnormals have the steps of 2^-6.
            const uint32_t binade = max(__float_as_uint(magnitude) & 0x7f800000u, kLeast);
            // 2^(e + 20): a sum with it is rounded to steps, whose number is in its lowest bits.
            const float one = __uint_as_float(binade + (20u << 23));
            const uint32_t steps = __float_as_uint(magnitude + one);
            // Steps begin at 8 (a normal's leading one) or at 0 (a subnormal's); 16 carry into the exponent.
            code[e] = steps + (binade >> 20) - (kLeast >> 20);
        }
        return lowBytes(code) | (signBytes(dividend) & 0x80808080u);
    }

    // Of payload `kByte` of a word.
    template <int kByte>
    static __device__ __forceinline__ float value(uint32_t word) {
        const int top = static_cast<int>(word << (24 - 8 * kByte));
        const uint32_t bits = static_cast<uint32_t>(top >> 4) & 0x87f00000u;
        constexpr float kBias = 0x1p120f;  // fp32's exponent bias of 127 for 7, subnormals too
        return (bits & 0x7f00000u) == 0x7f00000u ? __uint_as_float(0x7fc00000u) : __uint_as_float(bits) * kBias;
    }

  private:
    static constexpr uint32_t kLeast = 121u << 23;  // 2^-6
};
