//! What the disk does: fio, with io_uring and O_DIRECT.

use std::{fs::File, io, path::PathBuf};

use serde::Deserialize;

use super::{Bed, Contender, first_line};
use crate::{
    error::{Error, Located},
    measure::process::Launch,
    results::Phase,
};

pub(super) struct Fio;

/// What fio writes, as far as it matters here.
#[derive(Deserialize)]
struct Report {
    jobs: Vec<Job>,
}

#[derive(Deserialize)]
struct Job {
    read: Direction,
    write: Direction,
}

#[derive(Deserialize)]
struct Direction {
    /// Milliseconds.
    runtime: f64,
}

impl Contender for Fio {
    fn name(&self) -> &'static str {
        "fio"
    }

    fn about(&self) -> &'static str {
        "the disk alone: reads the volume, or writes one, 1 MiB at a time, 32 at once; no sink"
    }

    fn version(&self) -> Option<String> {
        first_line(&Launch::new("fio").arg("--version"))
    }

    fn phases(&self) -> &'static [Phase] {
        &[Phase::First, Phase::Restore]
    }

    fn fills_target(&self) -> bool {
        true
    }

    fn launch(&self, phase: Phase, bed: &Bed) -> Launch {
        let fio = Launch::new("fio")
            .args(["--name=limit", "--ioengine=io_uring", "--direct=1"])
            .args(["--bs=1M", "--iodepth=32", "--output-format=json"])
            .arg(format!("--size={}", bed.volume.bytes))
            .arg(format!("--output={}", bed.folder("fio.json").display()));
        match phase {
            Phase::Restore => fio
                .args(["--rw=write", "--end_fsync=1", "--fallocate=none"])
                .arg(format!("--filename={}", bed.target().display())),
            _ => fio
                .args(["--rw=read", "--readonly"])
                .arg(format!("--filename={}", bed.volume.path.display())),
        }
    }

    fn restored(&self, _bed: &Bed) -> Option<PathBuf> {
        None
    }

    /// Without the half second that fio takes to begin.
    fn own_seconds(&self, phase: Phase, bed: &Bed) -> Result<Option<f64>, Error> {
        let path = bed.folder("fio.json");
        let report: Report = serde_json::from_reader(File::open(&path).at("open", &path)?)
            .map_err(io::Error::from)
            .at("read", &path)?;
        let job = report.jobs.first();
        let direction = job.map(|job| match phase {
            Phase::Restore => &job.write,
            _ => &job.read,
        });
        Ok(direction.map(|direction| direction.runtime / 1000.0))
    }
}
