//! The measures of each layer as a drawing.

use std::ops::Range;
use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use crate::run::{LayerMeasures, Measured};

/// Width and height of the drawing.
const SIZE: (u32, u32) = (960, 1080);

/// A colour a candidate, told apart by people who see few of them; a fifth would begin anew.
const COLOURS: [RGBColor; 4] = [
    RGBColor(0x55, 0x55, 0x55),
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
];

/// Cosines are drawn by their distance to 1, which is not drawn below this.
const LEAST: f64 = 1e-9;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A line: its colour, whether it is dashed, and its value at each layer.
struct Line {
    colour: RGBColor,
    dashed: bool,
    values: Vec<f64>,
}

/// Draws cosines of attention outputs and signal-to-noise of K and V by layer, under a line of text for each candidate, in
/// its colour, that says what it does to predictions. Overwrites the file.
///
/// # Errors
/// Where the file cannot be written.
pub fn draw(path: &Path, measured: &[Measured]) -> Result<()> {
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE).map_err(plain)?;
    let (top, charts) = area.split_vertically(44 + 20 * measured.len() as u32);
    header(&top, measured).map_err(plain)?;
    let [outputs, k, v] = charts
        .split_evenly((3, 1))
        .try_into()
        .map_err(|_| anyhow!("three charts were asked for"))?;
    let others = measured.get(1..).unwrap_or_default();
    let mut distances = lines(others, 1, false, |layer| distance(layer.outputs.mean()));
    distances.extend(lines(others, 1, true, |layer| {
        distance(layer.outputs.worst)
    }));
    logarithmic(
        &outputs,
        "1 − cosine of attention outputs: mean, and dashed the worst",
        &distances,
    )
    .map_err(plain)?;
    let noise = lines(measured, 0, false, |layer| layer.k.decibels());
    linear(&k, "signal-to-noise of K as stored, dB", &noise).map_err(plain)?;
    let noise = lines(measured, 0, false, |layer| layer.v.decibels());
    linear(&v, "signal-to-noise of V as stored, dB", &noise).map_err(plain)?;
    area.present().map_err(plain)
}

/// The library's errors hold what cannot be handed on.
fn plain(error: DrawingAreaErrorKind<impl std::error::Error + Send + Sync>) -> anyhow::Error {
    anyhow!("drawing: {error}")
}

/// What each does to predictions.
fn header(
    area: &Area<'_>,
    measured: &[Measured],
) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    let title = TextStyle::from(("sans-serif", 20)).color(&BLACK);
    area.draw_text(
        "What the cache's type does, layer by layer",
        &title,
        (16, 12),
    )?;
    let Some(first) = measured.first() else {
        return Ok(());
    };
    for (index, one) in measured.iter().enumerate() {
        let perplexity = one.predictions.perplexity();
        let change = 100.0 * (perplexity / first.predictions.perplexity() - 1.0);
        let text = format!(
            "■ {}: {} bytes, perplexity {perplexity:.4} ({change:+.3} %), {} of {} greedy tokens unchanged",
            one.name,
            one.bytes,
            one.predictions.agreeing(&first.predictions),
            one.predictions.len()
        );
        let colour = colour(index);
        let style = TextStyle::from(("sans-serif", 14)).color(&colour);
        area.draw_text(&text, &style, (16, 40 + 20 * index as i32))?;
    }
    Ok(())
}

/// From a cosine to 1, as far as it is drawn; NaN is not.
fn distance(cosine: f64) -> f64 {
    let distance = 1.0 - cosine;
    if distance < LEAST { LEAST } else { distance }
}

fn colour(index: usize) -> RGBColor {
    COLOURS[index % COLOURS.len()]
}

/// A line for each of `measured`, the first of which has the colour of number `offset`.
fn lines(
    measured: &[Measured],
    offset: usize,
    dashed: bool,
    value: impl Fn(&LayerMeasures) -> f64,
) -> Vec<Line> {
    let line = |(index, one): (usize, &Measured)| Line {
        colour: colour(offset + index),
        dashed,
        values: one.layers.iter().map(&value).collect(),
    };
    measured.iter().enumerate().map(line).collect()
}

