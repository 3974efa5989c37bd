// A program against the CUDA driver API, with declarations of its own so that it
// compiles where the toolkit's cuda.h is not at hand.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

typedef int CUdevice;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;
typedef unsigned long long CUdeviceptr;
typedef int CUresult;

extern "C" {
CUresult cuInit(unsigned);
CUresult cuDriverGetVersion(int *);
CUresult cuDeviceGet(CUdevice *, int);
CUresult cuDeviceGetName(char *, int, CUdevice);
CUresult cuCtxCreate_v4(CUcontext *, void *, unsigned, CUdevice);
CUresult cuCtxDestroy_v2(CUcontext);
CUresult cuModuleLoadDataEx(CUmodule *, const void *, unsigned, int *, void **);
CUresult cuModuleGetFunction(CUfunction *, CUmodule, const char *);
CUresult cuModuleUnload(CUmodule);
CUresult cuMemAlloc_v2(CUdeviceptr *, size_t);
CUresult cuMemFree_v2(CUdeviceptr);
CUresult cuMemcpyHtoD_v2(CUdeviceptr, const void *, size_t);
CUresult cuMemcpyDtoH_v2(void *, CUdeviceptr, size_t);
CUresult cuStreamCreate(CUstream *, unsigned);
CUresult cuStreamSynchronize(CUstream);
CUresult cuStreamDestroy_v2(CUstream);
CUresult cuLaunchKernel(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                        unsigned, CUstream, void **, void **);
CUresult cuGetErrorName(CUresult, const char **);
CUresult cuGetProcAddress_v2(const char *, void **, int, uint64_t, int *);
CUresult cuTexRefCreate(void **);
CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *, CUfunction, int, size_t);
}

#define CHECK(call)                                                   \
    do {                                                              \
        CUresult code_ = (call);                                      \
        if (code_ != 0) {                                             \
            const char *name_ = nullptr;                              \
            cuGetErrorName(code_, &name_);                            \
            fprintf(stderr, "%s: %s\n", #call, name_);                \
            exit(1);                                                  \
        }                                                             \
    } while (0)

#define REQUIRE(condition)                                            \
    do {                                                              \
        if (!(condition)) {                                           \
            fprintf(stderr, "line %d: %s\n", __LINE__, #condition);   \
            exit(1);                                                  \
        }                                                             \
    } while (0)

static const char *kPtx = R"(
.version 7.0
.target sm_80
.address_size 64
.visible .entry vector_add(.param .u64 pa, .param .u64 pb, .param .u64 po, .param .u32 pn)
{
    .reg .pred %p<2>;
    .reg .b32 %r<6>;
    .reg .f32 %f<4>;
    .reg .b64 %rd<8>;
    ld.param.u64 %rd1, [pa];
    ld.param.u64 %rd2, [pb];
    ld.param.u64 %rd3, [po];
    ld.param.u32 %r1, [pn];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r5, %r1;
    @%p1 bra DONE;
    mul.wide.u32 %rd4, %r5, 4;
    add.s64 %rd5, %rd1, %rd4;
    add.s64 %rd6, %rd2, %rd4;
    add.s64 %rd7, %rd3, %rd4;
    ld.global.f32 %f1, [%rd5];
    ld.global.f32 %f2, [%rd6];
    add.f32 %f3, %f1, %f2;
    st.global.f32 [%rd7], %f3;
DONE:
    ret;
}
)";

int main() {
    CHECK(cuInit(0));
    int version = 0;
    CHECK(cuDriverGetVersion(&version));
    printf("driver %d\n", version);
    CUdevice device;
    CHECK(cuDeviceGet(&device, 0));
    char name[64];
    CHECK(cuDeviceGetName(name, sizeof name, device));
    printf("%s\n", name);
    CUcontext context;
    CHECK(cuCtxCreate_v4(&context, nullptr, 0, device));

    // A module that does not compile: the log says why.
    char log[256] = "";
    int options[] = {5 /* CU_JIT_ERROR_LOG_BUFFER */, 6 /* CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES */};
    void *values[] = {log, reinterpret_cast<void *>(sizeof log)};
    CUmodule module;
    REQUIRE(cuModuleLoadDataEx(&module, ".version 7.0\n.target sm_80\nnonsense", 2, options, values) == 218);
    REQUIRE(reinterpret_cast<size_t>(values[1]) > 1 && log[0] != 0);

    CHECK(cuModuleLoadDataEx(&module, kPtx, 0, nullptr, nullptr));
    CUfunction function;
    CHECK(cuModuleGetFunction(&function, module, "vector_add"));
    int blocks = 0;
    CHECK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, function, 256, 0));
    REQUIRE(blocks > 0);

    const unsigned n = 777;
    std::vector<float> a(n), b(n), sum(n);
    for (unsigned i = 0; i < n; i++) {
        a[i] = i;
        b[i] = 2.0f * i;
    }
    CUdeviceptr da, db, ds;
    CHECK(cuMemAlloc_v2(&da, n * sizeof(float)));
    CHECK(cuMemAlloc_v2(&db, n * sizeof(float)));
    CHECK(cuMemAlloc_v2(&ds, n * sizeof(float)));
    CHECK(cuMemcpyHtoD_v2(da, a.data(), n * sizeof(float)));
    CHECK(cuMemcpyHtoD_v2(db, b.data(), n * sizeof(float)));
    CUstream stream;
    CHECK(cuStreamCreate(&stream, 0));
    unsigned count = n;
    // The parameters as one buffer.
    struct { CUdeviceptr a, b, s; unsigned n; } params = {da, db, ds, count};
    size_t size = 28;
    void *extra[] = {reinterpret_cast<void *>(1), &params, reinterpret_cast<void *>(2), &size, nullptr};

    // Through the entry point that cuGetProcAddress gives.
    void *pointer = nullptr;
    int status = -1;
    CHECK(cuGetProcAddress_v2("cuLaunchKernel", &pointer, 13000, 0, &status));
    REQUIRE(status == 0 && pointer != nullptr);
    auto launch = reinterpret_cast<decltype(&cuLaunchKernel)>(pointer);
    CHECK(launch(function, (n + 255) / 256, 1, 1, 256, 1, 1, 0, stream, nullptr, extra));
    CHECK(cuStreamSynchronize(stream));
    CHECK(cuMemcpyDtoH_v2(sum.data(), ds, n * sizeof(float)));
    for (unsigned i = 0; i < n; i++) REQUIRE(sum[i] == 3.0f * i);
    printf("sum ok\n");

    CHECK(cuStreamDestroy_v2(stream));
    CHECK(cuMemFree_v2(da));
    CHECK(cuMemFree_v2(db));
    CHECK(cuMemFree_v2(ds));
    CHECK(cuModuleUnload(module));
    CHECK(cuCtxDestroy_v2(context));
    REQUIRE(cuTexRefCreate(nullptr) == 801);
    REQUIRE(cuStreamSynchronize(stream) == 400);
    return 0;
}
