// prefill: causal attention of a step's new tokens, however many, over the cache that they have been appended to.
//
// A query row is one head of one query token: row r of a sequence and KV head is query r / group_size, head
// r % group_size of the group, so that a group shares what is read of K and V. A block takes 64 rows, 16 a warp, and goes
// through the tokens they see, 32 at a time. Its warps share the tiles: each copies a quarter of the next pair of K and V
// while all work on this one.
//
//     scores   S [rows, tokens] = q · Kᵀ       A = q, B = K as it lies
//     weights  P = exp2(S - maximum)           S lies in registers as A of the next product is to lie
//     values   O [rows, head_dim] += P · V     B = V, transposed by its load
//
//     shared memory, in parts of 16 rows:   K K V V | K K V V        a stage for each of two tiles
//                                copied by warp 0 1 2 3   0 1 2 3
//
// With 192 elements a vector and more the outputs of 16 rows do not fit one warp's registers: two warps share the rows,
// compute the same weights, and each multiplies them by its half of V.
#pragma once

#include "cache.cuh"
#include "softmax.cuh"
#include "step.cuh"
#include "tile.cuh"
#include "variants.h"

namespace {

constexpr int kWarpRows = 16;

// The query rows of a block. Lies in shared memory: registers are short while tiles are worked on.
struct Queries {
    bool exist;
    int sequence;
    int tokens;          // queries
    int first_token;     // the first of them in q and out, where tokens of all sequences follow each other
    int first_position;  // the first one's; the others follow it. Negative where there are more queries than tokens
    int first_row;       // the block's, of the sequence and KV head
};

// Where sequence b's tiles of rows begin among those of all: for packed steps without adding up the tiles of those before
// it. Its share is what it needs, or one or two tiles more, which have no rows.
__device__ __forceinline__ int64_t firstTile(const KvPrefillParams& p, int sequence) {
    if (p.step.cu_seqlens == nullptr) {
        const int rows = p.step.new_tokens * p.group_size;
        return static_cast<int64_t>(sequence) * ((rows + KV_PREFILL_ROWS - 1) / KV_PREFILL_ROWS);
    }
    return static_cast<int64_t>(p.step.cu_seqlens[sequence]) * p.group_size / KV_PREFILL_ROWS + sequence;
}

__device__ __forceinline__ Queries findQueries(const KvPrefillParams& p, int tile) {
    Queries found = {};
    int low = 0, high = p.step.batch;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (firstTile(p, middle + 1) <= tile) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low == p.step.batch) return found;
    const SequenceStep s = sequenceStep(p.step, low);
    found.sequence = low;
    if (p.step.cu_seqlens == nullptr) {
        found.tokens = p.step.new_tokens;
        found.first_token = low * p.step.new_tokens;
    } else {
        const int64_t tokens = static_cast<int64_t>(p.step.cu_seqlens[low + 1]) - s.first;
        // Whatever cu_seqlens says, nothing outside of q is touched.
        if (s.first < 0 || tokens < 0 || s.first + tokens > p.tokens) return found;
        found.tokens = static_cast<int>(tokens);
        found.first_token = s.first;
    }
    found.first_position = s.cached + s.added - found.tokens;
    const int64_t first_row = (tile - firstTile(p, low)) * KV_PREFILL_ROWS;
    found.exist = first_row >= 0 && first_row < static_cast<int64_t>(found.tokens) * p.group_size;
    found.first_row = static_cast<int>(first_row);
    return found;
}

template <typename T, int kHeadDim>
struct WarpPrefill {
    static constexpr int kTokens = 32;  // of a tile
    using Whole = Tile<2 * kHeadDim, kTokens>;
    using Part = Tile<2 * kHeadDim, kWarpRows>;  // what a warp copies of a tile, and its query rows
    static constexpr int kSteps = kHeadDim / 16;
    static constexpr int kParts = 4;  // of a stage
    static_assert(Part::kBytes % Part::kAlignment == 0, "parts begin where tiles may");
    static_assert(kParts * kWarpRows == KV_PREFILL_ROWS && 2 * Whole::kBytes == kParts * Part::kBytes,
                  "as many groups of rows as parts of K and V");

    static constexpr bool kLong = kHeadDim > 128;
    static constexpr int kSharers = kLong ? 2 : 1;  // warps that share rows
    static constexpr int kThreads = kParts * kSharers * 32;
    static constexpr int kOutSteps = kSteps / kSharers;  // of a warp

    // Queries come to registers by way of the second stage; long ones stay in shared memory, behind both.
    static constexpr int kQuerySlot = (kLong ? 2 : 1) * kParts;

    const KvPrefillParams& p;
    const Queries& queries;
    int kv_head;
    int warp, share;      // which of the groups of rows, and which part of V
    int lane;
    unsigned char* part;  // the group's in the first stage

