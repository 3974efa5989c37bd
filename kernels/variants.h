/* What the kernels are built for: one for each element type and line of a table. The kernels expand the tables; build.rs
 * reads them line by line, for the launcher and the tests.
 */
#ifndef KV_VARIANTS_H
#define KV_VARIANTS_H

/* HEAD_DIM(elements of a vector) */
#define KV_HEAD_DIMS(HEAD_DIM) \
    HEAD_DIM(64)               \
    HEAD_DIM(80)               \
    HEAD_DIM(96)               \
    HEAD_DIM(112)              \
    HEAD_DIM(128)              \
    HEAD_DIM(192)              \
    HEAD_DIM(256)

/* Of decode: VARIANT(head dimension, query rows of a block). Blocks of 16 rows serve larger groups; beyond 128 elements their
 * accumulators do not fit the registers. */
#define KV_DECODE_VARIANTS(VARIANT) \
    VARIANT(64, 8)                  \
    VARIANT(80, 8)                  \
    VARIANT(96, 8)                  \
    VARIANT(112, 8)                 \
    VARIANT(128, 8)                 \
    VARIANT(192, 8)                 \
    VARIANT(256, 8)                 \
    VARIANT(64, 16)                 \
    VARIANT(80, 16)                 \
    VARIANT(96, 16)                 \
    VARIANT(112, 16)                \
    VARIANT(128, 16)

#endif
