//! What launches take that a device runs at the same time, on paper.

use crate::device::launch::conv2d::LAUNCH_SECONDS;

/// A launch of a run.
pub struct Item {
    /// Without the launch itself.
    pub seconds: f64,
    /// Of what the device's multiprocessors hold at once; at most 1 counts.
    pub waves: f64,
    /// Those that it waits for, by number.
    pub waits: Vec<usize>,
}

/// Seconds until all have ended. Each starts a launch's cost after those that it waits for, as soon as there is room for it for as long as
/// it takes: those that come first in the list take theirs first. A launch neither slows down another nor spreads over what another
/// leaves.
pub fn seconds(items: &[Item]) -> f64 {
    // Start, end, share.
    let mut taken: Vec<(f64, f64, f64)> = Vec::with_capacity(items.len());
    for item in items {
        let ready = item.waits.iter().map(|&i| taken[i].1).fold(0.0, f64::max) + LAUNCH_SECONDS;
        let share = item.waves.min(1.0);
        // More room comes where another ends.
        let ends = taken.iter().map(|&(_, end, _)| end).filter(|&end| end > ready);
        let mut starts: Vec<f64> = std::iter::once(ready).chain(ends).collect();
        starts.sort_by(f64::total_cmp);
        let fits = |start: f64| {
            let during = |t: f64| -> f64 {
                let there = taken.iter().filter(|&&(from, to, _)| from <= t && t < to);
                there.map(|&(.., share)| share).sum()
            };
            let begins = taken.iter().map(|&(from, ..)| from);
            let inside = begins.filter(|&t| t > start && t < start + item.seconds);
            std::iter::once(start).chain(inside).all(|t| during(t) + share <= 1.0 + 1e-9)
        };
        let start = starts.into_iter().find(|&start| fits(start)).unwrap_or(ready);
        taken.push((start, start + item.seconds, share));
    }
    taken.iter().map(|&(_, end, _)| end).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(us: f64, waves: f64, waits: &[usize]) -> Item {
        Item { seconds: us * 1e-6, waves, waits: waits.to_vec() }
    }

    fn us(items: &[Item]) -> f64 {
        (seconds(items) - LAUNCH_SECONDS) * 1e6
    }

    #[test]
    fn what_fits_beside_each_other_takes_the_time_of_the_longest() {
        let launch = LAUNCH_SECONDS * 1e6;
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-6, "{a}, not {b}");
        // In order: the sum.
        near(us(&[item(5.0, 0.3, &[]), item(7.0, 2.0, &[0])]), 12.0 + launch);
        near(us(&[item(5.0, 0.3, &[]), item(7.0, 0.7, &[])]), 7.0);
        // Without room for both the second's launch alone is hidden.
        near(us(&[item(5.0, 0.4, &[]), item(7.0, 0.7, &[])]), 12.0);
        // A small one beside two large ones; then one that waits for all.
        let branches = [item(5.0, 0.8, &[]), item(5.0, 0.8, &[]), item(9.0, 0.1, &[])];
        near(us(&branches), 10.0);
        let all = branches.into_iter().chain([item(1.0, 1.0, &[0, 1, 2])]);
        near(us(&all.collect::<Vec<_>>()), 11.0 + launch);
    }
}
