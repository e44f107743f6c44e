//! What came out of a run: everything that was measured, as it is written with `--json`.
//!
//! Bytes are bytes, times are seconds unless a name says otherwise.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    measure::{machine::Machine, process::Sample},
    statistics::Spread,
    units::{gib, mib},
};

/// Changes when a reader of an older file would misunderstand a newer one.
pub const RESULTS_VERSION: u32 = 1;

/// One of the things that every contender does, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The first backup of a volume.
    First,
    /// The second, of the same volume.
    Unchanged,
    /// The third, after some blocks of it have changed.
    Changed,
    /// The third one comes back.
    Restore,
}

impl Phase {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::First, Self::Unchanged, Self::Changed, Self::Restore];

    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Self::First => "first backup",
            Self::Unchanged => "second, unchanged",
            Self::Changed => "third, changed",
            Self::Restore => "restore",
        }
    }

    /// What the raw limit does that can be held against this phase: it knows nothing of changes.
    pub fn limited_by(self) -> Self {
        match self {
            Self::Changed => Self::Unchanged,
            other => other,
        }
    }
}

/// Everything that a run found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Results {
    /// [`RESULTS_VERSION`].
    pub version: u32,
    /// The command line.
    pub command: Vec<String>,
    /// What was measured: `git describe` of the source tree, if there is one.
    pub commit: Option<String>,
    /// Where.
    pub machine: Machine,
    /// On what.
    pub volume: VolumeResults,
    /// The sink, for people.
    pub sink: String,
    /// How often each contender went through all phases.
    pub rounds: u32,
    /// What makes the figures doubtful.
    pub warnings: Vec<String>,
    /// All contenders, those included that are not installed.
    pub contenders: Vec<ContenderResults>,
}

/// The volume that was backed up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VolumeResults {
    /// What is in it, for people.
    pub workload: String,
    /// Its size.
    pub bytes: u64,
    /// BLAKE3 of it, hexadecimal: two runs with the same one measured the same bytes.
    pub blake3: String,
    /// Blocks of 4 KiB that changed before the third backup.
    pub changed_blocks: u64,
}

/// One contender.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContenderResults {
    /// Its name.
    pub name: String,
    /// What it does with the bytes, and where they go.
    pub about: String,
    /// What it says of itself; `None`: it is not installed.
    pub version: Option<String>,
    /// Why it did not come to its end, if it did not.
    pub failure: Option<String>,
    /// What it did, in order of phases.
    pub phases: Vec<PhaseResults>,
}

/// One phase of one contender, over all rounds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PhaseResults {
    /// Which.
    pub phase: Phase,
    /// Medians.
    pub summary: Summary,
    /// Each round.
    pub runs: Vec<Run>,
}

/// One phase of one contender in one round.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    /// Which round, from 1.
    pub round: u32,
    /// From start to end, with what it takes to make a restored volume durable.
    pub seconds: f64,
    /// CPU of its processes in user mode.
    pub user_seconds: f64,
    /// CPU of its processes in the kernel.
    pub system_seconds: f64,
    /// CPU of the sink meanwhile; 0 for one that is not ours.
    pub sink_cpu_seconds: f64,
    /// Share of all cores that was busy meanwhile with neither the contender nor the sink.
    pub other_cpu_share: f64,
    /// Most memory its processes had resident.
    pub peak_rss_bytes: u64,
    /// Bytes that its processes had the kernel read from storage.
    pub disk_read_bytes: u64,
    /// Bytes that its processes had the kernel write to storage.
    pub disk_written_bytes: u64,
    /// What the sink counted; `None` for one that is not ours.
    pub wire: Option<Wire>,
    /// Bytes of the repository behind the phase.
    pub stored_bytes: Option<u64>,
    /// Ten times a second.
    pub samples: Vec<Sample>,
    /// What the contender tells of its own stages, if it does.
    pub stages: Vec<StageSample>,
}

/// Requests and bytes as the sink counted them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wire {
    /// Requests by the name of their operation.
    pub requests: BTreeMap<String, u64>,
    /// Bytes in bodies to the sink.
    pub sent_bytes: u64,
    /// Bytes in bodies from the sink.
    pub received_bytes: u64,
}

impl Wire {
    /// All requests.
    pub fn requests_total(&self) -> u64 {
        self.requests.values().sum()
    }

    /// What passed since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let earlier = |name: &str| before.requests.get(name).copied().unwrap_or(0);
        let requests = self.requests.iter();
        Self {
            requests: requests
                .map(|(name, count)| (name.clone(), count - earlier(name)))
                .filter(|(_, count)| *count > 0)
                .collect(),
            sent_bytes: self.sent_bytes - before.sent_bytes,
            received_bytes: self.received_bytes - before.received_bytes,
        }
    }
}

/// One line of what `ringback --stats` writes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StageSample {
    /// Since the beginning.
    pub ms: u64,
    /// By stage.
    pub stages: BTreeMap<String, StageTotals>,
}

