//! Small charts, drawn as SVG.

use maud::{Markup, html};

const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 64.0;
/// A margin, so that a line at an edge is not cut off.
const MARGIN: f64 = 2.0;

/// A line over time, with its title and its last value. `None` leaves a gap. `show` formats a
/// value.
pub(super) fn line(title: &str, values: &[Option<f64>], show: impl Fn(f64) -> String) -> Markup {
    let last = values.iter().rev().find_map(|value| *value);
    let most = values.iter().flatten().copied().fold(0.0, f64::max);
    let now = last.map_or_else(|| "–".to_owned(), &show);
    let label = format!("{title}: now {now}, at most {} in this time", show(most));
    html! {
        figure.chart {
            figcaption { span { (title) } strong { (now) } }
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(label)
                preserveAspectRatio="none" {
                @for points in runs(values, most) {
                    polyline points=(points) vector-effect="non-scaling-stroke" {}
                }
            }
            p.scale { "up to " (show(most)) }
        }
    }
}

/// The points of each run without a gap.
fn runs(values: &[Option<f64>], most: f64) -> Vec<String> {
    let step = WIDTH / values.len().saturating_sub(1).max(1) as f64;
    let point = |index: usize, value: f64| {
        let share = if most > 0.0 { value / most } else { 0.0 };
        let y = HEIGHT - MARGIN - share * (HEIGHT - 2.0 * MARGIN);
        format!("{:.1},{y:.1}", index as f64 * step)
    };
    let points: Vec<_> = values
        .iter()
        .enumerate()
        .map(|(index, value)| value.map(|value| point(index, value)))
        .collect();
    points
        .split(Option::is_none)
        .map(|run| run.iter().flatten().map(String::as_str).collect::<Vec<_>>())
        .filter(|run| !run.is_empty())
        // A single point is a line to itself, which is drawn as a dot.
        .map(|run| if run.len() == 1 { run.repeat(2) } else { run }.join(" "))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_parts_the_line() {
        let values = [Some(0.0), Some(2.0), None, Some(1.0)];
        assert_eq!(runs(&values, 2.0), ["0.0,62.0 100.0,2.0", "300.0,32.0 300.0,32.0"]);
        assert_eq!(runs(&[], 0.0), [""; 0]);
        assert_eq!(runs(&[Some(0.0)], 0.0), ["0.0,62.0 0.0,62.0"]);
    }
}
