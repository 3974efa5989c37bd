// merge: attention over all tokens from attention over parts of them, which other devices or prefixes hold.
//
// A part counts by the weight of its tokens, exp(lse), of the sum of all parts' weights. Bytes in and few out: a thread
// takes 16 bytes of a row from each part in turn, neighbours next to it.
#include "element.cuh"
#include "softmax.cuh"
#include "vector.cuh"

namespace {

template <typename T>
__device__ __forceinline__ void merge(const KvMergeParams& p) {
    const int vectors = p.head_dim / kPerVector;  // of a row
    const int64_t i = static_cast<int64_t>(blockIdx.x) * KV_MERGE_THREADS + threadIdx.x;
    const int64_t row = i / vectors;
    if (row >= p.rows) return;
    const int vector = static_cast<int>(i % vectors);

    float highest = minusInfinity();
    for (int part = 0; part < p.parts; part++) highest = fmaxf(highest, p.lses[part * p.rows + row]);
    const float shift = highest == minusInfinity() ? 0.0f : highest * kLog2E;  // no part has a token: no NaN

    float sum = 0.0f;
    float out[kPerVector] = {};
    for (int part = 0; part < p.parts; part++) {
        const float weight = exp2Fast(fmaf(p.lses[part * p.rows + row], kLog2E, -shift));
        if (weight == 0.0f) continue;  // whatever a part without tokens holds, NaN perhaps
        sum += weight;
        const int64_t from = (part * p.rows + row) * p.head_dim + vector * kPerVector;
        const Vec16 x = loadOnce(static_cast<const T*>(p.outs) + from);
#pragma unroll
        for (int word = 0; word < 4; word++) {
            const float2 pair = Element<T>::unpack(x.word[word]);
            out[2 * word] = fmaf(weight, pair.x, out[2 * word]);
            out[2 * word + 1] = fmaf(weight, pair.y, out[2 * word + 1]);
        }
    }
    const float factor = sum == 0.0f ? 0.0f : 1.0f / sum;
    Vec16 merged;
#pragma unroll
    for (int word = 0; word < 4; word++) {
        merged.word[word] = Element<T>::pack(out[2 * word] * factor, out[2 * word + 1] * factor);
    }
    store(static_cast<T*>(p.out) + row * p.head_dim + vector * kPerVector, merged);
    if (p.lse != nullptr && vector == 0) p.lse[row] = sum == 0.0f ? minusInfinity() : highest + __logf(sum);
}

}  // namespace

extern "C" __global__ void __launch_bounds__(KV_MERGE_THREADS)
    kv_merge_f16(const __grid_constant__ KvMergeParams params) {
    merge<__half>(params);
}

extern "C" __global__ void __launch_bounds__(KV_MERGE_THREADS)
    kv_merge_bf16(const __grid_constant__ KvMergeParams params) {
    merge<__nv_bfloat16>(params);
}
