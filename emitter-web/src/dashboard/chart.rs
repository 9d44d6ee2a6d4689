//! Charts as SVG, drawn here: a page needs no script for them, and gets none.

use std::fmt::Write as _;

use maud::{Markup, html};

/// The drawing's own units; the style sheet stretches them.
const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 60.0;

/// A line over time, newest at the right, from 0 to the greatest value. `slots` is how many values have room; what is not
/// known is a gap.
pub(super) fn line(name: &str, values: &[Option<f64>], slots: usize) -> Markup {
    let greatest = values.iter().flatten().copied().fold(0.0, f64::max);
    let (line, area) = paths(values, slots, if greatest > 0.0 { greatest } else { 1.0 });
    html! {
        svg .chart viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none" role="img" aria-label=(name) {
            line .grid x1="0" x2=(WIDTH) y1="0.5" y2="0.5" {}
            line .grid x1="0" x2=(WIDTH) y1=(HEIGHT / 2.0) y2=(HEIGHT / 2.0) {}
            line .axis x1="0" x2=(WIDTH) y1=(HEIGHT - 0.5) y2=(HEIGHT - 0.5) {}
            path .area d=(area) {}
            path .line d=(line) {}
        }
    }
}

/// The line, and the area below it.
fn paths(values: &[Option<f64>], slots: usize, greatest: f64) -> (String, String) {
    let step = WIDTH / (slots.max(2) - 1) as f64;
    let begin = slots.saturating_sub(values.len());
    let (mut line, mut area) = (String::new(), String::new());
    let known = values.iter().enumerate();
    let points: Vec<Option<(f64, f64)>> = known
        .map(|(place, value)| {
            let height = (value.filter(|value| value.is_finite())? / greatest).clamp(0.0, 1.0);
            Some(((begin + place) as f64 * step, HEIGHT - 1.0 - height * (HEIGHT - 3.0)))
        })
        .collect();
    for run in points.split(Option::is_none).filter(|run| !run.is_empty()) {
        for (place, (x, y)) in run.iter().flatten().enumerate() {
            let command = if place == 0 { 'M' } else { 'L' };
            let _ = write!(line, "{command}{x:.1} {y:.1}");
        }
        let ends = run.first().copied().flatten().zip(run.last().copied().flatten());
        let Some(((first, _), (last, y))) = ends else { continue };
        if run.len() == 1 {
            let _ = write!(line, "L{:.1} {y:.1}", last + 0.1);
        }
        let _ = write!(area, "M{first:.1} {HEIGHT}");
        for (x, y) in run.iter().flatten() {
            let _ = write!(area, "L{x:.1} {y:.1}");
        }
        let _ = write!(area, "L{last:.1} {HEIGHT}Z");
    }
    (line, area)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_a_gap() {
        let values = [Some(0.0), Some(4.0), None, Some(f64::NAN), Some(2.0)];
        let (line, area) = paths(&values, 5, 4.0);
        assert_eq!(line, "M0.0 59.0L75.0 2.0M300.0 30.5L300.1 30.5");
        assert_eq!(area, "M0.0 60L0.0 59.0L75.0 2.0L75.0 60ZM300.0 60L300.0 30.5L300.0 60Z");
    }

    #[test]
    fn few_values_are_at_the_right() {
        assert_eq!(paths(&[Some(1.0), Some(1.0)], 4, 1.0).0, "M200.0 2.0L300.0 2.0");
        assert_eq!(paths(&[], 0, 1.0), (String::new(), String::new()));
    }

    #[test]
    fn a_name_is_text() {
        assert!(line("\"><script>", &[], 2).into_string().contains("&quot;&gt;&lt;script&gt;"));
    }
}
