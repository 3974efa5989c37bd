// advance: adds a step's new tokens to the sequences' lengths, once, after the last layer.
//
// Lengths belong to the sequence, not to a layer: were append to change them, the second layer would see other
// positions than the first.
#include "step.cuh"

extern "C" __global__ void __launch_bounds__(KV_ADVANCE_THREADS)
    kv_advance(const __grid_constant__ KvAdvanceParams params) {
    const int sequence = blockIdx.x * KV_ADVANCE_THREADS + threadIdx.x;
    if (sequence >= params.step.batch) return;

    const SequenceStep s = sequenceStep(params.step, sequence);
    flag(params.step, sequence, s.status);
    if (s.added > 0) {
        params.seq_lens[sequence] = s.cached + s.added;
    }
}
