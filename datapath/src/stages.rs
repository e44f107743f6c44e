//! Where a job's time goes: how many chunks, or transfers, are in each of its stages, over time.
//!
//! An [`Occupancy`] adds up the time that whatever is in a stage spends there; two at once for a
//! second are two seconds. Divided by the time that passed it is the mean number in the stage: a
//! disk whose queue is full, a core that hashes all the time, a writer that waits for the store.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// A stage of a backup or of a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Waiting for a free buffer: the later stages are behind.
    Buffer,
    /// Being read from the volume.
    Read,
    /// Being tested for zero and hashed.
    Hash,
    /// Being compressed; only what is new.
    Compress,
    /// Being described in the tree and handed to the uploads, one at a time: longer than an
    /// instant when the store or the compression is behind.
    HandOver,
    /// A transfer under way, to or from the store.
    Transfer,
    /// Being held against the hash that the backup names.
    Verify,
    /// Being written to the volume.
    Write,
    /// The volume being made durable.
    Flush,
}

impl Stage {
    /// All of them, in the order in which data flows.
    pub const ALL: [Self; 9] = [
        Self::Buffer,
        Self::Read,
        Self::Hash,
        Self::Compress,
        Self::HandOver,
        Self::Transfer,
        Self::Verify,
        Self::Write,
        Self::Flush,
    ];

    /// What it is called in figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Buffer => "wait for a buffer",
            Self::Read => "read",
            Self::Hash => "hash",
            Self::Compress => "compress",
            Self::HandOver => "hand over",
            Self::Transfer => "transfer",
            Self::Verify => "verify",
            Self::Write => "write",
            Self::Flush => "flush",
        }
    }
}

/// The stages of one job.
#[derive(Debug, Default)]
pub struct Stages([Arc<Occupancy>; Stage::ALL.len()]);

impl Stages {
    /// One of them.
    pub fn of(&self, stage: Stage) -> &Arc<Occupancy> {
        &self.0[stage as usize]
    }
}

/// How many are in a stage, added up over time.
#[derive(Debug)]
pub struct Occupancy(Mutex<State>);

#[derive(Debug)]
struct State {
    inside: u32,
    since: Instant,
    totals: Totals,
}

/// What a stage took up to a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Time inside, of all that were.
    pub time: Duration,
    /// How many have entered.
    pub entered: u64,
}

/// Stands for one that is inside; it leaves when this is dropped.
#[derive(Debug)]
pub struct Inside(Arc<Occupancy>);

impl Default for Occupancy {
    fn default() -> Self {
        Self(Mutex::new(State {
            inside: 0,
            since: Instant::now(),
            totals: Totals::default(),
        }))
    }
}

impl Occupancy {
    /// One more enters.
    pub fn enter(self: &Arc<Self>) -> Inside {
        let mut state = self.state();
        state.advance(Instant::now());
        state.inside += 1;
        state.totals.entered += 1;
        Inside(Arc::clone(self))
    }

    /// Up to now, with those that are inside.
    pub fn totals(&self) -> Totals {
        let mut state = self.state();
        state.advance(Instant::now());
        state.totals
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn advance(&mut self, now: Instant) {
        self.totals.time += now.saturating_duration_since(self.since) * self.inside;
        self.since = now;
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.advance(Instant::now());
        state.inside -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_at_once_count_twice_and_nobody_counts_nothing() {
        let start = Instant::now();
        let mut state = State {
            inside: 0,
            since: start,
            totals: Totals::default(),
        };
        let second = Duration::from_secs(1);
        state.advance(start + second);
        assert_eq!(state.totals.time, Duration::ZERO);
        state.inside = 2;
        state.advance(start + 3 * second);
        assert_eq!(state.totals.time, 4 * second);
        state.inside = 1;
        state.advance(start + 4 * second);
        assert_eq!(state.totals.time, 5 * second);
    }

    #[test]
    fn who_is_dropped_has_left() {
        let stages = Stages::default();
        let read = stages.of(Stage::Read);
        let (one, two) = (read.enter(), read.enter());
        assert_eq!(read.state().inside, 2);
        drop(one);
        drop(two);
        assert_eq!(read.state().inside, 0);
        assert_eq!(read.totals().entered, 2);
        assert_eq!(stages.of(Stage::Hash).totals(), Totals::default());
    }

    #[test]
    fn every_stage_has_a_place_and_a_name_of_its_own() {
        for (at, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, at);
            let same = Stage::ALL.iter().filter(|it| it.name() == stage.name());
            assert_eq!(same.count(), 1, "{}", stage.name());
        }
    }
}
