//! What attention refuses besides slices: options, query tokens, splits and steps, and what the refusal says.

use half::f16;
use kv_kernels::{
    CacheShape, Decode, DecodeShape, Dtype, KvCache, Lengths, NewTokens, Workspace, WorkspaceSize,
};

use crate::harness::{Device, another_context, device, upload};

const SHAPE: CacheShape = CacheShape {
    batch: 2,
    num_kv_heads: 2,
    max_seq_len: 300,
    head_dim: 64,
};
const NUM_Q_HEADS: usize = 4;

/// Launches a decode of `query_tokens` queries with these options: it is refused, with this message.
#[track_caller]
fn refused(
    query_tokens: usize,
    options: impl for<'a> FnOnce(Decode<'a, f16>) -> Decode<'a, f16>,
    message: &str,
) {
    let Device {
        stream, kernels, ..
    } = device();
    let cache = KvCache::<f16>::new(stream, SHAPE).expect("a cache");
    let lengths = Lengths::new(stream, SHAPE.batch, SHAPE.max_seq_len).expect("lengths");
    let step = lengths.step(NewTokens::Each(0)).expect("a step");
    let elements = SHAPE.batch * query_tokens.max(1) * NUM_Q_HEADS * SHAPE.head_dim;
    let q = upload(&vec![f16::ONE; elements]);
    let mut out = upload(&vec![f16::ONE; elements]);
    let decode = kernels
        .decode(&q, NUM_Q_HEADS, &cache, step, &mut out)
        .query_tokens(query_tokens);
    match options(decode).launch(stream) {
        Ok(()) => panic!("not refused: {message}"),
        Err(error) => assert_eq!(error.to_string(), message),
    }
}

#[test]
fn factors() {
    for (scale, message) in [
        (f32::NAN, "softmax_scale is NaN: it must be finite"),
        (f32::INFINITY, "softmax_scale is inf: it must be finite"),
    ] {
        refused(1, |decode| decode.softmax_scale(scale), message);
    }
    for (cap, message) in [
        (f32::NAN, "logits_soft_cap is NaN: it must be finite"),
        (0.0, "logits_soft_cap is 0: it must be above 0"),
        (-3.5, "logits_soft_cap is -3.5: it must be above 0"),
    ] {
        refused(1, |decode| decode.logits_soft_cap(cap), message);
    }
}

#[test]
fn counts() {
    refused(
        0,
        |decode| decode,
        "query_tokens is 0: it must be at least 1",
    );
    refused(
        9,
        |decode| decode,
        "query_tokens is 9: at most 8 can be indexed",
    );
    refused(
        1,
        |decode| decode.sliding_window(0),
        "sliding_window is 0: it must be at least 1",
    );
    refused(
        1,
        |decode| decode.sliding_window(1 << 31),
        "sliding_window is 2147483648: at most 1073741824 can be indexed",
    );
    refused(
        1,
        |decode| decode.num_splits(0),
        "num_splits is 0: it must be at least 1",
    );
    refused(
        1,
        |decode| decode.num_splits(1 << 30),
        "num_splits * blocks of a split is 4294967296: at most 2147483647 can be indexed",
    );
}

#[test]
fn splits_without_room() {
    refused(
        1,
        |decode| decode.num_splits(2),
        "workspace holds 0 partials and 0 arrivals: 2 splits need 4352 and 4",
    );
    let Device {
        stream, kernels, ..
    } = device();
    let size = WorkspaceSize {
        partials: 4351,
        arrivals: 4,
    };
    let mut workspace = Workspace::new(stream, size).expect("a workspace");
    let cache = KvCache::<f16>::new(stream, SHAPE).expect("a cache");
    let lengths = Lengths::new(stream, SHAPE.batch, SHAPE.max_seq_len).expect("lengths");
    let step = lengths.step(NewTokens::Each(0)).expect("a step");
    let q = upload(&[f16::ONE; 2 * NUM_Q_HEADS * 64]);
    let mut out = upload(&[f16::ONE; 2 * NUM_Q_HEADS * 64]);
    let error = kernels
        .decode(&q, NUM_Q_HEADS, &cache, step, &mut out)
        .workspace(&mut workspace)
        .num_splits(2)
        .launch(stream)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "workspace holds 4351 partials and 4 arrivals: 2 splits need 4352 and 4"
    );
    // A plan of its own keeps to what there is.
    let plan = kernels
        .decode(&q, NUM_Q_HEADS, &cache, step, &mut out)
        .workspace(&mut workspace)
        .plan()
        .expect("a plan");
    assert_eq!(plan.num_splits, 1);
    let shape = DecodeShape {
        cache: SHAPE,
        dtype: Dtype::F16,
        k_dtype: Dtype::F16,
        v_dtype: Dtype::F16,
        num_q_heads: NUM_Q_HEADS,
        query_tokens: 1,
        sliding_window: None,
    };
    let size = kernels.workspace_size(&shape).expect("a size");
    let mut workspace = Workspace::new(stream, size).expect("a workspace");
    let decode = kernels
        .decode(&q, NUM_Q_HEADS, &cache, step, &mut out)
        .workspace(&mut workspace);
    assert_eq!(decode.plan(), shape.plan(kernels.gpu()));
    decode.launch(stream).expect("room");
}

