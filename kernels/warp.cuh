// The threads that run in step.
#pragma once

constexpr unsigned kAllLanes = 0xffffffffu;

// The thread's warp in its block. By a shuffle: to the assembler threadIdx.x / 32 may differ within a warp, and it would
// fence every branch that depends on it.
__device__ __forceinline__ int warpInBlock() { return __shfl_sync(kAllLanes, threadIdx.x / 32, 0); }
