// statistics: the smallest, the largest and the sum of each KV head's channels, over the tokens of a span; calibrate:
// the largest magnitude alone, as channel scales.
//
// A block takes a KV head and a part of its vectors; each thread takes 16 bytes of a vector, eight channels, and every
// kRows-th vector of the part. Its threads' findings are joined in a fixed order, and parts are shared out by the
// shape alone: a sum has the same bits whatever the order of blocks. Maxima have no order, so calibrate's parts meet in
// atomic operations, and the last block to arrive makes scales of them.
#include "element.cuh"
#include "span.cuh"
#include "variants.h"

namespace {

// Pairs of elements, in one word.
template <typename T>
struct Pair;

template <>
struct Pair<__half> {
    static constexpr uint32_t kLowest = 0xfc00fc00u;  // minus infinity
    static constexpr uint32_t kPastFinite = 0x04000400u;
};

template <>
struct Pair<__nv_bfloat16> {
    static constexpr uint32_t kLowest = 0xff80ff80u;
    static constexpr uint32_t kPastFinite = 0x00800080u;
};

constexpr uint32_t kSigns = 0x80008000u;

// The sign bits of the elements that are not finite: added to, the largest finite number does not reach them.
template <typename T>
__device__ __forceinline__ uint32_t nonFinite(uint32_t pair) {
    return ((pair & ~kSigns) + Pair<T>::kPastFinite) & kSigns;
}

template <typename T>
__device__ __forceinline__ bool anyNonFinite(const Vec16& v) {
    const uint32_t any = nonFinite<T>(v.word[0]) | nonFinite<T>(v.word[1]) | nonFinite<T>(v.word[2]) |
                         nonFinite<T>(v.word[3]);
    return any != 0;
}

// From sign bits, all bits of their elements.
__device__ __forceinline__ uint32_t wholeElements(uint32_t signs) { return (signs >> 15) * 0xffffu; }

// Where a block's threads put what they have found, one number for each of a thread's channels. Threads write side by
// side; who then reads the channels of a chunk, e after e, meets banks that are two words apart (four for 32 bits).
template <typename N>
struct Board {
    static constexpr int kPitch = KV_STATISTICS_THREADS + 16 / sizeof(N);
    N number[kPerVector][kPitch];
};

// A block's place: which KV head, which part of its vectors, and which of the block's rows and chunks a thread has.
template <int kHeadDim>
struct Part {
    static constexpr int kChunks = kHeadDim / kPerVector;
    static constexpr int kRows = KV_STATISTICS_THREADS / kChunks;

    int head, part, row, chunk;

    __device__ __forceinline__ explicit Part(const KvSpan& span)
        : head(blockIdx.x % span.num_kv_heads.value),
          part(blockIdx.x / span.num_kv_heads.value),
          row(threadIdx.x / kChunks),
          chunk(threadIdx.x % kChunks) {}

    // Calls `take` with each vector of the thread that is covered, 16 bytes of it.
    template <typename Take>
    __device__ __forceinline__ void forVectors(const KvSpan& span, const void* elements, int vectors, Take take) const {
        if (row >= kRows) return;  // threads beyond the last whole row
        const unsigned all = span.batch * span.tokens.value, begin = part * vectors;
        const unsigned end = min(begin + vectors, all);
        SpanWalk walk(span);
        for (unsigned index = begin + row; index < end; index += kRows) {
            if (index == begin + row || !walk.advance(kRows)) walk.goTo(index, head);
            if (!walk.covered()) continue;
            const int64_t element = static_cast<int64_t>(walk.vector()) * kHeadDim + chunk * kPerVector;
            take(loadOnce(static_cast<const uint16_t*>(elements) + element));
        }
    }

    // Calls `finish` with each channel that the thread is to join the rows of, and where its first row's finding is.
    template <typename Finish>
    static __device__ __forceinline__ void forChannels(Finish finish) {
        for (int channel = threadIdx.x; channel < kHeadDim; channel += KV_STATISTICS_THREADS) {
            finish(channel, channel % kPerVector, channel / kPerVector);
        }
    }
};

// What a thread finds in its eight channels.
template <typename T>
struct Findings {
    uint32_t highest[kPerVector / 2];   // pairs
    uint32_t deepest[kPerVector / 2];   // the lowest, negated
    double sum[kPerVector] = {};
    int non_finite[kPerVector] = {};
    int vectors = 0;

    __device__ __forceinline__ Findings() {
#pragma unroll
        for (int w = 0; w < kPerVector / 2; w++) highest[w] = deepest[w] = Pair<T>::kLowest;
    }

