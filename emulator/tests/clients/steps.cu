// The kernels of steps.c.

extern "C" __global__ void scale(float *values, float factor, int count) {
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at < count) {
        values[at] *= factor;
    }
}

// Reads a float as far behind `values` as it is told to.
extern "C" __global__ void stray(float *values, int away) {
    values[threadIdx.x] = values[away];
}
