//! Ranges of cached values.

use crate::common::{assert_close, noise};
use half::f16;
use kv_kernels::reference::{
    CacheMap, ChannelStatistics, Span, Statistics, StatisticsOf, statistics,
};
use proptest::prelude::*;

fn of_rows(tokens: usize, heads: usize, head_dim: usize, cache: &[f64]) -> Statistics {
    statistics(StatisticsOf {
        map: &CacheMap::rows(tokens, heads, head_dim).unwrap(),
        span: Span::Whole,
        cache,
    })
    .unwrap()
}

#[test]
fn by_hand() {
    // Two tokens of one head with three channels.
    let found = of_rows(2, 1, 3, &[1.0, -5.0, f64::NAN, 2.0, 3.0, f64::INFINITY]);
    assert_eq!(
        found.channels,
        [
            ChannelStatistics {
                count: 2,
                non_finite: 0,
                min: 1.0,
                max: 2.0,
                mean: 1.5,
                absmax: 2.0,
            },
            ChannelStatistics {
                count: 2,
                non_finite: 0,
                min: -5.0,
                max: 3.0,
                mean: -1.0,
                absmax: 5.0,
            },
            ChannelStatistics {
                non_finite: 2,
                ..ChannelStatistics::default()
            },
        ]
    );
    let total = found.total();
    assert_eq!((total.count, total.non_finite), (4, 2));
    assert_eq!((total.min, total.max, total.absmax), (-5.0, 3.0, 5.0));
    assert_eq!(total.mean, 0.25);
    assert_eq!(found.of_head(0), Some(total));
    assert_eq!(found.of_head(1), None);
}

#[test]
fn tokens_outside_the_span_are_not_read() {
    let map = CacheMap::rows(3, 1, 1).unwrap();
    let found = statistics(StatisticsOf {
        map: &map,
        span: Span::Tokens {
            from: &[1],
            to: &[2],
        },
        cache: &[f16::NAN, f16::from_f32(-2.0), f16::NAN],
    })
    .unwrap();
    assert_eq!(
        found.total(),
        ChannelStatistics {
            count: 1,
            non_finite: 0,
            min: -2.0,
            max: -2.0,
            mean: -2.0,
            absmax: 2.0,
        }
    );
}

#[test]
fn outliers() {
    // One channel of eight sixteen times as wide as the others: without channel
    // scales each has the noise of the widest, 8·16², with them its own, 16²+7.
    let mut wide = vec![1.0; 8];
    wide[5] = -16.0;
    let report = of_rows(1, 1, 8, &wide).outliers()[0];
    assert_eq!((report.channel, report.ratio), (5, 16.0));
    let gain = 10.0 * (8.0 * 256.0 / 263.0f64).log10();
    assert_close(&[report.gain_db], &[gain], 1e-12);
    assert!(report.channel_scales_help());

    let even = of_rows(1, 2, 4, &[2.0, -2.0, 2.0, 2.0, 0.0, 0.0, 0.0, 0.0]).outliers();
    assert_eq!((even[0].ratio, even[0].gain_db), (1.0, 0.0));
    assert_eq!((even[1].ratio, even[1].gain_db), (1.0, 0.0));
    assert!(!even[0].channel_scales_help());

    let lone = of_rows(1, 1, 4, &[0.0, 0.0, 3.0, 0.0]).outliers()[0];
    assert_eq!((lone.channel, lone.ratio), (2, f64::INFINITY));
}

proptest! {
    /// Joined channels are the statistics of all their elements.
    #[test]
    fn totals(seed: u64, tokens in 1usize..6, heads in 1usize..4, head_dim in 1usize..6) {
        let x = noise(seed, tokens * heads * head_dim);
        let total = of_rows(tokens, heads, head_dim, &x).total();
        let flat = of_rows(x.len(), 1, 1, &x).total();
        prop_assert_eq!(
            (total.count, total.min, total.max, total.absmax),
            (flat.count, flat.min, flat.max, flat.absmax)
        );
        assert_close(&[total.mean], &[flat.mean], 1e-14);
    }
}