    __device__ __forceinline__ void add(const Vec16& v) {
        vectors++;
        Vec16 high = v, summed = v, deep;
#pragma unroll
        for (int w = 0; w < kPerVector / 2; w++) deep.word[w] = v.word[w] ^ kSigns;
        if (anyNonFinite<T>(v)) {  // seldom: they are counted and add nothing
#pragma unroll
            for (int w = 0; w < kPerVector / 2; w++) {
                const uint32_t signs = nonFinite<T>(v.word[w]), whole = wholeElements(signs);
                non_finite[2 * w] += signs >> 15 & 1;
                non_finite[2 * w + 1] += signs >> 31;
                high.word[w] = (high.word[w] & ~whole) | (Pair<T>::kLowest & whole);
                deep.word[w] = (deep.word[w] & ~whole) | (Pair<T>::kLowest & whole);
                summed.word[w] &= ~whole;
            }
        }
#pragma unroll
        for (int w = 0; w < kPerVector / 2; w++) {
            highest[w] = Element<T>::larger(highest[w], high.word[w]);
            deepest[w] = Element<T>::larger(deepest[w], deep.word[w]);
            const float2 pair = Element<T>::unpack(summed.word[w]);
            sum[2 * w] += static_cast<double>(pair.x);
            sum[2 * w + 1] += static_cast<double>(pair.y);
        }
    }
};

template <typename T, int kHeadDim>
__device__ __forceinline__ void statistics(const KvStatisticsParams& p) {
    using Place = Part<kHeadDim>;
    __shared__ Board<double> sums;
    __shared__ Board<float> highest, deepest;
    __shared__ Board<int> non_finite;
    __shared__ int vectors[Place::kRows];
    const Place place(p.span);
    Findings<T> found;
    place.forVectors(p.span, p.elements, p.part, [&](const Vec16& v) { found.add(v); });

#pragma unroll
    for (int w = 0; w < kPerVector / 2; w++) {
        const float2 high = Element<T>::unpack(found.highest[w]), deep = Element<T>::unpack(found.deepest[w]);
        highest.number[2 * w][threadIdx.x] = high.x, highest.number[2 * w + 1][threadIdx.x] = high.y;
        deepest.number[2 * w][threadIdx.x] = deep.x, deepest.number[2 * w + 1][threadIdx.x] = deep.y;
    }
#pragma unroll
    for (int e = 0; e < kPerVector; e++) {
        sums.number[e][threadIdx.x] = found.sum[e];
        non_finite.number[e][threadIdx.x] = found.non_finite[e];
    }
    if (place.chunk == 0 && place.row < Place::kRows) vectors[place.row] = found.vectors;
    __syncthreads();

    const int64_t plane = static_cast<int64_t>(p.parts) * p.span.num_kv_heads.value * kHeadDim;
    double* const to = p.found + static_cast<int64_t>(blockIdx.x) * kHeadDim;
    Place::forChannels([&](int channel, int e, int first) {
        double sum = 0.0;
        float high = highest.number[e][first], deep = deepest.number[e][first];
        int count = 0, others = 0;
        for (int row = 0; row < Place::kRows; row++) {
            const int at = row * Place::kChunks + first;
            sum += sums.number[e][at];
            high = fmaxf(high, highest.number[e][at]);
            deep = fmaxf(deep, deepest.number[e][at]);
            count += vectors[row];
            others += non_finite.number[e][at];
        }
        to[KV_STATISTICS_SUM * plane + channel] = sum;
        to[KV_STATISTICS_MIN * plane + channel] = -deep;
        to[KV_STATISTICS_MAX * plane + channel] = high;
        to[KV_STATISTICS_COUNT * plane + channel] = count - others;
        to[KV_STATISTICS_NON_FINITE * plane + channel] = others;
    });
}

template <typename T, int kHeadDim>
__device__ __forceinline__ void calibrate(const KvCalibrateParams& p) {
    using Place = Part<kHeadDim>;
    __shared__ Board<float> largest;
    __shared__ bool is_last;
    const Place place(p.span);
    uint32_t magnitude[kPerVector / 2] = {};  // pairs
    place.forVectors(p.span, p.elements, p.part, [&](const Vec16& v) {
#pragma unroll
        for (int w = 0; w < kPerVector / 2; w++) {
            const uint32_t finite = v.word[w] & ~wholeElements(nonFinite<T>(v.word[w]));
            magnitude[w] = Element<T>::larger(magnitude[w], finite & ~kSigns);
        }
    });
#pragma unroll
    for (int w = 0; w < kPerVector / 2; w++) {
        const float2 pair = Element<T>::unpack(magnitude[w]);
        largest.number[2 * w][threadIdx.x] = pair.x, largest.number[2 * w + 1][threadIdx.x] = pair.y;
    }
    __syncthreads();
    Place::forChannels([&](int channel, int e, int first) {
        float absmax = 0.0f;
        for (int row = 0; row < Place::kRows; row++) {
            absmax = fmaxf(absmax, largest.number[e][row * Place::kChunks + first]);
        }
        // As bits, numbers that are not negative have the same order.
        atomicMax(&p.absmax[place.head * kHeadDim + channel], __float_as_uint(absmax));
    });
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        is_last = atomicInc(p.arrivals, gridDim.x - 1) == gridDim.x - 1;  // and the count is 0 again
        __threadfence();
    }
    __syncthreads();
    if (!is_last) return;
    for (int channel = threadIdx.x; channel < p.span.num_kv_heads.value * kHeadDim; channel += KV_STATISTICS_THREADS) {
        const float absmax = __uint_as_float(atomicMax(&p.absmax[channel], 0u));  // as the other blocks left it
        p.scales[channel] = absmax == 0.0f ? 1.0f : absmax;
    }
}

}  // namespace

#define KV_STATISTICS(name, type, head_dim)                                                                 \
    extern "C" __global__ void __launch_bounds__(KV_STATISTICS_THREADS)                                     \
        kv_statistics_##name##_d##head_dim(const __grid_constant__ KvStatisticsParams params) {             \
        statistics<type, head_dim>(params);                                                                 \
    }                                                                                                       \
    extern "C" __global__ void __launch_bounds__(KV_STATISTICS_THREADS)                                     \
        kv_calibrate_##name##_d##head_dim(const __grid_constant__ KvCalibrateParams params) {               \
        calibrate<type, head_dim>(params);                                                                  \
    }

#define HEAD_DIM(head_dim)                    \
    KV_STATISTICS(f16, __half, head_dim)      \
    KV_STATISTICS(bf16, __nv_bfloat16, head_dim)
KV_HEAD_DIMS(HEAD_DIM)
