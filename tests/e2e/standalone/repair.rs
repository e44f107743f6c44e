//! `ringback repair`: damage is written down, later backups heal it, and the index is made again.

use std::{fs, path::PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use super::Bed;
use crate::{command_line::assert_failed, damage::flip, harness::MIB, store::assert_same_content};

/// A repository in a folder, so that its objects can be damaged, with a backup of a disk.
struct Damaged {
    bed: Bed,
    repository: TempDir,
}

impl Damaged {
    async fn new() -> Self {
        let damaged = Self {
            bed: Bed::with_disk().await,
            repository: tempfile::tempdir().expect("a folder"),
        };
        damaged
            .bed
            .lines(&damaged.command("backup ./disk.img REPO/monday"));
        damaged
    }

    /// Arguments with the repository's URL for REPO.
    fn command(&self, arguments: &str) -> String {
        arguments.replace(
            "REPO",
            &format!("file://{}", self.repository.path().display()),
        )
    }

    /// The one object below a folder of the repository.
    fn object(&self, folder: &str) -> PathBuf {
        let entry = |folder: PathBuf| {
            let mut entries = fs::read_dir(folder).expect("lists");
            let entry = entries.next().expect("has an entry").expect("lists");
            entry.path()
        };
        entry(entry(self.repository.path().join(folder)))
    }

    /// How a repair that leaves damage ends.
    fn assert_repair(&self, arguments: &str, does: &str) {
        let output = self
            .bed
            .run(&self.command(&format!("repair REPO {arguments}")));
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains(does), "{said}");
        let lasts = "1 case of damage; 256 KiB of volumes cannot be restored; back the volumes up \
                     again to heal what they still hold";
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(complaint.contains(lasts), "{complaint}");
        assert_eq!(output.status.code(), Some(6));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_chunk_is_marked_stored_again_by_the_next_backup_and_found_by_every_restore() {
    let damaged = Damaged::new().await;
    let bed = &damaged.bed;
    let pack = damaged.object("data");
    flip(&pack, fs::metadata(&pack).expect("is there").len() / 2);

    let marks = "1 pack to be marked as damaged, 0 index segments to be replaced";
    damaged.assert_repair("--data --dry-run", marks);
    damaged.assert_repair("--data --dry-run", marks);
    damaged.assert_repair(
        "--data",
        "1 pack marked as damaged, 0 index segments replaced",
    );
    damaged.assert_repair("--data", "nothing to repair");
    let restore = damaged.command("restore REPO/monday ./lost.img");
    assert_failed(&bed.run(&restore), 6, "is damaged at byte");

    // The pack is not used any more, so all that lies in it is stored again.
    let tuesday = bed.json(&damaged.command("backup ./disk.img REPO/tuesday"));
    assert_eq!(tuesday["backup"]["new_bytes"], 2 * MIB);
    for backup in ["monday", "tuesday"] {
        let target = format!("{backup}.img");
        let output = bed.run(&damaged.command(&format!("restore REPO/{backup} ./{target}")));
        assert_eq!(output.status.code(), Some(0), "{backup}");
        let [original, restored] =
            ["disk.img", &target].map(|it| bed.path(it).display().to_string());
        assert_same_content(&original, &restored);
    }
    for command in ["verify", "repair"] {
        let lines = bed.lines(&damaged.command(&format!("{command} REPO --data")));
        let healed = "names; another copy is whole, and restores take that";
        assert!(lines[0].ends_with(healed), "{lines:?}");
    }
    let report = bed.json(&damaged.command("repair REPO --data"));
    assert_eq!(
        (
            &report["marked_packs"],
            &report["lasting"],
            &report["findings"][0]["healed"]
        ),
        (&0.into(), &0.into(), &true.into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_index_is_made_again_and_data_of_another_volume_is_known_by_it() {
    let damaged = Damaged::new().await;
    let bed = &damaged.bed;
    let segments = damaged.repository.path().join("index");
    fs::remove_dir_all(segments).expect("removes");
    let report: Value = bed.json(&damaged.command("repair REPO"));
    assert_eq!(
        (
            &report["dropped_segments"],
            &report["indexed_packs"],
            &report["lasting"]
        ),
        (&1.into(), &1.into(), &0.into())
    );
    bed.lines(&damaged.command("verify REPO --data"));
    fs::copy(bed.path("disk.img"), bed.path("copy.img")).expect("copies");
    let copy = bed.json(&damaged.command("backup ./copy.img REPO/copy --identity other"));
    assert_eq!(
        (
            &copy["backup"]["new_bytes"],
            &copy["backup"]["duplicate_bytes"]
        ),
        (&0.into(), &(2 * MIB).into())
    );
}
