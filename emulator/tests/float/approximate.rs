//! What the ISA gives a bound for.

use super::*;

/// Greatest error of `body` on `inputs`, as `measure` has it of (result, exact).
fn worst(
    body: &str,
    inputs: &[u64],
    exact: impl Fn(f64) -> f64,
    measure: impl Fn(f64, f64) -> f64,
) -> f64 {
    let list: Vec<Vec<u64>> = inputs.iter().map(|&v| vec![v]).collect();
    let results = rows(body, &[W], &[W], &list);
    let errors = inputs.iter().zip(results).map(|(&x, r)| {
        let (want, got) = (
            exact(f64::from(f32::from_bits(x as u32))),
            f64::from(f32::from_bits(r[0] as u32)),
        );
        if want == got { 0.0 } else { measure(got, want) }
    });
    errors.fold(0.0, f64::max)
}

fn relative(got: f64, want: f64) -> f64 {
    ((got - want) / want).abs()
}

fn between(mix: &mut Mix, low: f64, high: f64, count: usize) -> Vec<u64> {
    let unit = |r: u64| (r >> 11) as f64 / (1u64 << 53) as f64;
    (0..count)
        .map(|_| u64::from(((low + (high - low) * unit(mix.bits())) as f32).to_bits()))
        .collect()
}

#[test]
fn approximations_keep_their_bounds() {
    let mut mix = Mix(4);
    let ulp = 2f64.powi(-22);
    let wide = between(&mut mix, -125.9, 127.9, 20_000);
    assert!(worst("ex2.approx.ftz.f32 %d, %a;", &wide, f64::exp2, relative) <= ulp);
    assert!(worst("ex2.approx.f32 %d, %a;", &wide, f64::exp2, relative) <= ulp);
    assert!(
        worst(
            "ex2.approx.f32 %d, %a;",
            &between(&mut mix, -1.0, 1.0, 20_000),
            f64::exp2,
            relative
        ) <= ulp
    );
    // Subnormal results: half a unit of theirs, and what the approximation is off.
    let low = between(&mut mix, -149.0, -126.0, 4_000);
    assert!(
        worst("ex2.approx.f32 %d, %a;", &low, f64::exp2, |g, w| (g - w)
            .abs()
            / 2f64.powi(-149))
            <= 1.5
    );
    let positive: Vec<u64> = (0..20_000).map(|_| mix.bits() % INF).collect();
    assert!(
        worst("lg2.approx.f32 %d, %a;", &positive, f64::log2, |g, w| (g
            - w)
            .abs()
            .min(relative(g, w)))
            <= ulp
    );
    let any: Vec<u64> = (0..20_000)
        .map(|_| mix.bits() & 0xbfff_ffff | 0x2000_0000)
        .collect();
    assert!(worst("rcp.approx.f32 %d, %a;", &any, f64::recip, relative) <= 2f64.powi(-23));
    let positive: Vec<u64> = (0..20_000)
        .map(|_| 0x0080_0000 + mix.bits() % (INF - 0x0080_0000))
        .collect();
    assert!(
        worst(
            "rsqrt.approx.f32 %d, %a;",
            &positive,
            |x| 1.0 / x.sqrt(),
            relative
        ) <= 2f64.powf(-22.9)
    );
    assert!(worst("sqrt.approx.f32 %d, %a;", &positive, f64::sqrt, relative) <= 2f64.powi(-23));
    let angles = between(&mut mix, -7.0, 7.0, 20_000);
    assert!(
        worst("sin.approx.f32 %d, %a;", &angles, f64::sin, |g, w| (g - w)
            .abs())
            <= 2f64.powf(-20.5)
    );
    assert!(
        worst("cos.approx.f32 %d, %a;", &angles, f64::cos, |g, w| (g - w)
            .abs())
            <= 2f64.powf(-20.5)
    );
    assert!(worst("tanh.approx.f32 %d, %a;", &angles, f64::tanh, relative) <= 2f64.powi(-11));
}

