//! Every refusal, and that its message names argument and value.

use kv_kernels::reference::{
    Append, BlockTable, CacheMap, ContiguousShape, Decode, Error, Merge, Options, PageOrder,
    PagedShape, Partial, Prefill, Rows, advance, append, decode, merge, prefill,
};

const SHAPE: ContiguousShape = ContiguousShape {
    batch: 2,
    num_kv_heads: 2,
    max_seq_len: 3,
    head_dim: 4,
};
const ROWS: Rows<'static> = Rows::Uniform {
    batch: 2,
    tokens: 1,
};

fn refused<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn maps() {
    for (shape, argument) in [
        (ContiguousShape { batch: 0, ..SHAPE }, "batch"),
        (
            ContiguousShape {
                num_kv_heads: 0,
                ..SHAPE
            },
            "num_kv_heads",
        ),
        (
            ContiguousShape {
                max_seq_len: 0,
                ..SHAPE
            },
            "max_seq_len",
        ),
        (
            ContiguousShape {
                head_dim: 0,
                ..SHAPE
            },
            "head_dim",
        ),
    ] {
        assert_eq!(
            refused(CacheMap::contiguous(shape)),
            format!("{argument} is 0; it must be at least 1")
        );
    }
    assert_eq!(
        refused(CacheMap::contiguous(ContiguousShape {
            head_dim: usize::MAX,
            ..SHAPE
        })),
        "the elements of cache are too many to be counted"
    );

    let shape = PagedShape {
        num_pages: 3,
        num_kv_heads: 1,
        page_size: 2,
        head_dim: 4,
        order: PageOrder::Nhd,
    };
    let table = |pages| BlockTable {
        pages,
        batch: 2,
        max_pages: 2,
    };
    assert_eq!(
        refused(CacheMap::paged(shape, table(&[0, 1, 2]))),
        "block_table has 3 elements where [batch, max_pages] asks for 4"
    );
    let map = CacheMap::paged(shape, table(&[0, 3, 2, -1])).unwrap();
    assert!(map.slot(0, 1).is_ok());
    assert_eq!(
        refused(map.slot(0, 2)),
        "block_table sends page 1 of sequence 0 to page 3; there are 3 pages"
    );
    assert_eq!(
        refused(map.vector(1, 0, 3)),
        "block_table sends page 1 of sequence 1 to page -1; there are 3 pages"
    );
    assert_eq!(
        refused(map.slot(2, 0)),
        "sequence 2 is out of range: there are 2"
    );
    assert_eq!(
        refused(map.slot(0, 4)),
        "token 4 is out of range: there are 4"
    );
    assert_eq!(
        refused(map.vector(0, 1, 0)),
        "head 1 is out of range: there are 1"
    );
}

#[test]
fn appends() {
    let map = CacheMap::contiguous(SHAPE).unwrap();
    let try_append = |cache: usize, k: usize, v: usize, rows, seq_lens: &[i32]| {
        append(Append {
            map: &map,
            k_cache: &mut vec![0u8; cache],
            v_cache: &mut vec![0u8; map.elements()],
            k: &vec![0; k],
            v: &vec![0; v],
            rows,
            seq_lens,
        })
    };
    assert!(try_append(48, 16, 16, ROWS, &[0, 0]).is_ok());
    for (result, message) in [
        (
            try_append(47, 16, 16, ROWS, &[0, 0]),
            "k_cache has 47 elements where the cache asks for 48",
        ),
        (
            try_append(48, 8, 16, ROWS, &[0, 0]),
            "k has 8 elements where [tokens, num_kv_heads, head_dim] asks for 16",
        ),
        (
            try_append(48, 16, 17, ROWS, &[0, 0]),
            "v has 17 elements where [tokens, num_kv_heads, head_dim] asks for 16",
        ),
        (
            try_append(48, 16, 16, ROWS, &[0]),
            "seq_lens is for 1 sequences, not 2",
        ),
        (
            try_append(48, 16, 16, ROWS, &[0, -1]),
            "seq_lens[1] is -1; it must not be negative",
        ),
        (
            try_append(
                48,
                16,
                16,
                Rows::Uniform {
                    batch: 1,
                    tokens: 2,
                },
                &[0, 0],
            ),
            "rows is for 1 sequences, not 2",
        ),
        (
            try_append(
                48,
                16,
                16,
                Rows::Ragged {
                    cu_seqlens: &[0, 2, 1],
                },
                &[0, 0],
            ),
            "cu_seqlens[2] is 1; the entries must begin with 0 and never go down",
        ),
        (
            try_append(
                48,
                16,
                16,
                Rows::Ragged {
                    cu_seqlens: &[1, 2, 3],
                },
                &[0, 0],
            ),
            "cu_seqlens[0] is 1; the entries must begin with 0 and never go down",
        ),
        (
            try_append(48, 16, 16, Rows::Ragged { cu_seqlens: &[] }, &[0, 0]),
            "batch is 0; it must be at least 1",
        ),
    ] {
        assert_eq!(refused(result), message);
    }
    assert_eq!(
        refused(advance(&mut [1, -2], ROWS, 3)),
        "seq_lens[1] is -2; it must not be negative"
    );
}

