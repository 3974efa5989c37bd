// Tensor-core instructions and the fragments they work on: registers that hold a warp's share of a small matrix.
//
// Lane l of a warp, by g = l / 4 and t = l % 4, holds of
//     A, 16 × 16:  rows g and g + 8, columns 2t, 2t + 1 and the same + 8, as four packed pairs
//     B, 16 × 8:   rows 2t, 2t + 1 and the same + 8, column g, as two packed pairs
//     C, 16 × 8:   rows g (c[0], c[1]) and g + 8 (c[2], c[3]), columns 2t (c[0], c[2]) and 2t + 1 (c[1], c[3])
#pragma once

#include "element.cuh"

struct FragmentA {
    uint32_t pair[4];
};

struct FragmentB {
    uint32_t pair[2];
};

struct FragmentC {
    float c[4];
};

// What a load of four matrices brings as two B. Of four registers that follow each other a B has to have an aligned two.
struct TwoB {
    FragmentB first, second;
};
__device__ __forceinline__ TwoB twoB(const FragmentA& four) {
    return {{four.pair[0], four.pair[1]}, {four.pair[2], four.pair[3]}};
}

// Of integers, A and B of four bytes where the others have two elements: 16 × 32 and 32 × 8, columns of A and rows of B
// 4t, …, 4t + 3 and the same + 16.
struct FragmentInt {
    int c[4];
};

// Four 8 × 8 matrices of 16-bit elements from shared memory; lane l gives the address of row l % 8 of matrix l / 8.
template <int kOffset>
__device__ __forceinline__ FragmentA loadMatrices(uint32_t row) {
    FragmentA a;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4 + %5];"
                 : "=r"(a.pair[0]), "=r"(a.pair[1]), "=r"(a.pair[2]), "=r"(a.pair[3])
                 : "r"(row), "n"(kOffset)
                 : "memory");
    return a;
}

// Two of them, by the addresses of lanes 0 to 15.
template <int kOffset>
__device__ __forceinline__ FragmentB loadTwoMatrices(uint32_t row) {
    FragmentB b;
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2 + %3];"
                 : "=r"(b.pair[0]), "=r"(b.pair[1])
                 : "r"(row), "n"(kOffset)
                 : "memory");
    return b;
}

template <int kOffset>
__device__ __forceinline__ FragmentB loadTwoMatricesTransposed(uint32_t row) {
    FragmentB b;
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2 + %3];"
                 : "=r"(b.pair[0]), "=r"(b.pair[1])
                 : "r"(row), "n"(kOffset)
                 : "memory");
    return b;
}

// Four, each transposed.
template <int kOffset>
__device__ __forceinline__ FragmentA loadMatricesTransposed(uint32_t row) {
    FragmentA a;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4 + %5];"
                 : "=r"(a.pair[0]), "=r"(a.pair[1]), "=r"(a.pair[2]), "=r"(a.pair[3])
                 : "r"(row), "n"(kOffset)
                 : "memory");
    return a;
}

// An 8 × 8 matrix of packed pairs across the warp, transposed.
__device__ __forceinline__ uint32_t transpose(uint32_t pair) {
    uint32_t transposed;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(transposed) : "r"(pair));
    return transposed;
}

template <typename T>
__device__ __forceinline__ FragmentC multiplyAdd(const FragmentA& a, const FragmentB& b, const FragmentC& c);

#define KV_MULTIPLY_ADD(type, name)                                                                                   \
    template <>                                                                                                       \
    __device__ __forceinline__ FragmentC multiplyAdd<type>(const FragmentA& a, const FragmentB& b,                    \
                                                           const FragmentC& c) {                                      \
        FragmentC d;                                                                                                  \
        asm("mma.sync.aligned.m16n8k16.row.col.f32." name "." name                                                    \
            ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"                                \
            : "=f"(d.c[0]), "=f"(d.c[1]), "=f"(d.c[2]), "=f"(d.c[3])                                                  \
            : "r"(a.pair[0]), "r"(a.pair[1]), "r"(a.pair[2]), "r"(a.pair[3]), "r"(b.pair[0]), "r"(b.pair[1]),         \
              "f"(c.c[0]), "f"(c.c[1]), "f"(c.c[2]), "f"(c.c[3]));                                                    \
        return d;                                                                                                     \
    }
KV_MULTIPLY_ADD(__half, "f16")
KV_MULTIPLY_ADD(__nv_bfloat16, "bf16")
#undef KV_MULTIPLY_ADD

// Of signed bytes, exactly.
__device__ __forceinline__ FragmentInt multiplyAdd(const FragmentA& a, const FragmentB& b, const FragmentInt& c) {
    FragmentInt d;
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%10, %11, %12, %13};"
        : "=r"(d.c[0]), "=r"(d.c[1]), "=r"(d.c[2]), "=r"(d.c[3])
        : "r"(a.pair[0]), "r"(a.pair[1]), "r"(a.pair[2]), "r"(a.pair[3]), "r"(b.pair[0]), "r"(b.pair[1]), "r"(c.c[0]),
          "r"(c.c[1]), "r"(c.c[2]), "r"(c.c[3]));
    return d;
}

// The first 16 columns of A, and rows of B, alone.
__device__ __forceinline__ FragmentInt multiplyAddHalf(const FragmentB& a, uint32_t b, const FragmentInt& c) {
    FragmentInt d;
    asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %8, %9, %10};"
        : "=r"(d.c[0]), "=r"(d.c[1]), "=r"(d.c[2]), "=r"(d.c[3])
        : "r"(a.pair[0]), "r"(a.pair[1]), "r"(b), "r"(c.c[0]), "r"(c.c[1]), "r"(c.c[2]), "r"(c.c[3]));
    return d;
}
