//! A repository in a folder on a volume of its own, and the command line that uses it without a
//! daemon.

use std::process::{Command, Output};

use serde_json::Value;

use crate::bed::{Bed, Group, Lv, Mount};

const RINGBACK: &str = env!("CARGO_BIN_EXE_ringback");

/// A repository on ext4 on a thick volume.
pub(crate) struct Repository {
    mount: Mount,
    _volume: Lv,
}

impl Repository {
    pub(crate) fn new(bed: &Bed, group: &Group) -> Self {
        let volume = group.thick("repository", 256);
        Self {
            mount: bed.mount_new("ext4", &volume.path),
            _volume: volume,
        }
    }

    /// Where a backup of this name lies.
    pub(crate) fn url(&self, name: &str) -> String {
        format!("file://{}/{name}", self.mount.0.display())
    }

    /// The names of the backups in it.
    #[track_caller]
    pub(crate) fn names(&self) -> Vec<String> {
        let listed = ringback(&["list", self.url("").trim_end_matches('/'), "--json"]);
        // A repository that no backup was begun in is none yet.
        if listed.status.code() == Some(3) {
            return Vec::new();
        }
        assert_ended(&listed, 0, "");
        let backups: Vec<Value> = serde_json::from_slice(&listed.stdout).expect("JSON");
        let names = backups.iter().map(|backup| backup["name"].as_str());
        names.map(|name| name.expect("a name").to_owned()).collect()
    }
}

/// Runs `ringback`, which tells what it does.
#[track_caller]
pub(crate) fn ringback(arguments: &[&str]) -> Output {
    let mut command = Command::new(RINGBACK);
    command.args(arguments).env("RINGBACK_LOG", "info");
    command.output().expect("runs")
}

/// All that it printed, when it must succeed.
#[track_caller]
pub(crate) fn succeed(arguments: &[&str]) -> String {
    let output = ringback(arguments);
    assert_ended(&output, 0, "");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Asserts that it ended with this exit code and said this.
#[track_caller]
pub(crate) fn assert_ended(output: &Output, code: i32, says: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains(says), "wanted: {says}\nsaid: {said}");
}
