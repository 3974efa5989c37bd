// A shared array, a stack and a function that is not inlined, for the readers of images.
// Compiled by nvcc 13.0 with -fatbin -lineinfo:
//   images.zstd.fatbin  -compress-mode=size, code and PTX for compute_80 and compute_90a
//   images.lz4.fatbin   -compress-mode=speed, PTX for compute_80
//   images.none.fatbin  -compress-mode=none, PTX for compute_80
__device__ int counter;

__device__ __noinline__ int helper(int a, int *p) {
  int t[40];
  for (int i = 0; i < 40; i++) t[i] = p[i] * a;
  int s = 0;
  for (int i = 0; i < 40; i++) s += t[(t[i] + a) % 40];
  return s;
}

extern "C" __global__ void scale(float *x, float by, int n) {
  __shared__ float s[128];
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  s[threadIdx.x] = i < n ? x[i] : 0.f;
  __syncthreads();
  if (i < n) x[i] = by * s[127 - threadIdx.x];
}

extern "C" __global__ void other(int *p) {
  p[0] = helper(p[1], p);
  counter += 1;
}
