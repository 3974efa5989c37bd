// append: copies the K and V vectors of a step's new tokens behind those already cached.
//
// Bytes in, the same bytes out, so it is a copy at the speed of memory: 16 bytes a thread, neighbouring threads on
// neighbouring addresses, K and V in the same thread so that two loads are in flight. A row is the vector of one token
// and head; rows are taken in the order the engine computed them (token by token, all heads of it).
#include "cache.cuh"
#include "step.cuh"
#include "vector.cuh"

namespace {

template <typename Bits, int kHeadDim>
__device__ __forceinline__ void append(const KvAppendParams& p) {
    constexpr int kPerVec = KV_VECTOR_BYTES / sizeof(Bits);
    constexpr int kVectors = kHeadDim / kPerVec;  // of a row
    constexpr int kRows = KV_APPEND_THREADS / kVectors;
    static_assert(kHeadDim % kPerVec == 0 && kRows > 0, "whole rows a block");

    const unsigned row = blockIdx.x * kRows + threadIdx.x / kVectors;
    const int element = threadIdx.x % kVectors * kPerVec;
    // Threads beyond the last whole row have nothing to do.
    if (threadIdx.x >= kRows * kVectors || row >= static_cast<unsigned>(p.rows)) return;

    const int token = row / p.num_kv_heads;
    const int head = row % p.num_kv_heads;
    const int sequence = sequenceOfToken(p.step, token);
    if (sequence >= p.step.batch) return;  // a packed buffer may be longer than what it holds

    const SequenceStep s = sequenceStep(p.step, sequence);
    const bool packed = p.step.cu_seqlens != nullptr;
    // Unsigned: a token before the sequence's first (cu_seqlens not starting at 0) belongs to nobody either.
    const unsigned nth = static_cast<unsigned>(token) -
                         static_cast<unsigned>(packed ? s.first : sequence * p.step.new_tokens);
    if (nth >= static_cast<unsigned>(s.added)) {
        if (head == 0 && element == 0) flag(p.step, sequence, s.status);
        return;
    }

    const int64_t to = cacheOffset(p.cache, sequence, head, s.cached + static_cast<int>(nth)) + element;
    const int64_t k_from = tokenOffset(p.k_new, packed, s.first, sequence, nth, head) + element;
    const int64_t v_from = tokenOffset(p.v_new, packed, s.first, sequence, nth, head) + element;
    const Vec16 k = loadOnce(static_cast<const Bits*>(p.k_new.data) + k_from);
    const Vec16 v = loadOnce(static_cast<const Bits*>(p.v_new.data) + v_from);
    store(static_cast<Bits*>(p.cache.k) + to, k);
    store(static_cast<Bits*>(p.cache.v) + to, v);
}

}  // namespace

// fp16 and bf16 alike: a copy does not look at its bits.
#define KV_APPEND(bits, head_dim)                                                                             \
    extern "C" __global__ void __launch_bounds__(KV_APPEND_THREADS)                                           \
        kv_append_b##bits##_d##head_dim(const __grid_constant__ KvAppendParams params) {                      \
        append<uint##bits##_t, head_dim>(params);                                                             \
    }

KV_APPEND(16, 64)
KV_APPEND(16, 80)
KV_APPEND(16, 96)
KV_APPEND(16, 112)
KV_APPEND(16, 128)
KV_APPEND(16, 192)
KV_APPEND(16, 256)
