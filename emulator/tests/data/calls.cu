// Calls of every kind, tables, printf and shared memory, for the PTX reader.
// calls.ptx is what `nvcc -arch=compute_80 -ptx -lineinfo calls.cu` made of it.
#include <cstdio>

extern __shared__ int dynamic[];
__constant__ float weights[4] = {1.f, 2.5f, -3.f, 4.f};
__device__ const char greeting[] = "hello\n";
__device__ double scale = 3.25;

__device__ __noinline__ int triple(int a) { return a * 3; }
__device__ __noinline__ int recurse(int a) { return a > 0 ? recurse(a - 1) * 2 + a : 5; }

typedef int (*Step)(int);
__device__ Step steps[3] = {triple, recurse, triple};

__global__ void __launch_bounds__(128, 2) calls(int *out, int k) {
  out[0] = steps[k](k);
  printf("k %d %s", k, greeting);
  switch (k) {
    case 0: out[1] = dynamic[2]; break;
    case 1: out[2] = 7; break;
    case 2: out[5] = recurse(3); break;
    case 3: out[9] = clock(); break;
    case 4: out[k] = 4; break;
    case 5: out[2] = out[k + 2]; break;
    case 6: out[6] = weights[k - 3] * scale; break;
  }
  if (k == 99) __trap();
}
