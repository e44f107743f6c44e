//! benji, which backs up block devices and images to S3 and keeps its metadata in a database:
//! SQLite here.

use std::fs;

use serde_json::json;

use super::{Bed, Contender, VOLUME_NAME, backup_name, first_line};
use crate::{
    error::{Error, Located},
    measure::process::Launch,
    results::Phase,
};

pub(super) struct Benji;

impl Benji {
    fn benji(bed: &Bed) -> Launch {
        Launch::new("benji")
            .arg("--config-file")
            .arg(bed.folder("benji.json"))
            .args(["--log-level", "ERROR"])
            .envs(bed.address.environment())
    }
}

impl Contender for Benji {
    fn keeps_to_its_prefix(&self) -> bool {
        false
    }

    fn name(&self) -> &'static str {
        "benji"
    }

    fn about(&self) -> &'static str {
        "fixed chunks of 4 MiB as objects, zstd, no encryption; metadata in SQLite beside the \
         volume; without the hints of a storage system it reads all"
    }

    fn version(&self) -> Option<String> {
        let found = first_line(&Launch::new("benji").arg("--help"));
        found.map(|_| "benji, which tells its version to nobody".to_owned())
    }

    fn prepare(&self, bed: &Bed) -> Result<(), Error> {
        let address = &bed.address;
        // JSON is YAML, too.
        let config = json!({
            "configurationVersion": "1",
            "databaseEngine": format!("sqlite:///{}", bed.folder("benji.sqlite").display()),
            "processName": "benji",
            "defaultStorage": "sink",
            "storages": [{
                "name": "sink",
                "module": "s3",
                "storageId": 1,
                "configuration": {
                    "awsAccessKeyId": address.access_key_id,
                    "awsSecretAccessKey": address.secret_access_key,
                    "regionName": address.region,
                    "endpointUrl": address.url,
                    "useSsl": address.url.starts_with("https"),
                    "addressingStyle": "path",
                    "bucketName": address.bucket,
                    "activeTransforms": ["zstd"],
                },
            }],
            "transforms": [{ "name": "zstd", "module": "zstd", "configuration": { "level": 1 } }],
            "ios": [{ "name": "file", "module": "file" }],
        });
        let path = bed.folder("benji.json");
        fs::write(&path, config.to_string()).at("write", &path)?;
        Self::benji(bed).arg("database-init").run().map(drop)
    }

    fn fills_target(&self) -> bool {
        true
    }

    fn launch(&self, phase: Phase, bed: &Bed) -> Launch {
        let benji = Self::benji(bed);
        match phase {
            Phase::Restore => benji
                .args(["restore", "--force"])
                .args(bed.device.is_none().then_some("--sparse"))
                .arg(backup_name(phase))
                .arg(format!("file:{}", bed.target().display())),
            _ => benji
                .args(["backup", "--uid", backup_name(phase)])
                .arg(format!("file:{}", bed.volume.path.display()))
                .arg(VOLUME_NAME),
        }
    }
}
