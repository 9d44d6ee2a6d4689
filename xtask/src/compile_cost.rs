//! What compiling costs: `Emits` beside serde's two derives, and a listener.
//!
//! Every build of every user pays it, so it has an aim like everything else that is paid often. It
//! is told by differences between generated crates, each of which has one thing more than another:
//! what cargo and rustc need for a crate of any content is in all of them.

mod crates;
mod specimen;
mod stopwatch;

use std::fmt;
use std::io::{self, Write};

use crate::compile_cost::crates::{Crates, Mode};
use crate::compile_cost::specimen::{MODELS, Specimen};
use crate::compile_cost::stopwatch::{Time, median};
use crate::steps::Failure;

/// How often each crate is compiled in each mode, where nobody says otherwise.
const ROUNDS: usize = 9;

/// Compiles the crates in turns, so that whatever else the machine does hits all of them alike.
pub(crate) fn run(rest: &[String]) -> Result<(), Failure> {
    let rounds = match rest {
        [] => Ok(ROUNDS),
        [rounds] => rounds.parse(),
        _ => return Err(Failure::new("one argument at most: how many rounds")),
    };
    let rounds: usize = rounds
        .ok()
        .filter(|rounds| *rounds > 0)
        .ok_or_else(|| Failure::new("a number of rounds, at least 1"))?;

    let crates = Crates::write()?;
    println!("── warming: what the crates depend on");
    for mode in Mode::ALL {
        crates.warm(mode)?;
    }
    let mut costs = Costs::default();
    for round in 1..=rounds {
        print!("\r── round {round} of {rounds}");
        let _ = io::stdout().flush();
        for mode in Mode::ALL {
            for specimen in Specimen::ALL {
                costs.samples[mode as usize][specimen as usize].push(crates.compile(specimen, mode)?);
            }
        }
    }
    println!(", in {}\n\n{costs}", crates.folder().display());
    Ok(())
}

/// What was measured, by mode and specimen.
#[derive(Default)]
struct Costs {
    samples: [[Vec<Time>; Specimen::ALL.len()]; Mode::ALL.len()],
}

/// One figure of the summary: a difference of two specimens, divided.
struct Figure {
    what: &'static str,
    more: Specimen,
    less: Specimen,
    by: By,
    aim: &'static str,
}

/// What a difference is divided by.
enum By {
    Number(u32),
    /// The cost of serde's derives.
    Serde,
}

const FIGURES: &[Figure] = &[
    figure("Emits / (Serialize + Deserialize)", Specimen::Emits, Specimen::Serde, By::Serde, "1.00"),
    figure("… of all seven operations", Specimen::EmitsAll, Specimen::Serde, By::Serde, ""),
    figure("Emits, ms a model", Specimen::Emits, Specimen::Serde, By::Number(MODELS), ""),
    figure("a listener, ms", Specimen::TwoListeners, Specimen::Functions, By::Number(2 * MODELS), "5.00"),
    figure(
        "… the first of its model, ms",
        Specimen::OneListener,
        Specimen::Functions,
        By::Number(MODELS),
        "",
    ),
    figure("… a further one, ms", Specimen::TwoListeners, Specimen::OneListener, By::Number(MODELS), ""),
];

const fn figure(what: &'static str, more: Specimen, less: Specimen, by: By, aim: &'static str) -> Figure {
    Figure { what, more, less, by, aim }
}

impl Costs {
    /// The columns of a row: the times of each mode.
    fn columns(&self, value: impl Fn(&dyn Fn(Specimen) -> f64) -> f64) -> [f64; 2 * Mode::ALL.len()] {
        let clocks: [fn(&Time) -> f64; 2] = [|time| time.wall, |time| time.cpu];
        std::array::from_fn(|column| {
            let (mode, clock) = (column / clocks.len(), clocks[column % clocks.len()]);
            value(&|specimen| median(self.samples[mode][specimen as usize].iter().map(clock).collect()))
        })
    }
}

impl Figure {
    fn value(&self, millis: &dyn Fn(Specimen) -> f64) -> f64 {
        let difference = millis(self.more) - millis(self.less);
        match self.by {
            By::Number(number) => difference / f64::from(number),
            By::Serde => difference / (millis(Specimen::Serde) - millis(Specimen::Plain)),
        }
    }
}

impl fmt::Display for Costs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = |f: &mut fmt::Formatter<'_>, what: &str| {
            writeln!(f, "{what:<46}{:>10}{:>10}{:>10}{:>10}", "check", "cpu", "build", "cpu")
        };
        header(f, &format!("{MODELS} models, median ms"))?;
        for specimen in Specimen::ALL {
            write!(f, "{:<46}", specimen.description())?;
            for millis in self.columns(|millis| millis(specimen)) {
                write!(f, "{millis:>10.0}")?;
            }
            writeln!(f)?;
        }
        writeln!(f)?;
        header(f, "what follows")?;
        for figure in FIGURES {
            write!(f, "{:<46}", figure.what)?;
            for value in self.columns(|millis| figure.value(millis)) {
                write!(f, "{value:>10.2}")?;
            }
            let aim = if figure.aim.is_empty() { String::new() } else { format!("   aim: {}", figure.aim) };
            writeln!(f, "{aim}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times in the order of [`Specimen::ALL`], and what follows of them.
    fn check(millis: [f64; Specimen::ALL.len()], expected: &[(&str, f64)]) {
        let figures: Vec<_> = FIGURES
            .iter()
            .map(|figure| (figure.what, figure.value(&|specimen| millis[specimen as usize])))
            .collect();
        assert_eq!(figures, expected);
    }

    #[test]
    fn figures_are_differences() {
        check(
            [100.0, 500.0, 700.0, 900.0, 700.0, 1000.0, 1100.0],
            &[
                ("Emits / (Serialize + Deserialize)", 0.5),
                ("… of all seven operations", 1.0),
                ("Emits, ms a model", 2.0),
                ("a listener, ms", 2.0),
                ("… the first of its model, ms", 3.0),
                ("… a further one, ms", 1.0),
            ],
        );
    }
}
