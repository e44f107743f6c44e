//! ringback's own command line.

use std::{fs, path::PathBuf};

use super::{Bed, Contender, PASSWORD, VOLUME_NAME, backup_name, first_line};
use crate::{
    measure::process::Launch,
    results::{Phase, StageSample},
};

pub(super) struct Ringback {
    pub(super) program: PathBuf,
    pub(super) transfers: usize,
    pub(super) way: Way,
}

/// What it is asked to do with the bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Nothing is asked: it compresses as hard as the bottleneck makes worth while.
    Plain,
    /// Not to compress.
    Uncompressed,
    /// To encrypt.
    Encrypted,
}

impl Ringback {
    fn stats(bed: &Bed) -> PathBuf {
        bed.folder("stats.jsonl")
    }
}

impl Contender for Ringback {
    fn name(&self) -> &'static str {
        match self.way {
            Way::Plain => "ringback",
            Way::Uncompressed => "ringback-none",
            Way::Encrypted => "ringback-sealed",
        }
    }

    fn about(&self) -> &'static str {
        match self.way {
            Way::Plain => "backup and restore by the command line, as it is without options",
            Way::Uncompressed => "the same with --compression none: as many bytes as the raw limit",
            Way::Encrypted => "the same with a passphrase: every record is sealed",
        }
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
                .args(["backup", "--identity", VOLUME_NAME, "--cache-directory"])
                .arg(bed.folder("cache"))
                .arg(&bed.volume.path)
                .arg(&path),
        };
        let ringback = match self.way {
            Way::Uncompressed if phase != Phase::Restore => {
                ringback.args(["--compression", "none"])
            }
            Way::Encrypted => ringback.env("RINGBACK_PASSPHRASE", PASSWORD),
            Way::Plain | Way::Uncompressed => ringback,
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
