//! ringback's own command line.

use std::{fs, path::PathBuf};

use super::{Bed, Contender, VOLUME_NAME, backup_name, first_line};
use crate::{
    error::Error,
    measure::process::Launch,
    results::{Phase, StageSample},
};

pub(super) struct Ringback {
    pub(super) program: PathBuf,
    pub(super) transfers: usize,
}

impl Ringback {
    fn stats(bed: &Bed) -> PathBuf {
        bed.folder("stats.jsonl")
    }
}

impl Contender for Ringback {
    fn name(&self) -> &'static str {
        "ringback"
    }

    fn about(&self) -> &'static str {
        "backup and restore by the command line, as it is without options"
    }

    fn version(&self) -> Option<String> {
        first_line(&Launch::new(&self.program).arg("--version"))
    }

    fn launch(&self, phase: Phase, bed: &Bed) -> Launch {
        let path = format!("{}/{}", bed.s3_path(), backup_name(phase));
        let ringback = Launch::new(&self.program);
        let ringback = match phase {
            Phase::Restore => ringback.args(["restore", &path]).arg(bed.target()),
            _ => ringback
                .args(["backup", "--identity", VOLUME_NAME])
                .arg(&bed.volume.path)
                .arg(&path),
        };
        ringback
            .args(["--quiet", "--endpoint", &bed.address.url])
            .args(["--transfers", &self.transfers.to_string()])
            .arg("--stats")
            .arg(Self::stats(bed))
            .envs(bed.address.environment())
    }

    fn stages(&self, bed: &Bed) -> Vec<StageSample> {
        let lines = fs::read_to_string(Self::stats(bed)).unwrap_or_default();
        let parsed = lines.lines().map(serde_json::from_str);
        parsed.filter_map(Result::ok).collect()
    }
}
