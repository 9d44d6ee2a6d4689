//! How long something takes, by two clocks.

use std::fs;
use std::time::Instant;

/// Milliseconds by two clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Time {
    /// What somebody waits.
    pub(crate) wall: f64,
    /// What all threads of all processes worked, which other work on the machine changes less. Not a
    /// number where the system does not tell as Linux does.
    pub(crate) cpu: f64,
}

impl Time {
    /// Of something that starts processes and waits for them.
    pub(crate) fn of<T>(work: impl FnOnce() -> T) -> (T, Self) {
        let (started, before) = (Instant::now(), children());
        let done = work();
        (done, Self { wall: started.elapsed().as_secs_f64() * 1000.0, cpu: children() - before })
    }
}

/// The processor time of all processes that this one has waited for.
fn children() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    child_ticks(&stat).map_or(f64::NAN, |ticks| f64::from(ticks) * MILLIS_OF_A_TICK)
}

/// `sysconf(_SC_CLK_TCK)` is 100 a second on every Linux that Rust runs on.
const MILLIS_OF_A_TICK: f64 = 10.0;

/// `cutime` and `cstime` of [`proc_pid_stat(5)`](https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html).
fn child_ticks(stat: &str) -> Option<u32> {
    // The second field is the program's name in parentheses, which may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks: Vec<u32> =
        fields.split_whitespace().skip(13).take(2).map_while(|field| field.parse().ok()).collect();
    (ticks.len() == 2).then(|| ticks.iter().sum())
}

/// The one in the middle; of an even number, the mean of the two.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        len => f64::midpoint(values[(len - 1) / 2], values[len / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_of_children_are_found_behind_any_name() {
        let check = |stat, expected| assert_eq!(child_ticks(stat), expected, "{stat}");
        check("7 (a) b) S 1 7 7 0 -1 4 5 6 7 8 9 10 230 45 20 0 1", Some(275));
        check("7 (xtask) S 1 7 7 0", None);
        check("", None);
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!([median(vec![9.0, 1.0, 3.0]), median(vec![4.0, 1.0, 2.0, 9.0])], [3.0, 3.0]);
        assert!(median(Vec::new()).is_nan());
    }
}
