/* A C program compiled against the toolkit's own cuda.h: what it passes and gets back are the header's structures, under
 * the names and versions that the header's macros choose. Takes the path of a module that holds the kernels of steps.cu,
 * says where it fails, and otherwise "steps ok". */

#include <cuda.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void expect(CUresult got, CUresult wanted, const char *what, int line) {
    const char *name = "?", *text = "?";
    if (got == wanted) {
        return;
    }
    cuGetErrorName(got, &name);
    cuGetErrorString(got, &text);
    printf("line %d: %s: %s (%s)\n", line, what, name, text);
    exit(1);
}

#define DO(call) expect((call), CUDA_SUCCESS, #call, __LINE__)
#define FAILS(wanted, call) expect((call), (wanted), #call, __LINE__)
#define CHECK(truth)                                                                                                   \
    do {                                                                                                               \
        if (!(truth)) {                                                                                                \
            printf("line %d: not so: %s\n", __LINE__, #truth);                                                         \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

enum { COUNT = 1000, BLOCK = 128, ROWS = 5, WIDTH = 48 };

static CUstream stream;
static CUfunction scale;

static int all_are(const float *values, float wanted) {
    for (int k = 0; k < COUNT; ++k) {
        if (values[k] != wanted) {
            return 0;
        }
    }
    return 1;
}

/* Rows of a pitched allocation, there and back. */
static void rows(void) {
    unsigned char from[ROWS][WIDTH], to[ROWS][WIDTH];
    CUdeviceptr pitched;
    size_t pitch;
    CUDA_MEMCPY2D copy;
    for (int k = 0; k < ROWS * WIDTH; ++k) {
        from[k / WIDTH][k % WIDTH] = (unsigned char)(7 * k);
    }
    DO(cuMemAllocPitch(&pitched, &pitch, WIDTH, ROWS, 16));
    CHECK(pitch >= WIDTH && pitch % 16 == 0);
    memset(&copy, 0, sizeof copy);
    copy.srcMemoryType = CU_MEMORYTYPE_HOST;
    copy.srcHost = from;
    copy.srcPitch = WIDTH;
    copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
    copy.dstDevice = pitched;
    copy.dstPitch = pitch;
    copy.WidthInBytes = WIDTH;
    copy.Height = ROWS;
    DO(cuMemcpy2D(&copy));
    memset(to, 0, sizeof to);
    /* Row by row: what lies between them is nobody's. */
    for (int row = 0; row < ROWS; ++row) {
        DO(cuMemcpyDtoH(to[row], pitched + (CUdeviceptr)(row * pitch), WIDTH));
    }
    CHECK(memcmp(from, to, sizeof from) == 0);
    DO(cuMemFree(pitched));
}

/* Stream-ordered memory, a launch with attributes, events around it. */
static void launch(void) {
    static float values[COUNT];
    CUdeviceptr memory;
    CUevent begin, end;
    CUmemorytype kind = 0;
    float factor = 1.5f, milliseconds = -1, one = 1;
    int count = COUNT, most = 0, blocks = 0;
    unsigned bits;
    void *arguments[] = {&memory, &factor, &count};
    CUlaunchAttribute attribute;
    CUlaunchConfig config;
    memcpy(&bits, &one, sizeof bits);
    DO(cuEventCreate(&begin, CU_EVENT_DEFAULT));
    DO(cuEventCreate(&end, CU_EVENT_DEFAULT));
    DO(cuMemAllocAsync(&memory, sizeof values, stream));
    DO(cuMemsetD32Async(memory, bits, COUNT, stream));
    memset(&attribute, 0, sizeof attribute);
    attribute.id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
    attribute.value.cooperative = 1;
    memset(&config, 0, sizeof config);
    config.gridDimX = (COUNT + BLOCK - 1) / BLOCK;
    config.gridDimY = config.gridDimZ = 1;
    config.blockDimX = BLOCK;
    config.blockDimY = config.blockDimZ = 1;
    config.hStream = stream;
    config.attrs = &attribute;
    config.numAttrs = 1;
    DO(cuEventRecord(begin, stream));
    DO(cuLaunchKernelEx(&config, scale, arguments, NULL));
    DO(cuEventRecord(end, stream));
    DO(cuMemcpyDtoHAsync(values, memory, sizeof values, stream));
    DO(cuStreamSynchronize(stream));
    CHECK(all_are(values, 1.5f));
    DO(cuEventElapsedTime(&milliseconds, begin, end));
    CHECK(milliseconds >= 0);
    DO(cuPointerGetAttribute(&kind, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, memory));
    CHECK(kind == CU_MEMORYTYPE_DEVICE);
    DO(cuFuncGetAttribute(&most, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, scale));
    CHECK(most == 1024);
    DO(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, scale, BLOCK, 0));
    CHECK(blocks > 0);
    DO(cuMemFreeAsync(memory, stream));
    DO(cuEventDestroy(begin));
    DO(cuEventDestroy(end));
    DO(cuStreamSynchronize(stream));
}

/* A captured launch, replayed, then replayed with another factor. */
static void graph(void) {
    static float values[COUNT];
    CUdeviceptr memory;
    CUgraph graph;
    CUgraphExec executable;
    CUgraphNode nodes[4];
    CUgraphNodeType type;
    CUDA_KERNEL_NODE_PARAMS node;
    size_t found = 4;
    float factor = 2;
    int count = COUNT;
    void *arguments[] = {&memory, &factor, &count};
    unsigned grid = (COUNT + BLOCK - 1) / BLOCK;
    for (int k = 0; k < COUNT; ++k) {
        values[k] = 1;
    }
    DO(cuMemAlloc(&memory, sizeof values));
    DO(cuMemcpyHtoD(memory, values, sizeof values));
    DO(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    DO(cuLaunchKernel(scale, grid, 1, 1, BLOCK, 1, 1, 0, stream, arguments, NULL));
    DO(cuStreamEndCapture(stream, &graph));
    DO(cuGraphGetNodes(graph, nodes, &found));
    CHECK(found == 1);
    DO(cuGraphNodeGetType(nodes[0], &type));
    CHECK(type == CU_GRAPH_NODE_TYPE_KERNEL);
    DO(cuGraphKernelNodeGetParams(nodes[0], &node));
    CHECK(node.func == scale && node.gridDimX == grid && node.blockDimX == BLOCK);
    CHECK(*(float *)node.kernelParams[1] == 2);
    DO(cuGraphInstantiate(&executable, graph, 0));
    for (int k = 0; k < 3; ++k) {
        DO(cuGraphLaunch(executable, stream));
    }
    factor = 0.5f;
    node.kernelParams = arguments;
    DO(cuGraphExecKernelNodeSetParams(executable, nodes[0], &node));
    DO(cuGraphLaunch(executable, stream));
    DO(cuStreamSynchronize(stream));
    DO(cuMemcpyDtoH(values, memory, sizeof values));
    CHECK(all_are(values, 4));
    DO(cuGraphExecDestroy(executable));
    DO(cuGraphDestroy(graph));
    DO(cuMemFree(memory));
}

/* A fault stays with its context: every later call has it again. */
static void fault(CUmodule module) {
    CUfunction stray;
    CUdeviceptr memory, other;
    int away = 1 << 20;
    void *arguments[] = {&memory, &away};
    DO(cuModuleGetFunction(&stray, module, "stray"));
    DO(cuMemAlloc(&memory, 4 * BLOCK));
    DO(cuLaunchKernel(stray, 1, 1, 1, BLOCK, 1, 1, 0, stream, arguments, NULL));
    FAILS(CUDA_ERROR_ILLEGAL_ADDRESS, cuStreamSynchronize(stream));
    FAILS(CUDA_ERROR_ILLEGAL_ADDRESS, cuMemAlloc(&other, 16));
}

int main(int count, char **arguments) {
    CUdevice device;
    CUcontext context;
    CUmodule module;
    CUuuid uuid;
    char name[64];
    CHECK(count == 2);
    DO(cuInit(0));
    DO(cuDeviceGet(&device, 0));
    DO(cuDeviceGetName(name, sizeof name, device));
    DO(cuDeviceGetUuid(&uuid, device));
    DO(cuDevicePrimaryCtxRetain(&context, device));
    DO(cuCtxSetCurrent(context));
    DO(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    DO(cuModuleLoad(&module, arguments[1]));
    DO(cuModuleGetFunction(&scale, module, "scale"));
    FAILS(CUDA_ERROR_NOT_FOUND, cuModuleGetFunction(&scale, module, "shrink"));
    DO(cuModuleGetFunction(&scale, module, "scale"));
    rows();
    launch();
    graph();
    fault(module);
    printf("steps ok\n");
    return 0;
}
