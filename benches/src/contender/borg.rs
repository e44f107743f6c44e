//! borg, which knows no S3: its repository is a folder beside the volume.

use std::{fs, path::PathBuf};

use super::{Bed, Contender, VOLUME_NAME, backup_name, bytes_below, first_line};
use crate::{
    error::{Error, Located},
    measure::process::Launch,
    results::Phase,
};

pub(super) struct Borg;

impl Borg {
    fn borg(bed: &Bed) -> Launch {
        Launch::new("borg")
            .env("BORG_BASE_DIR", bed.folder("borg"))
            .env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes")
    }

    fn archive(bed: &Bed, phase: Phase) -> String {
        let repository = bed.folder("repository");
        format!("{}::{}", repository.display(), backup_name(phase))
    }
}

impl Contender for Borg {
    fn name(&self) -> &'static str {
        "borg"
    }

    fn about(&self) -> &'static str {
        "no S3: its repository is a folder on the volume's disk; chunks of 4 MiB as its manual has \
         it for volumes, lz4, no encryption; reads standard input"
    }

    fn version(&self) -> Option<String> {
        first_line(&Launch::new("borg").arg("--version"))
    }

    fn prepare(&self, bed: &Bed) -> Result<(), Error> {
        let restored = bed.folder("restored");
        fs::create_dir_all(&restored).at("make", &restored)?;
        let init = Self::borg(bed).args(["init", "--encryption", "none"]);
        init.arg(bed.folder("repository")).run().map(drop)
    }

    fn launch(&self, phase: Phase, bed: &Bed) -> Launch {
        let borg = Self::borg(bed);
        match (phase, &bed.device) {
            (Phase::Restore, Some(device)) => borg
                .args(["extract", "--stdout"])
                .args([Self::archive(bed, phase), VOLUME_NAME.to_owned()])
                .stdout(device),
            (Phase::Restore, None) => borg
                .args(["extract", "--sparse"])
                .arg(Self::archive(bed, phase))
                .folder(&bed.folder("restored")),
            _ => borg
                .args(["create", "--compression", "lz4"])
                .args(["--chunker-params", "fixed,4194304"])
                .args(["--stdin-name", VOLUME_NAME])
                .args([Self::archive(bed, phase), "-".to_owned()])
                .stdin(&bed.volume.path),
        }
    }

    fn restored(&self, bed: &Bed) -> Option<PathBuf> {
        let file = || bed.folder("restored").join(VOLUME_NAME);
        Some(bed.device.clone().unwrap_or_else(file))
    }

    fn stored_elsewhere(&self, bed: &Bed) -> Option<u64> {
        Some(bytes_below(&bed.folder("repository")))
    }
}