#[test]
fn approximations_at_special_arguments() {
    let cases: [(&str, &[(u64, u64)]); 10] = [
        (
            "ex2.approx.f32",
            &[
                (INF | MINUS, 0),
                (MINUS, ONE),
                (0, ONE),
                (INF, INF),
                (NAN, NAN),
                (0x0040_0000 | MINUS, ONE),
                (0xc315_0000, 1),
                (0xc318_0000, 0),
                (0x4300_0000, INF),
            ],
        ),
        // 2^-127 is subnormal.
        (
            "ex2.approx.ftz.f32",
            &[
                (INF | MINUS, 0),
                (0, ONE),
                (0x40a0_0000, 0x4200_0000),
                (0xc2fe_0000, 0),
                (0xc2fc_0000, 0x0080_0000),
                (0xffc0_0000, NAN),
            ],
        ),
        (
            "lg2.approx.f32",
            &[
                (INF | MINUS, NAN),
                (ONE | MINUS, NAN),
                (MINUS, INF | MINUS),
                (0, INF | MINUS),
                (INF, INF),
                (ONE, 0),
                (0x4100_0000, 0x4040_0000),
                (1, 0xc315_0000),
            ],
        ),
        (
            "lg2.approx.ftz.f32",
            &[(1, INF | MINUS), (0x8000_0001, INF | MINUS)],
        ),
        (
            "rcp.approx.f32",
            &[
                (INF | MINUS, MINUS),
                (MINUS, INF | MINUS),
                (0, INF),
                (INF, 0),
                (NAN, NAN),
                (0x4000_0000, 0x3f00_0000),
            ],
        ),
        (
            "rcp.approx.ftz.f32",
            &[(1, INF), (0x8000_0001, INF | MINUS), (0x7f00_0000, 0)],
        ),
        (
            "rsqrt.approx.f32",
            &[
                (INF | MINUS, NAN),
                (ONE | MINUS, NAN),
                (MINUS, INF | MINUS),
                (0, INF),
                (INF, 0),
                (0x4080_0000, 0x3f00_0000),
            ],
        ),
        (
            "sqrt.approx.f32",
            &[
                (INF | MINUS, NAN),
                (ONE | MINUS, NAN),
                (MINUS, MINUS),
                (0, 0),
                (INF, INF),
                (0x4080_0000, 0x4000_0000),
            ],
        ),
        (
            "sin.approx.f32",
            &[
                (INF, NAN),
                (INF | MINUS, NAN),
                (MINUS, MINUS),
                (0, 0),
                (NAN, NAN),
            ],
        ),
        (
            "tanh.approx.f32",
            &[
                (INF, ONE),
                (INF | MINUS, ONE | MINUS),
                (MINUS, MINUS),
                (0, 0),
                (NAN, NAN),
            ],
        ),
    ];
    for (op, list) in cases {
        for (x, want) in list {
            table(&format!("{op} %d, %a;"), W, &[W], &[(&[*x], *want)]);
        }
    }
    table(
        "cos.approx.f32 %d, %a;",
        W,
        &[W],
        &[(&[0], ONE), (&[MINUS], ONE), (&[INF], NAN)],
    );
    table("cos.approx.ftz.f32 %d, %a;", W, &[W], &[(&[1], ONE)]);
}

#[test]
fn divisions() {
    let mut mix = Mix(5);
    let list = near(&mut mix, 5000, 2, false);
    for op in [
        "div.approx.f32",
        "div.approx.ftz.f32",
        "div.full.f32",
        "div.full.ftz.f32",
    ] {
        let results = rows(&format!("{op} %d, %a, %b;"), &[W], &[W; 2], &list);
        for (v, r) in list.iter().zip(results) {
            let exact =
                f64::from(f32::from_bits(v[0] as u32)) / f64::from(f32::from_bits(v[1] as u32));
            let got = f64::from(f32::from_bits(r[0] as u32));
            assert!(
                relative(got, exact) <= 2f64.powi(-22),
                "{op} of {v:x?}: {got} for {exact}"
            );
        }
    }
    // Past 2^126 the reciprocal is gone.
    table(
        "div.approx.f32 %d, %a, %b;",
        W,
        &[W; 2],
        &[
            (&[0x7f7f_ffff, 0x7e80_0001], 0),
            (&[0x7f7f_ffff | MINUS, 0x7e80_0001], MINUS),
            (&[INF, 0x7e80_0001], NAN),
            (&[ONE, INF], 0),
            (&[ONE, 0], INF),
            (&[0, 0], NAN),
            (&[0x7e80_0000, 0x7e80_0000], ONE),
        ],
    );
    table(
        "div.full.f32 %d, %a, %b;",
        W,
        &[W; 2],
        &[
            (&[0x7f00_0000, 0x7f00_0000], ONE),
            (&[ONE, MINUS], INF | MINUS),
        ],
    );
    table(
        "div.full.ftz.f32 %d, %a, %b;",
        W,
        &[W; 2],
        &[(&[1, ONE], 0), (&[ONE, 1], INF)],
    );
}

#[test]
fn gross_functions_of_doubles() {
    let mut mix = Mix(6);
    let list: Vec<Vec<u64>> = (0..2000)
        .map(|_| {
            let r = mix.bits();
            vec![r & 0x000f_ffff_ffff_ffff | (1 + (r >> 52) % 2045) << 52]
        })
        .collect();
    let results = rows(
        "rcp.approx.ftz.f64 %d, %a;\nrsqrt.approx.ftz.f64 %q, %a;",
        &[D, D],
        &[D],
        &list,
    );
    for (v, r) in list.iter().zip(results) {
        let x = f64::from_bits(v[0]);
        assert_eq!((r[0] & 0xffff_ffff, r[1] & 0xffff_ffff), (0, 0));
        let (a, b) = (f64::from_bits(r[0]), f64::from_bits(r[1]));
        assert!(
            a == 0.0 && x > 2f64.powi(1021) || relative(a, 1.0 / x) <= 2f64.powi(-19),
            "{x:e}: {a:e}"
        );
        assert!(
            relative(b, 1.0 / x.sqrt()) <= 1.8 * 2f64.powi(-18),
            "{x:e}: {b:e}"
        );
    }
    let minus = 1u64 << 63;
    let inf = f64::INFINITY.to_bits();
    table(
        "rcp.approx.ftz.f64 %d, %a;",
        D,
        &[D],
        &[
            (&[inf], 0),
            (&[inf | minus], minus),
            (&[0], inf),
            (&[minus | 5], inf | minus),
            (&[NAN64], NAN64),
        ],
    );
    table(
        "rsqrt.approx.ftz.f64 %d, %a;",
        D,
        &[D],
        &[
            (&[inf], 0),
            (&[minus], inf | minus),
            (&[7], inf),
            (&[inf | minus], NAN64),
        ],
    );
    table(
        "rsqrt.approx.f64 %d, %a;",
        D,
        &[D],
        &[(&[4f64.to_bits()], 0.5f64.to_bits())],
    );
}
