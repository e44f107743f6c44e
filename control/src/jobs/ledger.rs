//! What jobs did, added up over all of them since the daemon began, for its metrics.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Watched;

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A volume goes to the store.
    Backup,
    /// And comes back.
    Restore,
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it was to do.
    Complete,
    /// It did not.
    Failed,
    /// It was told to end before its end.
    Stopped,
}

/// The books of all jobs.
#[derive(Default)]
pub struct Ledger(Mutex<Books>);

#[derive(Default)]
struct Books {
    running: Vec<(Kind, Arc<Watched>)>,
    ended: [[u64; Outcome::ALL.len()]; Kind::ALL.len()],
    /// Of jobs that have ended.
    moved: Moved,
}

/// Bytes that jobs moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// From volumes, by backups.
    pub read: u64,
    /// To volumes, by restores.
    pub restored: u64,
    /// To stores.
    pub sent: u64,
    /// From stores.
    pub received: u64,
}

/// All that the books say at one moment.
pub struct Balance {
    /// How many jobs of each kind run, those that wait for their turn included.
    pub running: [(Kind, u64); Kind::ALL.len()],
    /// How many jobs of each kind ended in which way.
    pub ended: Vec<(Kind, Outcome, u64)>,
    /// Of all jobs, whether or not they have ended: it never becomes less.
    pub moved: Moved,
}

impl Kind {
    /// Each of them.
    pub const ALL: [Self; 2] = [Self::Backup, Self::Restore];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Restore => "restore",
        }
    }
}

impl Outcome {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Complete, Self::Failed, Self::Stopped];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

impl Ledger {
    pub(super) fn begin(&self, kind: Kind, job: &Arc<Watched>) {
        self.books().running.push((kind, Arc::clone(job)));
    }

    /// Once for each job that began, when it moves no more bytes.
    pub(super) fn end(&self, kind: Kind, job: &Arc<Watched>, is_done: bool) {
        let outcome = match is_done {
            true => Outcome::Complete,
            false if job.stop.is_asked() => Outcome::Stopped,
            false => Outcome::Failed,
        };
        let mut books = self.books();
        books.running.retain(|(_, it)| !Arc::ptr_eq(it, job));
        books.ended[kind as usize][outcome as usize] += 1;
        books.moved.add(kind, job);
    }

    /// What the books say now.
    pub fn balance(&self) -> Balance {
        let books = self.books();
        let mut moved = books.moved;
        for (kind, job) in &books.running {
            moved.add(*kind, job);
        }
        let count = |kind| books.running.iter().filter(|(it, _)| *it == kind).count();
        let ended = Kind::ALL.into_iter().flat_map(|kind| {
            Outcome::ALL
                .map(|outcome| (kind, outcome, books.ended[kind as usize][outcome as usize]))
        });
        Balance {
            running: Kind::ALL.map(|kind| (kind, count(kind) as u64)),
            ended: ended.collect(),
            moved,
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Moved {
    fn add(&mut self, kind: Kind, job: &Watched) {
        let at_the_volume = job.progress.volume_io_bytes();
        match kind {
            Kind::Backup => self.read += at_the_volume,
            Kind::Restore => self.restored += at_the_volume,
        }
        if let Some(store) = job.store.get() {
            self.sent += store.meter().sent();
            self.received += store.meter().received();
        }
    }
}
