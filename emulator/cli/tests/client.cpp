// Scales 100 floats with a kernel of a PTX file: client FILE COUNT [leak]. Ends with 7 where the launch fails.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

extern "C" {
// The few calls of the driver API that this needs; their declarations are NVIDIA's, its header is not at hand everywhere.
int cuInit(unsigned);
int cuDeviceGet(int*, int);
int cuCtxCreate_v2(void**, unsigned, int);
int cuCtxDestroy_v2(void*);
int cuCtxSynchronize();
int cuModuleLoad(void**, const char*);
int cuModuleGetFunction(void**, void*, const char*);
int cuMemAlloc_v2(unsigned long long*, size_t);
int cuMemFree_v2(unsigned long long);
int cuMemcpyHtoD_v2(unsigned long long, const void*, size_t);
int cuMemcpyDtoH_v2(void*, unsigned long long, size_t);
int cuLaunchKernel(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**);
}

static void must(int code, const char* call) {
  if (code == 0) return;
  std::fprintf(stderr, "client: %s: %d\n", call, code);
  std::exit(7);
}
#define MUST(call) must(call, #call)

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  int device;
  void *context, *module, *scale;
  MUST(cuInit(0));
  MUST(cuDeviceGet(&device, 0));
  MUST(cuCtxCreate_v2(&context, 0, device));
  MUST(cuModuleLoad(&module, argv[1]));
  MUST(cuModuleGetFunction(&scale, module, "scale"));
  std::vector<float> values(100);
  for (int k = 0; k < 100; ++k) values[k] = k;
  unsigned long long in, out;
  MUST(cuMemAlloc_v2(&in, 400));
  MUST(cuMemAlloc_v2(&out, 400));
  MUST(cuMemcpyHtoD_v2(in, values.data(), 400));
  float factor = 3;
  unsigned count = std::atoi(argv[2]);
  void* parameters[] = {&in, &out, &factor, &count};
  MUST(cuLaunchKernel(scale, 4, 1, 1, 32, 1, 1, 0, nullptr, parameters, nullptr));
  MUST(cuCtxSynchronize());
  MUST(cuMemcpyDtoH_v2(values.data(), out, 400));
  for (int k = 0; k < 100; ++k)
    if (values[k] != 3.0f * k) return 3;
  if (argc < 4) {
    MUST(cuMemFree_v2(in));
    MUST(cuMemFree_v2(out));
  }
  MUST(cuCtxDestroy_v2(context));
  std::puts("scaled");
  return 0;
}
