//! rustic, which reads and writes restic's repositories.

use std::path::PathBuf;

use super::{Bed, Contender, PASSWORD, VOLUME_NAME, first_line};
use crate::{error::Error, measure::process::Launch, results::Phase};

pub(super) struct Rustic;

impl Rustic {
    fn rustic(bed: &Bed, program: Launch) -> Launch {
        let address = &bed.address;
        program
            .env("RUSTIC_REPOSITORY", "opendal:s3")
            .env("RUSTIC_PASSWORD", PASSWORD)
            .env("RUSTIC_CACHE_DIR", bed.folder("cache"))
            .env("RUSTIC_NO_PROGRESS", "true")
            .env("OPENDAL_BUCKET", &address.bucket)
            .env("OPENDAL_ROOT", format!("/{}", bed.prefix))
            .env("OPENDAL_ENDPOINT", &address.url)
            .env("OPENDAL_REGION", &address.region)
            .env("OPENDAL_ACCESS_KEY_ID", &address.access_key_id)
            .env("OPENDAL_SECRET_ACCESS_KEY", &address.secret_access_key)
    }
}

impl Contender for Rustic {
    fn name(&self) -> &'static str {
        "rustic"
    }

    fn about(&self) -> &'static str {
        "restic's format in Rust: content-defined chunks, compresses, encrypts; reads standard input"
    }

    fn version(&self) -> Option<String> {
        first_line(&Launch::new("rustic").arg("--version"))
    }

    fn prepare(&self, bed: &Bed) -> Result<(), Error> {
        Self::rustic(bed, Launch::new("rustic").arg("init"))
            .run()
            .map(drop)
    }

    fn launch(&self, phase: Phase, bed: &Bed) -> Launch {
        let launch = match (phase, &bed.device) {
            (Phase::Restore, Some(device)) => Launch::new("rustic")
                .arg("dump")
                .arg(format!("latest:{VOLUME_NAME}"))
                .stdout(device),
            (Phase::Restore, None) => Launch::new("rustic")
                .args(["restore", "latest"])
                .arg(bed.folder("restored")),
            _ => Launch::new("rustic")
                .args(["backup", "--stdin-filename", VOLUME_NAME, "-"])
                .stdin(&bed.volume.path),
        };
        Self::rustic(bed, launch)
    }

    fn restored(&self, bed: &Bed) -> Option<PathBuf> {
        let file = || bed.folder("restored").join(VOLUME_NAME);
        Some(bed.device.clone().unwrap_or_else(file))
    }
}