    typename Whole::Lane at;       // where fragments of tiles are read
    uint32_t query_at;             // where those of long queries begin
    typename Part::Lane part_at;   // where the warp copies to
    size_t from;                   // the lane's source of the part to copy next
    int end;                       // the block's tokens end here,
    int first_end, last_end;       // those that the warp's first row sees here, its last row's here
    FragmentA q[kLong ? 1 : kSteps];
    FragmentC out[2 * kOutSteps];  // eight elements each
    float maximum[2], sum[2];      // of rows lane / 4 and the same + 8; the sum is the lane's part

    __device__ __forceinline__ int rows() const { return queries.tokens * p.group_size; }
    __device__ __forceinline__ int firstRow() const { return queries.first_row + warp * kWarpRows; }
    __device__ __forceinline__ int positionOfRow(int row) const {
        return queries.first_position + min(row, rows() - 1) / p.group_size;
    }

    __device__ __forceinline__ void attend(unsigned char* shared) {
        const bool windowed = p.sliding_window > 0;
        const int begin = windowed ? max(positionOfRow(queries.first_row) + 1 - p.sliding_window, 0) : 0;
        end = positionOfRow(queries.first_row + KV_PREFILL_ROWS - 1) + 1;
        first_end = positionOfRow(firstRow()) + 1;
        last_end = firstRow() < rows() ? positionOfRow(firstRow() + kWarpRows - 1) + 1 : 0;
#pragma unroll
        for (int n = 0; n < 2 * kOutSteps; n++) out[n] = {};
        maximum[0] = maximum[1] = kNoScore;
        sum[0] = sum[1] = 0.0f;

        part = shared + warp * Part::kBytes;
        Whole::place(at, sharedAddress(shared), lane);
        Part::place(part_at, sharedAddress(part), lane);
        query_at = at.down[0] + warp * Part::kBytes;
        keepInRegister(query_at);
        if (share > 0) beginWithShare();
        const T* const tensor = static_cast<const T*>(warp < kParts / 2 ? p.cache.k : p.cache.v);
        const int token = begin + warp % (kParts / 2) * kWarpRows;
        from = Part::source(globalAddress(tensor + cacheOffset(p.cache, queries.sequence, kv_head, token)), lane);
        if (share == 0) copyQueries();
        copyTile<0>(begin);
        if constexpr (!kLong) {
            waitForCopies<1>();
            __syncwarp();
            unrolled<kSteps>([&](auto step) { q[step] = queryRows<step>(); });
        }
        for (int tile = begin; tile < end;) {
            attendTile<0>(tile);
            if ((tile += kTokens) >= end) break;
            attendTile<1>(tile);
            tile += kTokens;
        }
    }

