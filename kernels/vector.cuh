// Sixteen bytes: what one thread moves at a time.
#pragma once

#include "abi.h"

struct alignas(KV_VECTOR_BYTES) Vec16 {
    uint32_t word[4];
};
static_assert(sizeof(Vec16) == KV_VECTOR_BYTES, "a vector is one 16-byte access");

// Reads what no thread writes during the launch and no other block reads again: past L1, which would only be evicted.
__device__ __forceinline__ Vec16 loadOnce(const void* address) {
    Vec16 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
                 : "l"(__cvta_generic_to_global(address)));
    return v;
}

// Reads what the thread may write itself afterwards.
__device__ __forceinline__ Vec16 load(const void* address) {
    Vec16 v;
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
                 : "l"(__cvta_generic_to_global(address))
                 : "memory");
    return v;
}

__device__ __forceinline__ void store(void* address, const Vec16& v) {
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};"
                 :
                 : "l"(__cvta_generic_to_global(address)), "r"(v.word[0]), "r"(v.word[1]), "r"(v.word[2]),
                   "r"(v.word[3])
                 : "memory");
}

__device__ __forceinline__ size_t globalAddress(const void* global) { return __cvta_generic_to_global(global); }

// Bytes from one global address to another, as much of addresses as is to be added.
__device__ __forceinline__ size_t distance(const void* to, const void* from) {
    return globalAddress(to) - globalAddress(from);
}

__device__ __forceinline__ uint32_t sharedAddress(const void* shared) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// To shared memory in one access: left to itself the compiler may make four of it, whose lanes conflict.
__device__ __forceinline__ void storeShared(void* address, const Vec16& v) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};"
                 :
                 : "r"(sharedAddress(address)), "r"(v.word[0]), "r"(v.word[1]), "r"(v.word[2]), "r"(v.word[3])
                 : "memory");
}

__device__ __forceinline__ uint32_t loadShared(uint32_t address) {
    uint32_t word;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(word) : "r"(address) : "memory");
    return word;
}