#[test]
fn a_bad_table_is_found_before_anything_is_written() {
    let map = CacheMap::paged(
        PagedShape {
            num_pages: 2,
            num_kv_heads: 1,
            page_size: 1,
            head_dim: 1,
            order: PageOrder::Hnd,
        },
        BlockTable {
            pages: &[0, 7],
            batch: 2,
            max_pages: 1,
        },
    )
    .unwrap();
    let mut k_cache = [0u8; 2];
    let mut v_cache = [0u8; 2];
    let result = append(Append {
        map: &map,
        k_cache: &mut k_cache,
        v_cache: &mut v_cache,
        k: &[1, 2],
        v: &[3, 4],
        rows: ROWS,
        seq_lens: &[0, 0],
    });
    assert!(matches!(result, Err(Error::Page { page: 7, .. })));
    assert_eq!((k_cache, v_cache), ([0, 0], [0, 0]));
}

#[test]
fn attention() {
    let map = CacheMap::contiguous(SHAPE).unwrap();
    let cache = vec![0.0f32; map.elements()];
    let try_decode = |q: usize, num_q_heads, kv_lens: &[i32], options| {
        decode(Decode {
            map: &map,
            k_cache: &cache,
            v_cache: &cache,
            q: &vec![0.0f32; q],
            rows: ROWS,
            num_q_heads,
            kv_lens,
            options,
        })
    };
    let plain = Options::default();
    assert!(try_decode(32, 4, &[1, 1], plain).is_ok());
    for num_q_heads in [0, 1, 3] {
        assert_eq!(
            refused(try_decode(8 * num_q_heads, num_q_heads, &[1, 1], plain)),
            format!("num_q_heads {num_q_heads} is not a positive multiple of num_kv_heads 2")
        );
    }
    assert_eq!(
        refused(try_decode(31, 4, &[1, 1], plain)),
        "q has 31 elements where [tokens, num_q_heads, head_dim] asks for 32"
    );
    assert_eq!(
        refused(try_decode(32, 4, &[1, 1, 1], plain)),
        "kv_lens is for 3 sequences, not 2"
    );
    for (options, message) in [
        (
            Options {
                softmax_scale: Some(f64::NAN),
                ..plain
            },
            "softmax_scale is NaN; allowed: finite",
        ),
        (
            Options {
                logits_soft_cap: Some(0.0),
                ..plain
            },
            "logits_soft_cap is 0; allowed: finite, above 0",
        ),
        (
            Options {
                sliding_window: Some(0),
                ..plain
            },
            "sliding_window is 0; it must be at least 1",
        ),
        (
            Options {
                sinks: Some(&[0.0; 3]),
                ..plain
            },
            "sinks has 3 elements where [num_q_heads] asks for 4",
        ),
        (
            Options {
                sinks: Some(&[0.0, 0.0, f32::INFINITY, 0.0]),
                ..plain
            },
            "sinks is inf; allowed: finite or -inf",
        ),
        (
            Options {
                alibi_slopes: Some(&[f32::NAN; 4]),
                ..plain
            },
            "alibi_slopes is NaN; allowed: finite",
        ),
    ] {
        assert_eq!(refused(try_decode(32, 4, &[1, 1], options)), message);
    }

    let result = prefill(Prefill {
        q: &cache,
        k: &cache[..1],
        v: &cache,
        rows: ROWS,
        num_q_heads: 6,
        num_kv_heads: 6,
        head_dim: 4,
        causal: true,
        options: plain,
    });
    assert_eq!(
        refused(result),
        "k has 1 elements where [tokens, num_kv_heads, head_dim] asks for 48"
    );

    let none: [Partial<'_, f32, f32>; 0] = [];
    assert_eq!(
        refused(merge(Merge {
            partials: &none,
            head_dim: 4
        })),
        "partials is 0; it must be at least 1"
    );
    assert_eq!(
        refused(merge(Merge {
            partials: &[Partial {
                out: &[0.0f32; 7],
                lse: &[0.0f32; 2]
            }],
            head_dim: 4
        })),
        "out has 7 elements where [queries, head_dim] asks for 8"
    );
}