    __device__ __forceinline__ void finish() const {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int local = lane / 4 + half * 8;
            const int row = firstRow() + local;
            const int query = row / p.group_size;
            const int head = kv_head * p.group_size + row - query * p.group_size;
            float total = sum[half];
#pragma unroll
            for (int lanes = 1; lanes < 4; lanes *= 2) total += __shfl_xor_sync(kAllLanes, total, lanes);
            Partial partial = {maximum[half], total};
            float factor = 0.0f;  // for a query that sees no token
            if (total != 0.0f && row < rows()) {
                float other;
                factor = p.sinks != nullptr ? partial.merge({p.sinks[head] * kLog2E, 1.0f}, other) : 1.0f;
                factor /= partial.sum;
            }
#pragma unroll
            for (int n = 0; n < 2 * kOutSteps; n++) {
                *reinterpret_cast<uint32_t*>(chunk(local, share * 2 * kOutSteps + n) + lane % 4 * sizeof(uint32_t)) =
                    Element<T>::pack(out[n].c[2 * half] * factor, out[n].c[2 * half + 1] * factor);
            }
            const bool is_first = share == 0 && lane % 4 == 0;  // of those who have the row's sum
            if (p.lse != nullptr && is_first && row < rows()) p.lse[outRow(row)] = partial.logSumExp();
        }
        // By way of shared memory, so that a lane stores 16 bytes. Those who share rows store half of them each.
        if constexpr (kSharers > 1) {
            __syncthreads();
        } else {
            __syncwarp();
        }
        constexpr int kRows = kWarpRows / kSharers;
        for (int i = lane; i < kRows * Part::kChunks; i += 32) {
            const int local = share * kRows + i / Part::kChunks, c = i % Part::kChunks;
            if (firstRow() + local < rows()) {
                store(static_cast<T*>(p.out) + outRow(firstRow() + local) * kHeadDim + c * kPerVector,
                      *reinterpret_cast<const Vec16*>(chunk(local, c)));
            }
        }
    }

  private:
    // A chunk of one of the warp's 16 rows of output.
    __device__ __forceinline__ unsigned char* chunk(int row, int c) const {
        return part + (row * Part::kChunks + (c ^ Part::exchange(row))) * KV_VECTOR_BYTES;
    }

    __device__ __forceinline__ int64_t outRow(int row) const {
        const int query = row / p.group_size;
        const int64_t token = queries.first_token + query;
        return (token * p.num_kv_heads + kv_head) * p.group_size + row - query * p.group_size;
    }

    // Has values begin with the second half of V.
    __device__ __forceinline__ void beginWithShare() {
        uint32_t whole[Whole::kPairs];
#pragma unroll
        for (int i = 0; i < Whole::kPairs; i++) whole[i] = at.down[i];
#pragma unroll
        for (int i = 0; i < Whole::kPairs; i++) {
            const int step = i + kOutSteps;
            at.down[i] = whole[step % Whole::kPairs] + step / Whole::kPairs * Whole::kSet * KV_VECTOR_BYTES;
        }
    }

    // From one address, of which the others are made: registers are worth more.
    template <int kStep>
    __device__ __forceinline__ FragmentA queryRows() const {
        constexpr int kPair = kStep % Part::kPairs;
        typename Part::Lane rows_at;
        rows_at.down[kPair] = query_at ^ 2 * kPair * KV_VECTOR_BYTES;
        return Part::template keys<kQuerySlot, 0, kStep>(rows_at);
    }

    // Brings the warp's query rows to its part of a stage, zeros for rows that are not there.
    __device__ __forceinline__ void copyQueries() const {
        const bool packed = p.step.cu_seqlens != nullptr;
        unrolled<Part::kCopies>([&](auto i) {
            constexpr int kTo = kQuerySlot * Part::kBytes + i * 32 * KV_VECTOR_BYTES;
            const int local = (i * 32 + lane) / Part::kChunks, c = (i * 32 + lane) % Part::kChunks;
            const int row = min(firstRow() + local, rows() - 1);
            const int query = row / p.group_size;
            const int head = kv_head * p.group_size + row - query * p.group_size;
            const int64_t offset = tokenOffset(p.q, packed, queries.first_token, queries.sequence, query, head);
            const T* const x = static_cast<const T*>(p.q.data) + offset + c * kPerVector;
            copyAsyncOrZero<kTo, 0>(part_at.copy[i % Part::kPeriod], __cvta_generic_to_global(x),
                                    firstRow() + local < rows());
        });
        commitCopies();
    }

    // The warp's part of a tile; zeros for tokens that no row of the block sees.
    template <int kStage>
    __device__ __forceinline__ void copyTile(int tile) {
        if (tile < end && share == 0) {
            Part::template copy<kStage * kParts>(part_at, from, end - tile - warp % (kParts / 2) * kWarpRows, lane);
            from += kTokens * Part::kRowBytes;
        }
        commitCopies();
    }

    template <int kStage>
    __device__ __forceinline__ void attendTile(int tile) {
        waitForCopies<0>();
        __syncthreads();  // for all warps' parts, and until all are done with the tile before
        copyTile<1 - kStage>(tile + kTokens);
        // Whether any of the warp's rows sees any of it.
        if (tile >= last_end || (p.sliding_window > 0 && tile + kTokens <= first_end - p.sliding_window)) return;
        FragmentC scores[kTokens / 8];
        FragmentA weights[kTokens / 16];
        multiplyKeys<kStage>(scores);
        weigh(weights, scores, tile);
        multiplyValues<kStage>(weights);
    }

    template <int kStage>
    __device__ __forceinline__ void multiplyKeys(FragmentC (&scores)[kTokens / 8]) const {
#pragma unroll
        for (int n = 0; n < kTokens / 8; n++) scores[n] = {};
        unrolled<kSteps>([&](auto step) {
            FragmentA rows;
            if constexpr (kLong) {
                rows = queryRows<step>();
            } else {
                rows = q[step];
            }
            unrolled<kTokens / 16>([&](auto a) {
                const TwoB k = Whole::template keyColumns<2 * kStage, a * 16, step>(at);
                scores[2 * a] = multiplyAdd<T>(rows, k.first, scores[2 * a]);
                scores[2 * a + 1] = multiplyAdd<T>(rows, k.second, scores[2 * a + 1]);
            });
        });
    }

    template <int kStage>
    __device__ __forceinline__ void multiplyValues(const FragmentA (&weights)[kTokens / 16]) {
        unrolled<kTokens / 16>([&](auto a) {
            unrolled<kOutSteps>([&](auto step) {
                const TwoB v = Whole::template valueRows<2 * kStage + 1, a * 16, step>(at);
                out[2 * step] = multiplyAdd<T>(weights[a], v.first, out[2 * step]);
                out[2 * step + 1] = multiplyAdd<T>(weights[a], v.second, out[2 * step + 1]);
            });
        });
    }

    __device__ __forceinline__ void weigh(FragmentA (&weights)[kTokens / 16], FragmentC (&scores)[kTokens / 8],
                                          int tile) {
        const bool alike = tile + kTokens <= first_end && (p.sliding_window == 0 || tile >= last_end - p.sliding_window);
        if (p.soft_cap == 0.0f) {
            forScores([&](int n, int i) { scores[n].c[i] *= p.score_scale; });
        } else {
            forScores([&](int n, int i) {
                scores[n].c[i] = softCapped(scores[n].c[i] * p.score_scale, p.soft_cap, p.soft_cap_scale);
            });
        }
        if (!alike || p.alibi_slopes != nullptr) shapeScores(scores, tile);
        raiseMaximum(scores);
#pragma unroll
        for (int n = 0; n < kTokens / 8; n++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const float low = exp2Fast(scores[n].c[2 * half] - maximum[half]);
                const float high = exp2Fast(scores[n].c[2 * half + 1] - maximum[half]);
                sum[half] += low + high;
                weights[n / 2].pair[n % 2 * 2 + half] = Element<T>::pack(low, high);
            }
        }
    }

    __device__ __forceinline__ void raiseMaximum(const FragmentC (&scores)[kTokens / 8]) {
        float highest[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            highest[half] = maximum[half];
#pragma unroll
            for (int n = 0; n < kTokens / 8; n++) {
                highest[half] = fmaxf(highest[half], fmaxf(scores[n].c[2 * half], scores[n].c[2 * half + 1]));
            }
#pragma unroll
            for (int lanes = 1; lanes < 4; lanes *= 2) {  // those of the same row
                highest[half] = fmaxf(highest[half], __shfl_xor_sync(kAllLanes, highest[half], lanes));
            }
        }
        if (!__any_sync(kAllLanes, highest[0] > maximum[0] || highest[1] > maximum[1])) return;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float factor = exp2Fast(maximum[half] - highest[half]);
            maximum[half] = highest[half];
            sum[half] *= factor;
#pragma unroll
            for (int n = 0; n < 2 * kOutSteps; n++) {
                out[n].c[2 * half] *= factor;
                out[n].c[2 * half + 1] *= factor;
            }
        }
    }

    template <typename Body>
    static __device__ __forceinline__ void forScores(const Body& body) {
#pragma unroll
        for (int n = 0; n < kTokens / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) body(n, i);
    }

    // Scores of a tile that not all rows see alike: biased and masked.
    __device__ __forceinline__ void shapeScores(FragmentC (&scores)[kTokens / 8], int tile) const {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = min(firstRow() + lane / 4 + half * 8, rows() - 1);
            const int query = row / p.group_size;
            const int position = queries.first_position + query;
            const int oldest = p.sliding_window > 0 ? position - p.sliding_window + 1 : 0;
            float slope = 0.0f;
            if (p.alibi_slopes != nullptr) {
                slope = p.alibi_slopes[kv_head * p.group_size + row - query * p.group_size] * kLog2E;
            }
#pragma unroll
            for (int n = 0; n < kTokens / 8; n++) {
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    float& score = scores[n].c[2 * half + e];
                    const int token = tile + n * 8 + lane % 4 * 2 + e;
                    score -= slope * static_cast<float>(position - token);
                    if (token > position || token < oldest) score = minusInfinity();
                }
            }
        }
    }
};

