// Copies from memory to shared memory that run while the thread goes on (cp.async).
#pragma once

#include "vector.cuh"

// Copies 16 bytes from `from + kFrom` to `to + kTo`, past L1: nobody else reads them again.
template <int kTo, int kFrom>
__device__ __forceinline__ void copyAsync(uint32_t to, size_t from) {
    asm volatile("cp.async.cg.shared.global [%0 + %2], [%1 + %3], 16;" ::"r"(to), "l"(from), "n"(kTo), "n"(kFrom)
                 : "memory");
}

// The same where `present`; else writes zeros and reads nothing.
template <int kTo, int kFrom>
__device__ __forceinline__ void copyAsyncOrZero(uint32_t to, size_t from, bool present) {
    asm volatile("cp.async.cg.shared.global [%0 + %2], [%1 + %3], 16, %4;" ::"r"(to), "l"(from), "n"(kTo), "n"(kFrom),
                 "r"(present ? KV_VECTOR_BYTES : 0)
                 : "memory");
}

// Copies a word.
template <int kTo>
__device__ __forceinline__ void copyWordAsync(uint32_t to, size_t from) {
    asm volatile("cp.async.ca.shared.global [%0 + %2], [%1], 4;" ::"r"(to), "l"(from), "n"(kTo) : "memory");
}

// The same where `present`; else writes zero and reads nothing.
template <int kTo>
__device__ __forceinline__ void copyWordAsyncOrZero(uint32_t to, size_t from, bool present) {
    asm volatile("cp.async.ca.shared.global [%0 + %2], [%1], 4, %3;" ::"r"(to), "l"(from), "n"(kTo),
                 "r"(present ? 4 : 0)
                 : "memory");
}

// Closes this thread's group of copies: all it has issued since the last one, which may be none.
__device__ __forceinline__ void commitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most the kGroups youngest groups of this thread are under way.
template <int kGroups>
__device__ __forceinline__ void waitForCopies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}
