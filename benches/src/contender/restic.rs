//! restic, from standard input, the way it takes volumes: it does not read devices otherwise.

use std::path::PathBuf;

use super::{Bed, Contender, PASSWORD, VOLUME_NAME, first_line};
use crate::{error::Error, measure::process::Launch, results::Phase};

pub(super) struct Restic;

impl Restic {
    fn restic(bed: &Bed, program: Launch) -> Launch {
        let Bed {
            address, prefix, ..
        } = bed;
        let repository = format!("s3:{}/{}/{prefix}", address.url, address.bucket);
        program
            .envs(address.environment())
            .env("RESTIC_REPOSITORY", repository)
            .env("RESTIC_PASSWORD", PASSWORD)
            .env("RESTIC_CACHE_DIR", bed.folder("cache"))
    }
}

impl Contender for Restic {
    fn name(&self) -> &'static str {
        "restic"
    }

    fn about(&self) -> &'static str {
        "content-defined chunks, compresses, encrypts; reads standard input, restores to a file"
    }

    fn version(&self) -> Option<String> {
        first_line(&Launch::new("restic").arg("version"))
    }

    fn prepare(&self, bed: &Bed) -> Result<(), Error> {
        let init = Launch::new("restic").args(["init", "--quiet", "--repository-version", "2"]);
        Self::restic(bed, init).run().map(drop)
    }

    fn launch(&self, phase: Phase, bed: &Bed) -> Launch {
        let launch = match (phase, &bed.device) {
            (Phase::Restore, Some(device)) => Launch::new("restic")
                .args(["dump", "--quiet", "latest", VOLUME_NAME])
                .stdout(device),
            (Phase::Restore, None) => Launch::new("restic")
                .args(["restore", "--quiet", "latest", "--target"])
                .arg(bed.folder("restored")),
            _ => Launch::new("restic")
                .args([
                    "backup",
                    "--quiet",
                    "--stdin",
                    "--stdin-filename",
                    VOLUME_NAME,
                ])
                .stdin(&bed.volume.path),
        };
        Self::restic(bed, launch)
    }

    fn restored(&self, bed: &Bed) -> Option<PathBuf> {
        let file = || bed.folder("restored").join(VOLUME_NAME);
        Some(bed.device.clone().unwrap_or_else(file))
    }
}
