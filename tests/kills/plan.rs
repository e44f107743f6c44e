//! Which kills are made, and which were.
//!
//! `RINGBACK_KILLS` is how many in each phase (1), `RINGBACK_SEED` which of a phase's points (1),
//! `RINGBACK_KILL=phase:point` makes that one kill alone.

use std::{collections::BTreeMap, env, fmt::Write as _, thread};

use crate::phase::{Blow, Phase};

/// Which kills are to be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    kills: usize,
    seed: u64,
    only: Option<Blow>,
}

impl Plan {
    /// As the environment says.
    pub(crate) fn from_environment() -> Self {
        let number = |name: &str| match env::var(name) {
            Ok(text) => text
                .parse()
                .unwrap_or_else(|_| panic!("{name} is {text:?}; it should be a number")),
            Err(_) => 1,
        };
        let only = env::var("RINGBACK_KILL").ok().map(|text| {
            parse(&text)
                .unwrap_or_else(|| panic!("RINGBACK_KILL is {text:?}; it should be like read:3"))
        });
        Self {
            kills: usize::try_from(number("RINGBACK_KILLS")).expect("a small number"),
            seed: number("RINGBACK_SEED"),
            only,
        }
    }

    /// The kills in a phase of so many points: spread over all of them, begun where the seed says.
    pub(crate) fn blows(&self, phase: Phase, points: usize) -> Vec<Blow> {
        if let Some(only) = self.only {
            return Vec::from_iter((only.phase == phase).then_some(only));
        }
        assert!(points > 0, "nothing can be hit in {phase}");
        let begin = self.begin(phase, points);
        let blow = |number| Blow {
            phase,
            point: (begin + number * points / self.kills) % points,
        };
        (0..self.kills.max(1)).map(blow).collect()
    }

    /// Whether any kill in these phases is to be made.
    pub(crate) fn has(&self, phases: &[Phase]) -> bool {
        self.only.is_none_or(|only| phases.contains(&only.phase))
    }

    fn begin(&self, phase: Phase, points: usize) -> usize {
        let hash = blake3::hash(format!("{} {phase}", self.seed).as_bytes());
        let number = u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("eight bytes"));
        usize::try_from(number % points as u64).expect("less than `points`")
    }
}

/// A point that a run does not reach (one takes more steps than another) is tried nearer its
/// start.
pub(crate) fn candidates(point: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(point), |point| (*point > 0).then_some(point / 2))
}

fn parse(text: &str) -> Option<Blow> {
    let (phase, point) = text.split_once(':')?;
    Some(Blow {
        phase: Phase::parse(phase)?,
        point: point.parse().ok()?,
    })
}

/// Prints how to make a kill again when its test fails.
pub(crate) struct Replay {
    pub(crate) test: &'static str,
    pub(crate) blow: Blow,
}

impl Drop for Replay {
    fn drop(&mut self) {
        if thread::panicking() {
            let Blow { phase, point } = self.blow;
            let features = match cfg!(feature = "privileged") {
                true => " --features privileged",
                false => "",
            };
            eprintln!(
                "replay: RINGBACK_KILL={phase}:{point} cargo test -p ringback{features} \
                 --test kills {}",
                self.test
            );
        }
    }
}

/// What was hit.
#[derive(Debug, Default)]
pub(crate) struct Tally(BTreeMap<Phase, BTreeMap<String, usize>>);

impl Tally {
    pub(crate) fn count(&mut self, phase: Phase, what: String) {
        *self.0.entry(phase).or_default().entry(what).or_default() += 1;
    }

    pub(crate) fn add(&mut self, other: Tally) {
        for (phase, points) in other.0 {
            for (what, times) in points {
                *self.0.entry(phase).or_default().entry(what).or_default() += times;
            }
        }
    }

    pub(crate) fn all(&self) -> usize {
        self.0.values().flat_map(BTreeMap::values).sum()
    }

    /// How often the phase was hit.
    pub(crate) fn of(&self, phase: Phase) -> usize {
        self.0.get(&phase).map_or(0, |points| points.values().sum())
    }

    /// A table, a bar for each phase, and what the daemon was about to do or had just done.
    pub(crate) fn histogram(&self) -> String {
        let mut table = format!("{} kills\n", self.all());
        for (phase, points) in &self.0 {
            let hits = self.of(*phase);
            let what: Vec<String> = points
                .iter()
                .map(|(what, times)| match times {
                    1 => what.clone(),
                    times => format!("{what} x{times}"),
                })
                .collect();
            let bar = "#".repeat(hits.min(40));
            let _ = writeln!(table, "{phase:<20}{hits:>4} {bar} {}", what.join(", "));
        }
        table
    }
}
