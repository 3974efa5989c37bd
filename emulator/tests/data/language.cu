// What CUDA C++ says that few programs do: room taken from the stack, atomics of sixteen bytes, and the state space that
// an address is in.

#include <alloca.h>

// Decimal digits of a number, from the first on, read as digits of another base.
__device__ __noinline__ unsigned reread(unsigned number, int count) {
  unsigned char* digits = static_cast<unsigned char*>(alloca(count));
  int used = 0;
  do {
    digits[used++] = number % 10;
    number /= 10;
  } while (number != 0);
  unsigned sum = 0;
  while (used != 0) sum = sum * 3 + digits[--used];
  return sum;
}

extern "C" __global__ void digits(unsigned* out, int more) {
  const int me = threadIdx.x;
  unsigned* squares = static_cast<unsigned*>(alloca((me + 1) * sizeof(unsigned)));
  for (int k = 0; k <= me; ++k) squares[k] = k * k;
  out[me] = reread(squares[me] + more, 4 + me);
}

// How many threads there are, and the sum of their numbers, counted together.
extern "C" __global__ void both(unsigned __int128* totals) {
  const unsigned __int128 mine = static_cast<unsigned __int128>(blockIdx.x * blockDim.x + threadIdx.x) << 64 | 1;
  unsigned __int128 old = 0, seen;
  while ((seen = atomicCAS(totals, old, old + mine)) != old) old = seen;
}

__constant__ unsigned fixed[32];
__device__ unsigned loose[32];

__device__ __noinline__ unsigned space_of(const void* address) {
  return __isConstant(address) ? 1 : __isGlobal(address) ? 2 : 0;
}

extern "C" __global__ void spaces(unsigned* out) {
  out[threadIdx.x] = space_of(threadIdx.x % 2 == 0 ? static_cast<const void*>(fixed + threadIdx.x) : loose + threadIdx.x);
}