template <typename T, int kHeadDim>
__device__ __forceinline__ void prefill(const KvPrefillParams& p) {
    extern __shared__ __align__(128) unsigned char shared[];
    // The last rows of a sequence see most tokens: they go first.
    __shared__ Queries queries;
    if (threadIdx.x == 0) queries = findQueries(p, p.row_tiles - 1 - static_cast<int>(blockIdx.x / p.num_kv_heads));
    __syncthreads();
    if (!queries.exist) return;
    WarpPrefill<T, kHeadDim> warp = {p, queries};
    warp.kv_head = blockIdx.x % p.num_kv_heads;
    warp.warp = warpInBlock() % WarpPrefill<T, kHeadDim>::kParts;
    warp.share = warpInBlock() / WarpPrefill<T, kHeadDim>::kParts;
    warp.lane = threadIdx.x % 32;
    warp.attend(shared);
    __syncthreads();  // nobody reads tiles any more
    warp.finish();
}

}  // namespace

// Of an element type and head dimension. Registers for three blocks of 128 threads on an SM, or one of 256.
#define KV_PREFILL(name, type, head_dim)                                                  \
    extern "C" __global__ void __maxnreg__(168)                                           \
        kv_prefill_##name##_d##head_dim(const __grid_constant__ KvPrefillParams params) { \
        prefill<type, head_dim>(params);                                                  \
    }
