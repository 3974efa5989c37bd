//! Parameter structs and limits of the kernels: `kernels/abi.h` in Rust.
//! Written by `cargo xtask abi`.
#![allow(dead_code, missing_docs)]

pub const KV_VECTOR_BYTES: u32 = 16;
pub const KV_MAX_GROUP_SIZE: u32 = 64;
pub const KV_MAX_QUERY_TOKENS: u32 = 8;
pub const KV_MAX_SEQ_LEN: u32 = 1073741824;
pub const KV_APPEND_THREADS: u32 = 256;
pub const KV_ADVANCE_THREADS: u32 = 128;
pub const KV_DECODE_THREADS: u32 = 128;
pub const KV_MERGE_THREADS: u32 = 128;
pub const KV_ROPE_THREADS: u32 = 128;
pub const KV_PREFILL_THREADS: u32 = 128;
pub const KV_QUANTIZE_THREADS: u32 = 256;
pub const KV_STATISTICS_THREADS: u32 = 128;
pub const KV_PREFILL_ROWS: u32 = 64;
pub const KV_ROPE_PASSES: u32 = 4;
pub const KV_QUANTIZE_PASSES: u32 = 4;
pub const KV_STATUS_CAPACITY: u32 = 1;
pub const KV_STATUS_SEQ_LEN: u32 = 2;
pub const KV_STATUS_TOKENS: u32 = 4;
pub const KV_STATUS_NON_FINITE: u32 = 8;
pub const KV_STATUS_COUNT_SHIFT: u32 = 8;
pub const KV_DTYPE_F16: u32 = 0;
pub const KV_DTYPE_BF16: u32 = 1;
pub const KV_DTYPE_INT8: u32 = 2;
pub const KV_DTYPE_FP8: u32 = 3;
pub const KV_STATISTICS_SUM: u32 = 0;
pub const KV_STATISTICS_MIN: u32 = 1;
pub const KV_STATISTICS_MAX: u32 = 2;
pub const KV_STATISTICS_COUNT: u32 = 3;
pub const KV_STATISTICS_NON_FINITE: u32 = 4;
pub const KV_STATISTICS_PLANES: u32 = 5;
#[doc = " One step as every layer sees it: the tokens each sequence holds before, and those it receives."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct KvStep {
    #[doc = " [batch] tokens cached before the step"]
    pub seq_lens: *const i32,
    #[doc = " [batch + 1] where each sequence's new tokens begin, or null: new_tokens for each"]
    pub cu_seqlens: *const i32,
    #[doc = " [batch] status words, or null"]
    pub status: *mut u32,
    pub batch: i32,
    pub new_tokens: i32,
    #[doc = " capacity of a sequence"]
    pub max_seq_len: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of KvStep"][::core::mem::size_of::<KvStep>() - 40usize];
    ["Alignment of KvStep"][::core::mem::align_of::<KvStep>() - 8usize];
    ["Offset of field: KvStep::seq_lens"][::core::mem::offset_of!(KvStep, seq_lens) - 0usize];
    ["Offset of field: KvStep::cu_seqlens"][::core::mem::offset_of!(KvStep, cu_seqlens) - 8usize];
    ["Offset of field: KvStep::status"][::core::mem::offset_of!(KvStep, status) - 16usize];
    ["Offset of field: KvStep::batch"][::core::mem::offset_of!(KvStep, batch) - 24usize];
    ["Offset of field: KvStep::new_tokens"][::core::mem::offset_of!(KvStep, new_tokens) - 28usize];
    ["Offset of field: KvStep::max_seq_len"]
        [::core::mem::offset_of!(KvStep, max_seq_len) - 32usize];
};
#[doc = " K and V of one layer. The vector of a token's KV head begins at\n     page * page_stride + head * head_stride + offset * token_stride\n in either; in a contiguous cache the page is the sequence and the offset the token's position."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct KvCache {
    pub k: *mut ::core::ffi::c_void,
    pub v: *mut ::core::ffi::c_void,
    #[doc = " where K has one byte an element: of each vector, in the vectors' order; else null"]
    pub k_scale: *mut f32,
    pub v_scale: *mut f32,
    #[doc = " [num_kv_heads, head_dim], what K was divided by before it was quantised; or null"]
    pub k_channel_scale: *const f32,
    pub v_channel_scale: *const f32,
    pub page_stride: i64,
    pub head_stride: i64,
    pub token_stride: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of KvCache"][::core::mem::size_of::<KvCache>() - 72usize];
    ["Alignment of KvCache"][::core::mem::align_of::<KvCache>() - 8usize];
    ["Offset of field: KvCache::k"][::core::mem::offset_of!(KvCache, k) - 0usize];
    ["Offset of field: KvCache::v"][::core::mem::offset_of!(KvCache, v) - 8usize];
    ["Offset of field: KvCache::k_scale"][::core::mem::offset_of!(KvCache, k_scale) - 16usize];
    ["Offset of field: KvCache::v_scale"][::core::mem::offset_of!(KvCache, v_scale) - 24usize];
    ["Offset of field: KvCache::k_channel_scale"]
        [::core::mem::offset_of!(KvCache, k_channel_scale) - 32usize];
    ["Offset of field: KvCache::v_channel_scale"]
        [::core::mem::offset_of!(KvCache, v_channel_scale) - 40usize];
    ["Offset of field: KvCache::page_stride"]
        [::core::mem::offset_of!(KvCache, page_stride) - 48usize];
    ["Offset of field: KvCache::head_stride"]
        [::core::mem::offset_of!(KvCache, head_stride) - 56usize];
    ["Offset of field: KvCache::token_stride"]
        [::core::mem::offset_of!(KvCache, token_stride) - 64usize];
};
#[doc = " Vectors of new tokens as the engine computed them, [batch, tokens, heads, head_dim] by strides. With cu_seqlens\n the tokens of all sequences follow each other token_stride apart, and batch_stride means nothing."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct KvTokens {
    pub data: *const ::core::ffi::c_void,
    pub batch_stride: i64,
    pub token_stride: i64,
    pub head_stride: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of KvTokens"][::core::mem::size_of::<KvTokens>() - 32usize];
    ["Alignment of KvTokens"][::core::mem::align_of::<KvTokens>() - 8usize];
    ["Offset of field: KvTokens::data"][::core::mem::offset_of!(KvTokens, data) - 0usize];
    ["Offset of field: KvTokens::batch_stride"]
        [::core::mem::offset_of!(KvTokens, batch_stride) - 8usize];
    ["Offset of field: KvTokens::token_stride"]
        [::core::mem::offset_of!(KvTokens, token_stride) - 16usize];
    ["Offset of field: KvTokens::head_stride"]
        [::core::mem::offset_of!(KvTokens, head_stride) - 24usize];
};
#[doc = " Rotary position embedding. Pair i turns by position * turns[i], or as the tables say; channels from rotary_dim on do\n not turn."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct KvRope {
    #[doc = " [rotary_dim / 2] turns a position, in units of 2^-64: what is beyond a whole turn wraps"]
    pub turns: *const u64,
    #[doc = " [table_positions, rotary_dim / 2], or null: computed from turns"]
    pub cos: *const f32,
    #[doc = " as cos"]
    pub sin: *const f32,
    pub table_positions: i32,
    #[doc = " 0: nothing turns"]
    pub rotary_dim: i32,
    #[doc = " pairs are channels 2i, 2i + 1; else i, i + rotary_dim / 2"]
    pub interleaved: i32,
    #[doc = " on cosine and sine computed from turns"]
    pub factor: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of KvRope"][::core::mem::size_of::<KvRope>() - 40usize];
    ["Alignment of KvRope"][::core::mem::align_of::<KvRope>() - 8usize];
    ["Offset of field: KvRope::turns"][::core::mem::offset_of!(KvRope, turns) - 0usize];
    ["Offset of field: KvRope::cos"][::core::mem::offset_of!(KvRope, cos) - 8usize];
    ["Offset of field: KvRope::sin"][::core::mem::offset_of!(KvRope, sin) - 16usize];
    ["Offset of field: KvRope::table_positions"]
        [::core::mem::offset_of!(KvRope, table_positions) - 24usize];
    ["Offset of field: KvRope::rotary_dim"][::core::mem::offset_of!(KvRope, rotary_dim) - 28usize];
    ["Offset of field: KvRope::interleaved"]
        [::core::mem::offset_of!(KvRope, interleaved) - 32usize];
    ["Offset of field: KvRope::factor"][::core::mem::offset_of!(KvRope, factor) - 36usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct KvAppendParams {
    pub step: KvStep,
    pub cache: KvCache,
    pub k_new: KvTokens,
    pub v_new: KvTokens,
    #[doc = " turns k_new, in the kernels that do"]
    pub rope: KvRope,
    #[doc = " KV_DTYPE_* of k_new and v_new, in the kernels that quantise"]
    pub element: i32,
    #[doc = " KV_DTYPE_* of the cache, in the same"]
    pub k_dtype: i32,
    pub v_dtype: i32,
    pub num_kv_heads: i32,
    #[doc = " new tokens of all sequences * num_kv_heads"]
    pub rows: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of KvAppendParams"][::core::mem::size_of::<KvAppendParams>() - 240usize];
    ["Alignment of KvAppendParams"][::core::mem::align_of::<KvAppendParams>() - 8usize];
    ["Offset of field: KvAppendParams::step"]
        [::core::mem::offset_of!(KvAppendParams, step) - 0usize];
    ["Offset of field: KvAppendParams::cache"]
        [::core::mem::offset_of!(KvAppendParams, cache) - 40usize];
    ["Offset of field: KvAppendParams::k_new"]
        [::core::mem::offset_of!(KvAppendParams, k_new) - 112usize];
    ["Offset of field: KvAppendParams::v_new"]
        [::core::mem::offset_of!(KvAppendParams, v_new) - 144usize];
    ["Offset of field: KvAppendParams::rope"]
        [::core::mem::offset_of!(KvAppendParams, rope) - 176usize];
    ["Offset of field: KvAppendParams::element"]
        [::core::mem::offset_of!(KvAppendParams, element) - 216usize];
    ["Offset of field: KvAppendParams::k_dtype"]
        [::core::mem::offset_of!(KvAppendParams, k_dtype) - 220usize];
    ["Offset of field: KvAppendParams::v_dtype"]
        [::core::mem::offset_of!(KvAppendParams, v_dtype) - 224usize];
    ["Offset of field: KvAppendParams::num_kv_heads"]
        [::core::mem::offset_of!(KvAppendParams, num_kv_heads) - 228usize];
    ["Offset of field: KvAppendParams::rows"]
        [::core::mem::offset_of!(KvAppendParams, rows) - 232usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct KvRopeParams {
    pub step: KvStep,
    pub rope: KvRope,
    #[doc = " turned in place, as is k; either has no heads where it is not given"]
    pub q: KvTokens,
    pub k: KvTokens,
    pub num_q_heads: i32,
    pub num_kv_heads: i32,
    #[doc = " of all sequences"]
    pub tokens: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of KvRopeParams"][::core::mem::size_of::<KvRopeParams>() - 160usize];
    ["Alignment of KvRopeParams"][::core::mem::align_of::<KvRopeParams>() - 8usize];
    ["Offset of field: KvRopeParams::step"][::core::mem::offset_of!(KvRopeParams, step) - 0usize];
    ["Offset of field: KvRopeParams::rope"][::core::mem::offset_of!(KvRopeParams, rope) - 40usize];
    ["Offset of field: KvRopeParams::q"][::core::mem::offset_of!(KvRopeParams, q) - 80usize];
    ["Offset of field: KvRopeParams::k"][::core::mem::offset_of!(KvRopeParams, k) - 112usize];
    ["Offset of field: KvRopeParams::num_q_heads"]
        [::core::mem::offset_of!(KvRopeParams, num_q_heads) - 144usize];
    ["Offset of field: KvRopeParams::num_kv_heads"]
        [::core::mem::offset_of!(KvRopeParams, num_kv_heads) - 148usize];
    ["Offset of field: KvRopeParams::tokens"]
        [::core::mem::offset_of!(KvRopeParams, tokens) - 152usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct KvAdvanceParams {
    #[doc = " its seq_lens are those below"]
    pub step: KvStep,
    #[doc = " [batch], changed"]
    pub seq_lens: *mut i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of KvAdvanceParams"][::core::mem::size_of::<KvAdvanceParams>() - 48usize];
    ["Alignment of KvAdvanceParams"][::core::mem::align_of::<KvAdvanceParams>() - 8usize];
    ["Offset of field: KvAdvanceParams::step"]
        [::core::mem::offset_of!(KvAdvanceParams, step) - 0usize];
    ["Offset of field: KvAdvanceParams::seq_lens"]
        [::core::mem::offset_of!(KvAdvanceParams, seq_lens) - 40usize];
};
#[doc = " A number that indices below 2^31 are divided by: the quotient is index * multiplier >> shift in 64 bits."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct KvDivisor {
    pub value: i32,
    pub multiplier: u32,
    pub shift: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of KvDivisor"][::core::mem::size_of::<KvDivisor>() - 12usize];
    ["Alignment of KvDivisor"][::core::mem::align_of::<KvDivisor>() - 4usize];
    ["Offset of field: KvDivisor::value"][::core::mem::offset_of!(KvDivisor, value) - 0usize];
    ["Offset of field: KvDivisor::multiplier"]
        [::core::mem::offset_of!(KvDivisor, multiplier) - 4usize];
    ["Offset of field: KvDivisor::shift"][::core::mem::offset_of!(KvDivisor, shift) - 8usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct KvDecodeParams {
    pub step: KvStep,
    pub cache: KvCache,
    #[doc = " query_tokens a sequence, num_kv_heads * group_size heads"]
    pub q: KvTokens,
    #[doc = " the step's new tokens, appended and attended to in the same launch; data null: they are cached"]
    pub k_new: KvTokens,
    pub v_new: KvTokens,
    #[doc = " turns q and k_new"]
    pub rope: KvRope,
    #[doc = " KV_DTYPE_* of q, k_new, v_new and out, where K and V are of another type"]
    pub element: i32,
    #[doc = " [batch, query_tokens, num_q_heads, head_dim]"]
    pub out: *mut ::core::ffi::c_void,
    #[doc = " [batch, query_tokens, num_q_heads], or null"]
    pub lse: *mut f32,
    #[doc = " what splits hand to the last of them, or null where there is one"]
    pub partials: *mut f32,
    #[doc = " [blocks / num_splits] splits that have handed over; 0 between launches"]
    pub arrivals: *mut u32,
    #[doc = " [num_q_heads], or null"]
    pub sinks: *const f32,
    #[doc = " [num_q_heads], or null"]
    pub alibi_slopes: *const f32,
    pub num_kv_heads: KvDivisor,
    pub group_size: KvDivisor,
    pub query_tokens: i32,
    #[doc = " blocks that share a KV head's query rows (query_tokens * group_size)"]
    pub row_groups: KvDivisor,
    pub num_splits: KvDivisor,
    #[doc = " tokens a query sees, its own included; 0 for all"]
    pub sliding_window: i32,
    #[doc = " softmax_scale * log2(e): the softmax works in base 2"]
    pub score_scale: f32,
    #[doc = " logits_soft_cap * log2(e), or 0"]
    pub soft_cap: f32,
    #[doc = " 2 / logits_soft_cap"]
    pub soft_cap_scale: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of KvDecodeParams"][::core::mem::size_of::<KvDecodeParams>() - 376usize];
    ["Alignment of KvDecodeParams"][::core::mem::align_of::<KvDecodeParams>() - 8usize];
    ["Offset of field: KvDecodeParams::step"]
        [::core::mem::offset_of!(KvDecodeParams, step) - 0usize];
    ["Offset of field: KvDecodeParams::cache"]
        [::core::mem::offset_of!(KvDecodeParams, cache) - 40usize];
    ["Offset of field: KvDecodeParams::q"][::core::mem::offset_of!(KvDecodeParams, q) - 112usize];
    ["Offset of field: KvDecodeParams::k_new"]
        [::core::mem::offset_of!(KvDecodeParams, k_new) - 144usize];
    ["Offset of field: KvDecodeParams::v_new"]
        [::core::mem::offset_of!(KvDecodeParams, v_new) - 176usize];
    ["Offset of field: KvDecodeParams::rope"]
        [::core::mem::offset_of!(KvDecodeParams, rope) - 208usize];
    ["Offset of field: KvDecodeParams::element"]
        [::core::mem::offset_of!(KvDecodeParams, element) - 248usize];
    ["Offset of field: KvDecodeParams::out"]
        [::core::mem::offset_of!(KvDecodeParams, out) - 256usize];
    ["Offset of field: KvDecodeParams::lse"]
        [::core::mem::offset_of!(KvDecodeParams, lse) - 264usize];
    ["Offset of field: KvDecodeParams::partials"]
        [::core::mem::offset_of!(KvDecodeParams, partials) - 272usize];
    ["Offset of field: KvDecodeParams::arrivals"]
        [::core::mem::offset_of!(KvDecodeParams, arrivals) - 280usize];
    ["Offset of field: KvDecodeParams::sinks"]
        [::core::mem::offset_of!(KvDecodeParams, sinks) - 288usize];
    ["Offset of field: KvDecodeParams::alibi_slopes"]
        [::core::mem::offset_of!(KvDecodeParams, alibi_slopes) - 296usize];
    ["Offset of field: KvDecodeParams::num_kv_heads"]
        [::core::mem::offset_of!(KvDecodeParams, num_kv_heads) - 304usize];
    ["Offset of field: KvDecodeParams::group_size"]
        [::core::mem::offset_of!(KvDecodeParams, group_size) - 316usize];
    ["Offset of field: KvDecodeParams::query_tokens"]
        [::core::mem::offset_of!(KvDecodeParams, query_tokens) - 328usize];
    ["Offset of field: KvDecodeParams::row_groups"]
        [::core::mem::offset_of!(KvDecodeParams, row_groups) - 332usize];
    ["Offset of field: KvDecodeParams::num_splits"]
        [::core::mem::offset_of!(KvDecodeParams, num_splits) - 344usize];
    ["Offset of field: KvDecodeParams::sliding_window"]
        [::core::mem::offset_of!(KvDecodeParams, sliding_window) - 356usize];
    ["Offset of field: KvDecodeParams::score_scale"]
        [::core::mem::offset_of!(KvDecodeParams, score_scale) - 360usize];
    ["Offset of field: KvDecodeParams::soft_cap"]
        [::core::mem::offset_of!(KvDecodeParams, soft_cap) - 364usize];
    ["Offset of field: KvDecodeParams::soft_cap_scale"]
        [::core::mem::offset_of!(KvDecodeParams, soft_cap_scale) - 368usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct KvMergeParams {
    #[doc = " [parts, rows, head_dim]"]
    pub outs: *const ::core::ffi::c_void,
    #[doc = " [parts, rows]"]
    pub lses: *const f32,
    #[doc = " [rows, head_dim]"]
    pub out: *mut ::core::ffi::c_void,
    #[doc = " [rows], or null"]
    pub lse: *mut f32,
    pub rows: i64,
    pub parts: i32,
    pub head_dim: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of KvMergeParams"][::core::mem::size_of::<KvMergeParams>() - 48usize];
    ["Alignment of KvMergeParams"][::core::mem::align_of::<KvMergeParams>() - 8usize];
    ["Offset of field: KvMergeParams::outs"][::core::mem::offset_of!(KvMergeParams, outs) - 0usize];
    ["Offset of field: KvMergeParams::lses"][::core::mem::offset_of!(KvMergeParams, lses) - 8usize];
    ["Offset of field: KvMergeParams::out"][::core::mem::offset_of!(KvMergeParams, out) - 16usize];
    ["Offset of field: KvMergeParams::lse"][::core::mem::offset_of!(KvMergeParams, lse) - 24usize];
    ["Offset of field: KvMergeParams::rows"]
        [::core::mem::offset_of!(KvMergeParams, rows) - 32usize];
    ["Offset of field: KvMergeParams::parts"]
        [::core::mem::offset_of!(KvMergeParams, parts) - 40usize];
    ["Offset of field: KvMergeParams::head_dim"]
        [::core::mem::offset_of!(KvMergeParams, head_dim) - 44usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct KvPrefillParams {
    pub step: KvStep,
    pub cache: KvCache,
    #[doc = " a query for each new token, num_kv_heads * group_size heads"]
    pub q: KvTokens,
    #[doc = " [tokens, num_q_heads, head_dim]"]
    pub out: *mut ::core::ffi::c_void,
    #[doc = " [tokens, num_q_heads], or null"]
    pub lse: *mut f32,
    #[doc = " [num_q_heads], or null"]
    pub sinks: *const f32,
    #[doc = " [num_q_heads], or null"]
    pub alibi_slopes: *const f32,
    pub num_kv_heads: i32,
    pub group_size: i32,
    #[doc = " of all sequences"]
    pub tokens: i32,
    #[doc = " blocks of a KV head"]
    pub row_tiles: i32,
    #[doc = " as in KvDecodeParams, to the end"]
    pub sliding_window: i32,
    pub score_scale: f32,
    pub soft_cap: f32,
    pub soft_cap_scale: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of KvPrefillParams"][::core::mem::size_of::<KvPrefillParams>() - 208usize];
    ["Alignment of KvPrefillParams"][::core::mem::align_of::<KvPrefillParams>() - 8usize];
    ["Offset of field: KvPrefillParams::step"]
        [::core::mem::offset_of!(KvPrefillParams, step) - 0usize];
    ["Offset of field: KvPrefillParams::cache"]
        [::core::mem::offset_of!(KvPrefillParams, cache) - 40usize];
    ["Offset of field: KvPrefillParams::q"][::core::mem::offset_of!(KvPrefillParams, q) - 112usize];
    ["Offset of field: KvPrefillParams::out"]
        [::core::mem::offset_of!(KvPrefillParams, out) - 144usize];
    ["Offset of field: KvPrefillParams::lse"]
        [::core::mem::offset_of!(KvPrefillParams, lse) - 152usize];
    ["Offset of field: KvPrefillParams::sinks"]
        [::core::mem::offset_of!(KvPrefillParams, sinks) - 160usize];
    ["Offset of field: KvPrefillParams::alibi_slopes"]
        [::core::mem::offset_of!(KvPrefillParams, alibi_slopes) - 168usize];
    ["Offset of field: KvPrefillParams::num_kv_heads"]
        [::core::mem::offset_of!(KvPrefillParams, num_kv_heads) - 176usize];
    ["Offset of field: KvPrefillParams::group_size"]
        [::core::mem::offset_of!(KvPrefillParams, group_size) - 180usize];
    ["Offset of field: KvPrefillParams::tokens"]
        [::core::mem::offset_of!(KvPrefillParams, tokens) - 184usize];
    ["Offset of field: KvPrefillParams::row_tiles"]
        [::core::mem::offset_of!(KvPrefillParams, row_tiles) - 188usize];
    ["Offset of field: KvPrefillParams::sliding_window"]
        [::core::mem::offset_of!(KvPrefillParams, sliding_window) - 192usize];
    ["Offset of field: KvPrefillParams::score_scale"]
        [::core::mem::offset_of!(KvPrefillParams, score_scale) - 196usize];
    ["Offset of field: KvPrefillParams::soft_cap"]
        [::core::mem::offset_of!(KvPrefillParams, soft_cap) - 200usize];
    ["Offset of field: KvPrefillParams::soft_cap_scale"]
        [::core::mem::offset_of!(KvPrefillParams, soft_cap_scale) - 204usize];
};
#[doc = " The vectors of K, or of V, that an operation covers: of [batch, num_kv_heads, max_seq_len, head_dim] the tokens first,\n …, first + tokens - 1 of each sequence, and of those the ones from its `from` to before its `to`."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct KvSpan {
    #[doc = " [batch], or null: from the first"]
    pub from: *const i32,
    #[doc = " [batch], or null: to the last"]
    pub to: *const i32,
    pub tokens: KvDivisor,
    pub num_kv_heads: KvDivisor,
    pub batch: i32,
    pub first: i32,
    pub max_seq_len: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of KvSpan"][::core::mem::size_of::<KvSpan>() - 56usize];
    ["Alignment of KvSpan"][::core::mem::align_of::<KvSpan>() - 8usize];
    ["Offset of field: KvSpan::from"][::core::mem::offset_of!(KvSpan, from) - 0usize];
    ["Offset of field: KvSpan::to"][::core::mem::offset_of!(KvSpan, to) - 8usize];
    ["Offset of field: KvSpan::tokens"][::core::mem::offset_of!(KvSpan, tokens) - 16usize];
    ["Offset of field: KvSpan::num_kv_heads"]
        [::core::mem::offset_of!(KvSpan, num_kv_heads) - 28usize];
    ["Offset of field: KvSpan::batch"][::core::mem::offset_of!(KvSpan, batch) - 40usize];
    ["Offset of field: KvSpan::first"][::core::mem::offset_of!(KvSpan, first) - 44usize];
    ["Offset of field: KvSpan::max_seq_len"]
        [::core::mem::offset_of!(KvSpan, max_seq_len) - 48usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct KvQuantizeParams {
    pub span: KvSpan,
    #[doc = " fp16 or bf16; what dequantize writes"]
    pub elements: *mut ::core::ffi::c_void,
    #[doc = " a byte an element; what quantize writes"]
    pub payload: *mut ::core::ffi::c_void,
    #[doc = " [batch, num_kv_heads, max_seq_len]"]
    pub scales: *mut f32,
    #[doc = " [num_kv_heads, head_dim], or null"]
    pub channel_scale: *const f32,
    #[doc = " [batch] status words, or null"]
    pub status: *mut u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of KvQuantizeParams"][::core::mem::size_of::<KvQuantizeParams>() - 96usize];
    ["Alignment of KvQuantizeParams"][::core::mem::align_of::<KvQuantizeParams>() - 8usize];
    ["Offset of field: KvQuantizeParams::span"]
        [::core::mem::offset_of!(KvQuantizeParams, span) - 0usize];
    ["Offset of field: KvQuantizeParams::elements"]
        [::core::mem::offset_of!(KvQuantizeParams, elements) - 56usize];
    ["Offset of field: KvQuantizeParams::payload"]
        [::core::mem::offset_of!(KvQuantizeParams, payload) - 64usize];
    ["Offset of field: KvQuantizeParams::scales"]
        [::core::mem::offset_of!(KvQuantizeParams, scales) - 72usize];
    ["Offset of field: KvQuantizeParams::channel_scale"]
        [::core::mem::offset_of!(KvQuantizeParams, channel_scale) - 80usize];
    ["Offset of field: KvQuantizeParams::status"]
        [::core::mem::offset_of!(KvQuantizeParams, status) - 88usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct KvCalibrateParams {
    pub span: KvSpan,
    pub elements: *const ::core::ffi::c_void,
    #[doc = " [num_kv_heads, head_dim] bits of the largest magnitudes so far, raised"]
    pub absmax: *mut u32,
    #[doc = " [num_kv_heads, head_dim] the same as numbers, 1 for 0"]
    pub scales: *mut f32,
    #[doc = " blocks that are done; 0 between launches"]
    pub arrivals: *mut u32,
    #[doc = " blocks that share a KV head's vectors"]
    pub parts: i32,
    #[doc = " vectors of each"]
    pub part: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of KvCalibrateParams"][::core::mem::size_of::<KvCalibrateParams>() - 96usize];
    ["Alignment of KvCalibrateParams"][::core::mem::align_of::<KvCalibrateParams>() - 8usize];
    ["Offset of field: KvCalibrateParams::span"]
        [::core::mem::offset_of!(KvCalibrateParams, span) - 0usize];
    ["Offset of field: KvCalibrateParams::elements"]
        [::core::mem::offset_of!(KvCalibrateParams, elements) - 56usize];
    ["Offset of field: KvCalibrateParams::absmax"]
        [::core::mem::offset_of!(KvCalibrateParams, absmax) - 64usize];
    ["Offset of field: KvCalibrateParams::scales"]
        [::core::mem::offset_of!(KvCalibrateParams, scales) - 72usize];
    ["Offset of field: KvCalibrateParams::arrivals"]
        [::core::mem::offset_of!(KvCalibrateParams, arrivals) - 80usize];
    ["Offset of field: KvCalibrateParams::parts"]
        [::core::mem::offset_of!(KvCalibrateParams, parts) - 88usize];
    ["Offset of field: KvCalibrateParams::part"]
        [::core::mem::offset_of!(KvCalibrateParams, part) - 92usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct KvStatisticsParams {
    pub span: KvSpan,
    pub elements: *const ::core::ffi::c_void,
    #[doc = " [KV_STATISTICS_PLANES, parts, num_kv_heads, head_dim]"]
    pub found: *mut f64,
    #[doc = " blocks that share a KV head's vectors"]
    pub parts: i32,
    #[doc = " vectors of each"]
    pub part: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of KvStatisticsParams"][::core::mem::size_of::<KvStatisticsParams>() - 80usize];
    ["Alignment of KvStatisticsParams"][::core::mem::align_of::<KvStatisticsParams>() - 8usize];
    ["Offset of field: KvStatisticsParams::span"]
        [::core::mem::offset_of!(KvStatisticsParams, span) - 0usize];
    ["Offset of field: KvStatisticsParams::elements"]
        [::core::mem::offset_of!(KvStatisticsParams, elements) - 56usize];
    ["Offset of field: KvStatisticsParams::found"]
        [::core::mem::offset_of!(KvStatisticsParams, found) - 64usize];
    ["Offset of field: KvStatisticsParams::parts"]
        [::core::mem::offset_of!(KvStatisticsParams, parts) - 72usize];
    ["Offset of field: KvStatisticsParams::part"]
        [::core::mem::offset_of!(KvStatisticsParams, part) - 76usize];
};