#[test]
fn numbers_of_each_head() {
    let Device {
        stream, kernels, ..
    } = device();
    let cache = KvCache::<f16>::new(stream, SHAPE).expect("a cache");
    let lengths = Lengths::new(stream, SHAPE.batch, SHAPE.max_seq_len).expect("lengths");
    let step = lengths.step(NewTokens::Each(0)).expect("a step");
    let q = upload(&[f16::ONE; 2 * NUM_Q_HEADS * 64]);
    let mut out = upload(&[f16::ONE; 2 * NUM_Q_HEADS * 64]);
    let short = stream.alloc_zeros::<f32>(3).expect("allocation");
    let other = another_context();
    let foreign = other
        .new_stream()
        .and_then(|stream| stream.alloc_zeros::<f32>(NUM_Q_HEADS))
        .expect("allocation");
    let foreign_message = "belongs to another CUDA context than the kernels";
    for (slice, what) in [
        (&short, "has 3 elements: its shape [4] has 4"),
        (&foreign, foreign_message),
    ] {
        let error = kernels
            .decode(&q, NUM_Q_HEADS, &cache, step, &mut out)
            .sinks(slice)
            .launch(stream)
            .unwrap_err();
        assert_eq!(error.to_string(), format!("sinks {what}"));
        let error = kernels
            .decode(&q, NUM_Q_HEADS, &cache, step, &mut out)
            .alibi_slopes(slice)
            .launch(stream)
            .unwrap_err();
        assert_eq!(error.to_string(), format!("alibi_slopes {what}"));
    }
}

#[test]
fn steps_that_one_launch_cannot_append() {
    let Device {
        stream, kernels, ..
    } = device();
    let mut cache = KvCache::<f16>::new(stream, SHAPE).expect("a cache");
    let lengths = Lengths::new(stream, SHAPE.batch, SHAPE.max_seq_len).expect("lengths");
    let cu_seqlens = stream.clone_htod(&[0, 1, 2]).expect("upload");
    let packed = NewTokens::Packed {
        cu_seqlens: &cu_seqlens,
        total: 2,
    };
    let kv = upload(&[f16::ONE; 2 * 9 * 2 * 64]);
    let q = upload(&[f16::ONE; 2 * 9 * NUM_Q_HEADS * 64]);
    let mut out = upload(&[f16::ONE; 2 * 9 * NUM_Q_HEADS * 64]);
    for (new, message) in [
        (
            NewTokens::Each(9),
            "new tokens appended and attended to in one launch is 9: at most 8 can be indexed",
        ),
        (
            NewTokens::Each(0),
            "query_tokens is 0: it must be at least 1",
        ),
        (
            packed,
            "append and decode in one launch: not in a packed step, whose sequences have different numbers of new tokens",
        ),
    ] {
        let step = lengths.step(new).expect("a step");
        let error = kernels
            .append(&kv, &kv, &mut cache, step)
            .decode(&q, NUM_Q_HEADS, &mut out)
            .launch(stream)
            .unwrap_err();
        assert_eq!(error.to_string(), message);
    }
    let step = lengths.step(NewTokens::Each(2)).expect("a step");
    let error = kernels
        .append(&kv, &kv, &mut cache, step)
        .decode(&q, NUM_Q_HEADS, &mut out)
        .launch(stream)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "q has 4608 elements: its shape [2, 2, 4, 64] has 1024"
    );
}
