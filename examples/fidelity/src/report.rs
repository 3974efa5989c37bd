//! The measures as text.

use std::fmt;

use smollm2::markdown;

use crate::measure::Cosines;
use crate::run::{LayerMeasures, Measured};

/// What came of all candidates, ready to print: a table of the whole and two of each layer.
pub struct Report<'a>(pub &'a [Measured]);

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.0.first() else {
            return Ok(());
        };
        f.write_str(&markdown::table(&summary(self.0, first)))?;
        writeln!(
            f,
            "\nCosines of attention outputs with those of {}'s run, by token and query head; each run is on its own way \
             through the layers.\nSignal-to-noise in K and V as stored, against the model's own of the same run; mean \
             of the layers.\n",
            first.name
        )?;
        f.write_str(&markdown::table(&outputs_by_layer(self.0)))?;
        writeln!(f)?;
        f.write_str(&markdown::table(&noise_by_layer(self.0)))
    }
}

fn summary(measured: &[Measured], first: &Measured) -> Vec<Vec<String>> {
    let header = [
        "cache",
        "bytes",
        "share",
        "perplexity",
        "change",
        "greedy tokens unchanged",
        "cosine, mean",
        "worst",
        "K, dB",
        "V, dB",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for one in measured {
        let perplexity = one.predictions.perplexity();
        let change = perplexity / first.predictions.perplexity() - 1.0;
        let agreeing = one.predictions.agreeing(&first.predictions);
        let predicted = one.predictions.len();
        let outputs = outputs(one);
        rows.push(vec![
            one.name.to_owned(),
            one.bytes.to_string(),
            format!("{:.3}", one.bytes as f64 / first.bytes as f64),
            format!("{perplexity:.4}"),
            format!("{:+.3} %", 100.0 * change),
            format!(
                "{agreeing}/{predicted}, {:.2} %",
                100.0 * agreeing as f64 / predicted as f64
            ),
            format!("{:.6}", outputs.mean()),
            format!("{:.6}", outputs.worst),
            format!("{:.1}", mean(one, |layer| layer.k.decibels())),
            format!("{:.1}", mean(one, |layer| layer.v.decibels())),
        ]);
    }
    rows
}

/// Cosines of all layers.
fn outputs(measured: &Measured) -> Cosines {
    let layers = measured.layers.iter().map(|layer| layer.outputs);
    layers
        .reduce(Cosines::and)
        .unwrap_or(Cosines::of(&[], &[], 1))
}

fn mean(measured: &Measured, of: impl Fn(&LayerMeasures) -> f64) -> f64 {
    measured.layers.iter().map(of).sum::<f64>() / measured.layers.len() as f64
}

/// Mean and worst cosine of every candidate but the first, which the others are held against.
fn outputs_by_layer(measured: &[Measured]) -> Vec<Vec<String>> {
    by_layer(
        measured.get(1..).unwrap_or_default(),
        ["cosine, mean", "worst"],
        |layer| {
            let cosines = layer.outputs;
            [cosines.mean(), cosines.worst].map(|cosine| format!("{cosine:.6}"))
        },
    )
}

fn noise_by_layer(measured: &[Measured]) -> Vec<Vec<String>> {
    by_layer(measured, ["K, dB", "V, dB"], |layer| {
        [layer.k, layer.v].map(|noise| format!("{:.1}", noise.decibels()))
    })
}

/// A row a layer, two columns a candidate.
fn by_layer(
    measured: &[Measured],
    columns: [&str; 2],
    cells: impl Fn(&LayerMeasures) -> [String; 2],
) -> Vec<Vec<String>> {
    let names = measured
        .iter()
        .flat_map(|one| columns.map(|column| format!("{}: {column}", one.name)));
    let header = std::iter::once("layer".to_owned()).chain(names).collect();
    let layers = measured.first().map_or(0, |one| one.layers.len());
    let rows = (0..layers).map(|layer| {
        let cells = measured.iter().flat_map(|one| cells(&one.layers[layer]));
        std::iter::once(layer.to_string()).chain(cells).collect()
    });
    std::iter::once(header).chain(rows).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::tests::made_up;

    #[test]
    fn the_first_is_what_others_are_held_against() {
        let measured = [made_up("fp16", 2, 0.0), made_up("int8", 1, 0.01)];
        let report = Report(&measured).to_string();
        let lines: Vec<&str> = report.lines().collect();
        let cells = |line: &str| -> Vec<String> {
            let cells = line.trim_matches('|').split('|');
            cells.map(|cell| cell.trim().to_owned()).collect()
        };
        // Likelihoods of 3/4, and of 3/4 and 1/4.
        assert_eq!(
            cells(lines[2]),
            [
                "fp16",
                "1000",
                "1.000",
                "1.3333",
                "+0.000 %",
                "2/2, 100.00 %",
                "1.000000",
                "1.000000",
                "inf",
                "inf"
            ]
        );
        assert_eq!(
            cells(lines[3]),
            [
                "int8",
                "1000",
                "1.000",
                "2.3094",
                "+73.205 %",
                "1/2, 50.00 %",
                "0.999950",
                "0.999950",
                "40.0",
                "40.0"
            ]
        );
        let layers: Vec<Vec<String>> = lines[8..].iter().map(|line| cells(line)).collect();
        assert_eq!(layers[0], ["layer", "int8: cosine, mean", "int8: worst"]);
        assert_eq!(layers[2], ["0", "0.999950", "0.999950"]);
        assert_eq!(layers[6], ["0", "inf", "inf", "40.0", "40.0"]);
    }

    #[test]
    fn nothing_measured_is_nothing_said() {
        assert_eq!(Report(&[]).to_string(), "");
    }
}
