/* What the host and the kernels agree on: limits, status flags, and one parameter structure a kernel.
 *
 * Plain C and nothing but <stdint.h>: nvcc reads it for the kernels, `cargo xtask abi` for the host (src/abi.rs).
 * All strides count elements, not bytes.
 */
#ifndef KV_ABI_H
#define KV_ABI_H

#include <stdint.h>

/* Bytes one thread moves at a time; base addresses and row strides are multiples of it. */
#define KV_VECTOR_BYTES 16

/* Most query heads that may share one KV head. */
#define KV_MAX_GROUP_SIZE 64

/* Most query tokens a sequence in one step of attention. */
#define KV_MAX_QUERY_TOKENS 8

/* Largest capacity of a sequence, in tokens. Half of what an int32_t holds, so that a length plus a step's new
 * tokens cannot overflow it. Offsets into a cache are 64-bit. */
#define KV_MAX_SEQ_LEN 1073741824

/* Threads of a block. */
#define KV_APPEND_THREADS 256
#define KV_ADVANCE_THREADS 128
#define KV_DECODE_THREADS 128
#define KV_MERGE_THREADS 128
#define KV_ROPE_THREADS 128
#define KV_PREFILL_THREADS 128
#define KV_QUANTIZE_THREADS 256
#define KV_STATISTICS_THREADS 128

/* Query rows (heads of query tokens) that a block of prefill takes. */
#define KV_PREFILL_ROWS 64

/* Most heads of a token that one thread of rope, or of append with rope, turns. */
#define KV_ROPE_PASSES 4

/* Vectors that the lanes of one take in quantize and dequantize. */
#define KV_QUANTIZE_PASSES 4

/* Flags of a sequence's status word. */
#define KV_STATUS_CAPACITY 1 /* the step would have passed max_seq_len: nothing was appended to this sequence */
#define KV_STATUS_SEQ_LEN 2  /* its length is negative or above max_seq_len: it is taken for empty */
#define KV_STATUS_TOKENS 4   /* cu_seqlens gives it a negative number of new tokens: none were appended */
#define KV_STATUS_NON_FINITE 8 /* NaN or infinity was quantised, and counted from this bit on: */
#define KV_STATUS_COUNT_SHIFT 8 /* elements quantised that were not finite, modulo 2^24 */

/* What an element is, where a kernel learns it at the launch. */
#define KV_DTYPE_F16 0
#define KV_DTYPE_BF16 1
#define KV_DTYPE_INT8 2 /* with a scale for each vector, as is */
#define KV_DTYPE_FP8 3  /* e4m3 */

/* One step as every layer sees it: the tokens each sequence holds before, and those it receives. */
typedef struct KvStep {
    const int32_t *seq_lens;   /* [batch] tokens cached before the step */
    const int32_t *cu_seqlens; /* [batch + 1] where each sequence's new tokens begin, or null: new_tokens for each */
    uint32_t *status;          /* [batch] status words, or null */
    int32_t batch;
    int32_t new_tokens;
    int32_t max_seq_len;       /* capacity of a sequence */
} KvStep;

/* K and V of one layer. The vector of a token's KV head begins at
 *     page * page_stride + head * head_stride + offset * token_stride
 * in either; in a contiguous cache the page is the sequence and the offset the token's position. */
typedef struct KvCache {
    void *k;
    void *v;
    float *k_scale; /* where K has one byte an element: of each vector, in the vectors' order; else null */
    float *v_scale;
    const float *k_channel_scale; /* [num_kv_heads, head_dim], what K was divided by before it was quantised; or null */
    const float *v_channel_scale;
    int64_t page_stride;
    int64_t head_stride;
    int64_t token_stride;
} KvCache;

/* Vectors of new tokens as the engine computed them, [batch, tokens, heads, head_dim] by strides. With cu_seqlens
 * the tokens of all sequences follow each other token_stride apart, and batch_stride means nothing. */
typedef struct KvTokens {
    const void *data;
    int64_t batch_stride;
    int64_t token_stride;
    int64_t head_stride;
} KvTokens;

/* Rotary position embedding. Pair i turns by position * turns[i], or as the tables say; channels from rotary_dim on do
 * not turn. */
typedef struct KvRope {
    const uint64_t *turns; /* [rotary_dim / 2] turns a position, in units of 2^-64: what is beyond a whole turn wraps */
    const float *cos;      /* [table_positions, rotary_dim / 2], or null: computed from turns */
    const float *sin;      /* as cos */
    int32_t table_positions;
    int32_t rotary_dim;  /* 0: nothing turns */
    int32_t interleaved; /* pairs are channels 2i, 2i + 1; else i, i + rotary_dim / 2 */
    float factor;        /* on cosine and sine computed from turns */
} KvRope;

typedef struct KvAppendParams {
    KvStep step;
    KvCache cache;
    KvTokens k_new;
    KvTokens v_new;
    KvRope rope; /* turns k_new, in the kernels that do */
    int32_t element; /* KV_DTYPE_* of k_new and v_new, in the kernels that quantise */
    int32_t k_dtype; /* KV_DTYPE_* of the cache, in the same */
    int32_t v_dtype;
    int32_t num_kv_heads;
    int32_t rows; /* new tokens of all sequences * num_kv_heads */
} KvAppendParams;

