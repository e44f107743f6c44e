//! From sums up to each moment to what happened in each moment.

use std::collections::BTreeMap;

use crate::{measure::process::Sample, results::Run, units::mib};

/// A line of a plot: seconds and values.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    pub(super) name: &'static str,
    pub(super) points: Vec<(f64, f64)>,
}

/// A stage's row in a plot: seconds and how many were in it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Strip {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
    /// Over the whole run.
    pub(super) mean: f64,
    pub(super) entered: u64,
}

/// Cores that were busy.
pub(super) fn cpu(run: &Run) -> Vec<Line> {
    vec![Line {
        name: "cores",
        points: rates(run, |sample| sample.cpu_seconds),
    }]
}

/// MiB per second from and to storage.
pub(super) fn disk(run: &Run) -> Vec<Line> {
    vec![
        Line {
            name: "read",
            points: rates(run, |sample| mib(sample.read_bytes)),
        },
        Line {
            name: "written",
            points: rates(run, |sample| mib(sample.written_bytes)),
        },
    ]
}

/// Resident MiB.
pub(super) fn memory(run: &Run) -> Vec<Line> {
    let points = run.samples.iter();
    vec![Line {
        name: "resident",
        points: points
            .map(|it| (seconds(it.ms), mib(it.rss_bytes)))
            .collect(),
    }]
}

/// How many were in each stage, for stages that anything ever entered.
pub(super) fn strips(run: &Run) -> Vec<Strip> {
    let mut strips: BTreeMap<&str, Strip> = BTreeMap::new();
    for pair in run.stages.windows(2) {
        let (before, now) = (&pair[0], &pair[1]);
        let elapsed = seconds(now.ms) - seconds(before.ms);
        for (name, totals) in &now.stages {
            let earlier = before.stages.get(name).copied().unwrap_or_default();
            let strip = strips.entry(name).or_insert_with(|| Strip {
                name: name.clone(),
                points: Vec::new(),
                mean: 0.0,
                entered: 0,
            });
            if elapsed > 0.0 {
                let inside = (totals.ms - earlier.ms) / 1000.0 / elapsed;
                strip.points.push((seconds(now.ms), inside.max(0.0)));
            }
            strip.mean = totals.ms / 1000.0 / seconds(now.ms).max(0.001);
            strip.entered = totals.entered;
        }
    }
    let entered = strips.into_values().filter(|strip| strip.entered > 0);
    let mut in_order: Vec<Strip> = entered.collect();
    in_order.sort_by_key(|strip| place_in_flow(&strip.name));
    in_order
}

/// Where in the flow of data a stage is; those that are not known come last.
fn place_in_flow(name: &str) -> usize {
    use ringback_datapath::stages::Stage;
    let known = Stage::ALL.iter().position(|stage| stage.name() == name);
    known.unwrap_or(usize::MAX)
}

/// What a sum that only grows grew by per second, between each two samples. It shrinks when a
/// process has ended and nobody has waited for it yet: then nothing is known, and nothing drawn.
fn rates(run: &Run, sum: fn(&Sample) -> f64) -> Vec<(f64, f64)> {
    let pairs = run.samples.windows(2);
    pairs
        .filter_map(|pair| {
            let elapsed = seconds(pair[1].ms) - seconds(pair[0].ms);
            let grown = sum(&pair[1]) - sum(&pair[0]);
            (elapsed > 0.0 && grown >= 0.0).then(|| (seconds(pair[1].ms), grown / elapsed))
        })
        .collect()
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{StageSample, StageTotals, tests::run};

    fn sample(ms: u64, cpu_seconds: f64) -> Sample {
        Sample {
            ms,
            cpu_seconds,
            read_bytes: ms << 20,
            written_bytes: 0,
            rss_bytes: 3 << 20,
        }
    }

    #[test]
    fn a_sum_becomes_a_rate() {
        let mut run = run(1, 1.0);
        // The third sample misses a process that has just ended.
        run.samples = vec![
            sample(0, 0.0),
            sample(500, 1.0),
            sample(1000, 0.5),
            sample(1500, 1.5),
        ];
        assert_eq!(cpu(&run)[0].points, [(0.5, 2.0), (1.5, 2.0)]);
        assert_eq!(disk(&run)[0].points[0], (0.5, 1000.0));
        assert_eq!(memory(&run)[0].points.len(), 4);
    }

    #[test]
    fn stages_come_in_the_order_of_the_data_with_their_mean() {
        let mut run = run(1, 1.0);
        let at = |ms, hash, read| StageSample {
            ms,
            stages: [("hash", hash), ("read", read), ("flush", (0.0, 0))]
                .map(|(name, (ms, entered))| (name.to_owned(), StageTotals { ms, entered }))
                .into(),
        };
        run.stages = vec![
            at(0, (0.0, 0), (0.0, 0)),
            at(1000, (500.0, 2), (4000.0, 8)),
            at(2000, (500.0, 2), (8000.0, 16)),
        ];
        let strips = strips(&run);
        let names: Vec<_> = strips.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["read", "hash"], "what nothing entered is left out");
        assert_eq!((strips[0].mean, strips[1].mean), (4.0, 0.25));
        assert_eq!(strips[1].points, [(1.0, 0.5), (2.0, 0.0)]);
    }
}