/// The smallest and the largest finite value of all lines; something to draw on where there is none.
fn bounds(lines: &[Line]) -> (f64, f64) {
    let values = lines.iter().flat_map(|line| &line.values).copied();
    let finite = values.filter(|value| value.is_finite());
    finite
        .map(|value| (value, value))
        .reduce(|(low, high), (value, _)| (low.min(value), high.max(value)))
        .unwrap_or((LEAST, 1.0))
}

fn layers(lines: &[Line]) -> Range<f64> {
    let layers = lines.iter().map(|line| line.values.len()).max();
    0.0..layers.unwrap_or(1).saturating_sub(1).max(1) as f64
}

fn linear(
    area: &Area<'_>,
    title: &str,
    lines: &[Line],
) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    let (low, high) = bounds(lines);
    let room = ((high - low) * 0.05).max(1.0);
    let mut chart =
        chart(area, title).build_cartesian_2d(layers(lines), low - room..high + room)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("layer")
        .x_label_formatter(&|layer| format!("{layer:.0}"))
        .y_labels(6)
        .y_label_formatter(&|value| format!("{value:.0}"))
        .draw()?;
    plot(&mut chart, lines)
}

fn logarithmic(
    area: &Area<'_>,
    title: &str,
    lines: &[Line],
) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    let (low, high) = bounds(lines);
    let values = (low / 1.5..high * 1.5).log_scale();
    let mut chart = chart(area, title).build_cartesian_2d(layers(lines), values)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("layer")
        .x_label_formatter(&|layer| format!("{layer:.0}"))
        .y_label_formatter(&|value| format!("{value:.0e}"))
        .draw()?;
    plot(&mut chart, lines)
}

fn chart<'a, 'b>(area: &'a Area<'b>, title: &str) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut builder = ChartBuilder::on(area);
    builder
        .caption(title, ("sans-serif", 16))
        .margin(12)
        .margin_right(24)
        .x_label_area_size(36)
        .y_label_area_size(56);
    builder
}

/// The lines, in a chart whatever its values' scale.
fn plot<'b, Y>(
    chart: &mut ChartContext<'b, SVGBackend<'b>, Cartesian2d<RangedCoordf64, Y>>,
    lines: &[Line],
) -> Result<(), DrawingAreaErrorKind<std::io::Error>>
where
    Y: Ranged<ValueType = f64>,
{
    for line in lines {
        let colour = line.colour;
        let points = line
            .values
            .iter()
            .enumerate()
            .filter(|(_, value)| value.is_finite());
        let points: Vec<(f64, f64)> = points
            .map(|(layer, &value)| (layer as f64, value))
            .collect();
        match line.dashed {
            true => {
                chart.draw_series(DashedLineSeries::new(points, 6, 4, colour.stroke_width(1)))?
            }
            false => chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?,
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::tests::made_up;

    #[test]
    fn every_candidate_is_drawn() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fidelity.svg");
        // Infinite signal-to-noise and a cosine of NaN are left out, not in the way.
        let measured = [
            made_up("fp16", 2, 0.0),
            made_up("int8", 2, 0.01),
            made_up("broken", 0, f32::NAN),
        ];
        draw(&path, &measured).unwrap();
        let drawing = std::fs::read_to_string(&path).unwrap();
        assert!(drawing.trim_end().ends_with("</svg>"));
        for (index, one) in measured.iter().enumerate() {
            assert!(drawing.contains(&format!("■ {}: 1000 bytes", one.name)));
            let RGBColor(r, g, b) = colour(index);
            assert!(drawing.contains(&format!("#{r:02X}{g:02X}{b:02X}")));
        }
    }

    #[test]
    fn one_alone_is_drawn_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fidelity.svg");
        draw(&path, &[made_up("fp16", 2, 0.0)]).unwrap();
        assert!(path.is_file());
        assert!(draw(&folder.path().join("no/such"), &[]).is_err());
    }

    #[test]
    fn a_cosine_past_1_is_as_good_as_1() {
        assert_eq!(distance(1.0 + 1e-12), LEAST);
        assert_eq!(distance(0.75), 0.25);
        assert!(distance(f64::NAN).is_nan());
    }
}