/// A stage's time up to a moment.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct StageTotals {
    /// Milliseconds that chunks, or transfers, have been in it, added up: two at once for 1 ms are
    /// 2 ms.
    pub ms: f64,
    /// How many have entered it.
    pub entered: u64,
}

/// Medians over the rounds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Summary {
    /// From start to end.
    pub seconds: Option<Spread>,
    /// Size of the volume by the median of the seconds.
    pub mib_per_second: f64,
    /// Seconds of the raw limit by those of this contender, in each round; 1: as fast as the limit.
    pub of_raw_limit: Option<Spread>,
    /// User and system, per GiB of the volume.
    pub cpu_seconds_per_gib: f64,
    /// Most memory in any round.
    pub peak_rss_bytes: u64,
    /// Requests, of all kinds.
    pub requests: Option<f64>,
    /// Bytes to the sink.
    pub sent_bytes: Option<f64>,
    /// Bytes from the sink.
    pub received_bytes: Option<f64>,
    /// Bytes of the repository behind the phase.
    pub stored_bytes: Option<f64>,
}

impl Summary {
    /// Of the runs of a phase on a volume of so many bytes, against the runs of the raw limit.
    pub fn of(runs: &[Run], limit: &[Run], volume_bytes: u64) -> Self {
        let seconds = Spread::of(runs.iter().map(|run| run.seconds));
        let of_raw_limit = Spread::of(runs.iter().filter_map(|run| {
            let limit = limit.iter().find(|limit| limit.round == run.round)?;
            Some(limit.seconds / run.seconds)
        }));
        let cpu = Spread::of(runs.iter().map(|run| run.user_seconds + run.system_seconds));
        let wire = |figure: fn(&Wire) -> u64| {
            let counted = runs.iter().filter_map(|run| run.wire.as_ref());
            Spread::of(counted.map(|wire| figure(wire) as f64)).map(|spread| spread.median)
        };
        let stored = runs.iter().filter_map(|run| run.stored_bytes);
        Self {
            seconds,
            mib_per_second: seconds.map_or(0.0, |spread| mib(volume_bytes) / spread.median),
            of_raw_limit,
            cpu_seconds_per_gib: cpu.map_or(0.0, |spread| spread.median / gib(volume_bytes)),
            peak_rss_bytes: runs.iter().map(|run| run.peak_rss_bytes).max().unwrap_or(0),
            requests: wire(Wire::requests_total),
            sent_bytes: wire(|wire| wire.sent_bytes),
            received_bytes: wire(|wire| wire.received_bytes),
            stored_bytes: Spread::of(stored.map(|bytes| bytes as f64)).map(|spread| spread.median),
        }
    }
}

impl ContenderResults {
    /// What it did in this phase, if it has it.
    pub fn phase(&self, phase: Phase) -> Option<&PhaseResults> {
        self.phases.iter().find(|results| results.phase == phase)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A run of so many seconds, all else made up.
    pub(crate) fn run(round: u32, seconds: f64) -> Run {
        Run {
            round,
            seconds,
            user_seconds: seconds,
            system_seconds: seconds / 2.0,
            sink_cpu_seconds: 0.5,
            other_cpu_share: 0.01,
            peak_rss_bytes: 100 << 20,
            disk_read_bytes: 1 << 30,
            disk_written_bytes: 0,
            wire: Some(Wire {
                requests: [("PutObject".to_owned(), 3)].into(),
                sent_bytes: 5 << 20,
                received_bytes: 7,
            }),
            stored_bytes: Some(5 << 20),
            samples: Vec::new(),
            stages: Vec::new(),
        }
    }

    #[test]
    fn a_ratio_is_taken_round_by_round() {
        let limit = [run(1, 1.0), run(2, 4.0)];
        // The machine was slow in the second round, for both.
        let runs = [run(1, 2.0), run(2, 8.0)];
        let summary = Summary::of(&runs, &limit, 1 << 30);
        let ratio = summary.of_raw_limit.expect("both have both rounds");
        assert_eq!((ratio.min, ratio.median, ratio.max), (0.5, 0.5, 0.5));
        assert_eq!(summary.mib_per_second, 1024.0 / 5.0);
        assert_eq!(summary.cpu_seconds_per_gib, 7.5);
        assert_eq!(summary.requests, Some(3.0));
        assert!(Summary::of(&runs, &[], 1 << 30).of_raw_limit.is_none());
    }

    #[test]
    fn what_passed_before_a_phase_is_not_counted_to_it() {
        let wire = |puts, gets| Wire {
            requests: [
                ("PutObject".to_owned(), puts),
                ("GetObject".to_owned(), gets),
            ]
            .into(),
            sent_bytes: puts * 10,
            received_bytes: gets,
        };
        let passed = wire(5, 2).since(&wire(3, 2));
        assert_eq!(passed.requests, [("PutObject".to_owned(), 2)].into());
        assert_eq!((passed.sent_bytes, passed.received_bytes), (20, 0));
        assert_eq!(passed.requests_total(), 2);
    }
}
