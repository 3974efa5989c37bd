// prefill over a cache of bf16. One element type a file, to be compiled side by side.
#include "prefill.cuh"

#define HEAD_DIM(head_dim) KV_PREFILL(bf16, __nv_bfloat16, head_dim)
KV_HEAD_DIMS(HEAD_DIM)
