// Division by numbers that the launch knows: a multiplication and a shift, where the instructions for any number are some
// twenty.
#pragma once

#include "abi.h"

struct Division {
    int quotient, remainder;
};

__device__ __forceinline__ Division divide(int index, const KvDivisor& by) {
    const uint64_t product = static_cast<uint64_t>(static_cast<uint32_t>(index)) * by.multiplier;
    const int quotient = static_cast<int>(product >> by.shift);
    return {quotient, index - quotient * by.value};
}