typedef struct KvRopeParams {
    KvStep step;
    KvRope rope;
    KvTokens q; /* turned in place, as is k; either has no heads where it is not given */
    KvTokens k;
    int32_t num_q_heads;
    int32_t num_kv_heads;
    int32_t tokens; /* of all sequences */
} KvRopeParams;

typedef struct KvAdvanceParams {
    KvStep step;       /* its seq_lens are those below */
    int32_t *seq_lens; /* [batch], changed */
} KvAdvanceParams;

/* A number that indices below 2^31 are divided by: the quotient is index * multiplier >> shift in 64 bits. */
typedef struct KvDivisor {
    int32_t value;
    uint32_t multiplier;
    int32_t shift;
} KvDivisor;

typedef struct KvDecodeParams {
    KvStep step;
    KvCache cache;
    KvTokens q; /* query_tokens a sequence, num_kv_heads * group_size heads */
    KvTokens k_new; /* the step's new tokens, appended and attended to in the same launch; data null: they are cached */
    KvTokens v_new;
    KvRope rope;               /* turns q and k_new */
    int32_t element;           /* KV_DTYPE_* of q, k_new, v_new and out, where K and V are of another type */
    void *out;                 /* [batch, query_tokens, num_q_heads, head_dim] */
    float *lse;                /* [batch, query_tokens, num_q_heads], or null */
    float *partials;           /* what splits hand to the last of them, or null where there is one */
    uint32_t *arrivals;        /* [blocks / num_splits] splits that have handed over; 0 between launches */
    const float *sinks;        /* [num_q_heads], or null */
    const float *alibi_slopes; /* [num_q_heads], or null */
    KvDivisor num_kv_heads;
    KvDivisor group_size;
    int32_t query_tokens;
    KvDivisor row_groups; /* blocks that share a KV head's query rows (query_tokens * group_size) */
    KvDivisor num_splits;
    int32_t sliding_window; /* tokens a query sees, its own included; 0 for all */
    float score_scale;      /* softmax_scale * log2(e): the softmax works in base 2 */
    float soft_cap;         /* logits_soft_cap * log2(e), or 0 */
    float soft_cap_scale;   /* 2 / logits_soft_cap */
} KvDecodeParams;

typedef struct KvMergeParams {
    const void *outs;  /* [parts, rows, head_dim] */
    const float *lses; /* [parts, rows] */
    void *out;         /* [rows, head_dim] */
    float *lse;        /* [rows], or null */
    int64_t rows;
    int32_t parts;
    int32_t head_dim;
} KvMergeParams;

typedef struct KvPrefillParams {
    KvStep step;
    KvCache cache;
    KvTokens q;                /* a query for each new token, num_kv_heads * group_size heads */
    void *out;                 /* [tokens, num_q_heads, head_dim] */
    float *lse;                /* [tokens, num_q_heads], or null */
    const float *sinks;        /* [num_q_heads], or null */
    const float *alibi_slopes; /* [num_q_heads], or null */
    int32_t num_kv_heads;
    int32_t group_size;
    int32_t tokens;         /* of all sequences */
    int32_t row_tiles;      /* blocks of a KV head */
    int32_t sliding_window; /* as in KvDecodeParams, to the end */
    float score_scale;
    float soft_cap;
    float soft_cap_scale;
} KvPrefillParams;

/* The vectors of K, or of V, that an operation covers: of [batch, num_kv_heads, max_seq_len, head_dim] the tokens first,
 * …, first + tokens - 1 of each sequence, and of those the ones from its `from` to before its `to`. */
typedef struct KvSpan {
    const int32_t *from; /* [batch], or null: from the first */
    const int32_t *to;   /* [batch], or null: to the last */
    KvDivisor tokens;
    KvDivisor num_kv_heads;
    int32_t batch;
    int32_t first;
    int32_t max_seq_len;
} KvSpan;

typedef struct KvQuantizeParams {
    KvSpan span;
    void *elements;             /* fp16 or bf16; what dequantize writes */
    void *payload;              /* a byte an element; what quantize writes */
    float *scales;              /* [batch, num_kv_heads, max_seq_len] */
    const float *channel_scale; /* [num_kv_heads, head_dim], or null */
    uint32_t *status;           /* [batch] status words, or null */
} KvQuantizeParams;

typedef struct KvCalibrateParams {
    KvSpan span;
    const void *elements;
    uint32_t *absmax;   /* [num_kv_heads, head_dim] bits of the largest magnitudes so far, raised */
    float *scales;      /* [num_kv_heads, head_dim] the same as numbers, 1 for 0 */
    uint32_t *arrivals; /* blocks that are done; 0 between launches */
    int32_t parts;      /* blocks that share a KV head's vectors */
    int32_t part;       /* vectors of each */
} KvCalibrateParams;

/* What a block finds of a channel, a plane each. */
#define KV_STATISTICS_SUM 0
#define KV_STATISTICS_MIN 1
#define KV_STATISTICS_MAX 2
#define KV_STATISTICS_COUNT 3      /* of finite elements */
#define KV_STATISTICS_NON_FINITE 4 /* of the others */
#define KV_STATISTICS_PLANES 5

typedef struct KvStatisticsParams {
    KvSpan span;
    const void *elements;
    double *found; /* [KV_STATISTICS_PLANES, parts, num_kv_heads, head_dim] */
    int32_t parts; /* blocks that share a KV head's vectors */
    int32_t part;  /* vectors of each */
} KvStatisticsParams;

#endif
