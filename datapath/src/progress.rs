//! How far a job has come, for whoever looks.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::stages::{Inside, Stage, Stages};

/// Counters of one job; written by it, read by anybody.
#[derive(Debug, Default)]
pub struct Progress {
    done_bytes: AtomicU64,
    total_bytes: AtomicU64,
    volume_io_bytes: AtomicU64,
    stages: Stages,
}

impl Progress {
    /// Bytes of the volume dealt with.
    pub fn done_bytes(&self) -> u64 {
        self.done_bytes.load(Ordering::Relaxed)
    }

    /// Bytes there are to deal with; 0 until known.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes.load(Ordering::Relaxed)
    }

    /// Bytes read from or written to the volume.
    pub fn volume_io_bytes(&self) -> u64 {
        self.volume_io_bytes.load(Ordering::Relaxed)
    }

    /// Tells how many bytes there are to deal with.
    pub fn set_total(&self, bytes: u64) {
        self.total_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn set_done(&self, bytes: u64) {
        self.done_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Counts bytes that have been dealt with.
    pub fn add_done(&self, bytes: u64) {
        self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Where the time goes.
    pub fn stages(&self) -> &Stages {
        &self.stages
    }

    /// Something enters a stage, and leaves it when what this returns is dropped.
    pub(crate) fn enter(&self, stage: Stage) -> Inside {
        self.stages.of(stage).enter()
    }

    pub(crate) fn add_volume_io(&self, bytes: u64) {
        self.volume_io_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}
