//! What jobs did, added up over all of them since the daemon began, for its metrics.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tonic::Code;

use super::Watched;
use crate::failure::Failure;

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
    pub(super) fn end<T>(&self, kind: Kind, job: &Arc<Watched>, ended: &Result<T, Failure>) {
        let outcome = match ended {
            Ok(_) => Outcome::Complete,
            Err(failure) if job.stop.is_asked() && failure.code == Code::Aborted => {
                Outcome::Stopped
            }
            Err(_) => Outcome::Failed,
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
        let carried = job.wire().carried();
        self.sent += carried.sent;
        self.received += carried.received;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_stopped_only_when_that_is_why_it_ended() {
        let ledger = Ledger::default();
        for (is_asked, code) in [
            (true, Code::Aborted),
            (true, Code::ResourceExhausted),
            (false, Code::Aborted),
        ] {
            let job = Watched::new();
            if is_asked {
                job.stop.halt();
            }
            ledger.begin(Kind::Restore, &job);
            ledger.end::<()>(Kind::Restore, &job, &Err(Failure::new(code, "it ended")));
        }
        let ended = ledger.balance().ended;
        assert!(
            ended.contains(&(Kind::Restore, Outcome::Stopped, 1)),
            "{ended:?}"
        );
        assert!(
            ended.contains(&(Kind::Restore, Outcome::Failed, 2)),
            "{ended:?}"
        );
    }
}
