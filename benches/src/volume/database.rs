//! A filesystem with a database that has been written to in random order. Python's standard
//! library brings the SQLite, e2fsprogs the filesystem; neither needs root.

use std::{
    fs::{self, File},
    path::Path,
};

use super::{fill_holes, with_scratch};
use crate::{
    error::{Error, Located},
    measure::process::Launch,
};

/// Fills an SQLite file with rows, then writes to them in random order, from a seed.
const LOAD: &str = include_str!("../../histories/sqlite_load.py");
/// How much of the volume the database takes, in percent.
const FILLED_PERCENT: u64 = 75;

/// Makes the volume at `path`.
pub(super) fn make(path: &Path, bytes: u64) -> Result<(), Error> {
    with_scratch(path, |scratch| make_with(path, bytes, scratch))
}

fn make_with(path: &Path, bytes: u64, scratch: &Path) -> Result<(), Error> {
    let files = scratch.join("files");
    fs::create_dir_all(&files).at("make", &files)?;
    let fill_mib = (bytes / 100 * FILLED_PERCENT) >> 20;
    Launch::new("python3")
        .args(["-c", LOAD])
        .arg(files.join("database.sqlite"))
        .args(["--fill-mib", &fill_mib.to_string(), "--seed", "1"])
        .args(["--updates", &(fill_mib * 16).to_string()])
        .run()
        .map_err(|error| match error {
            Error::Start { source, .. } => Error::Other(format!(
                "python3 does not start ({source}); the workload `database` needs it for SQLite"
            )),
            other => other,
        })?;
    let image = File::create(path).at("make", path)?;
    image.set_len(bytes).at("size", path)?;
    Launch::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=0", "-d"])
        .args([&files, path])
        .run()?;
    fill_holes(path, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "needs e2fsprogs and python3; .ci/run runs it"]
    fn the_database_on_the_volume_is_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("database.img");
        make(&path, 32 << 20).expect("made");
        let copy = folder.path().join("copy.sqlite");
        let dump = format!("dump /database.sqlite {}", copy.display());
        Launch::new("debugfs")
            .args(["-R", &dump])
            .arg(&path)
            .run()
            .expect("dumped");
        let check = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); \
                     print(*db.execute('pragma integrity_check').fetchone(), \
                     db.execute('select count(*) from rows').fetchone()[0] > 1000)";
        let said = Launch::new("python3").args(["-c", check]).arg(&copy).run();
        assert_eq!(said.expect("checked"), "ok True\n");
    }
}
