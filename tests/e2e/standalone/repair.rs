//! Damage in a folder, what `repair` makes of it, and the later backup that heals it.

use std::fs;

use serde_json::Value;

use super::{Bed, folder::Repository};
use crate::{
    damage::flip,
    harness::MIB,
    store::{assert_same_content, fill},
};

/// A line of the output that says this.
fn assert_says(output: &std::process::Output, code: i32, says: &[&str]) {
    let told = [&output.stdout[..], &output.stderr[..]].concat();
    let told = String::from_utf8_lossy(&told);
    assert_eq!(output.status.code(), Some(code), "{told}");
    for says in says {
        assert!(told.contains(says), "{says:?} is not in {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_pack_is_marked_and_the_next_backup_of_its_data_heals_the_ones_before() {
    let (bed, repository) = (Bed::with_disk().await, Repository::new());
    let (url, disk) = (repository.url(""), bed.path("disk.img"));
    let disk = disk.display().to_string();
    bed.lines(&format!("backup ./disk.img {url}/monday --handle vm-1"));
    let before = bed.path("before.img").display().to_string();
    fs::copy(&disk, &before).expect("copies");
    let [pack] = repository.files("data").try_into().expect("one pack");
    flip(&pack, MIB);

    let damage = "backup \"monday\" of volume \"vm-1\" is damaged at byte ";
    assert_says(&bed.run(&format!("verify {url} --data")), 6, &[damage]);
    bed.assert_fails(&format!("restore {url}/monday ./again.img"), 6, damage);
    let entries = || repository.files("log").len();
    let lost = "256 KiB of volumes cannot be restored";
    let planned = bed.run(&format!("repair {url} --data --dry-run"));
    assert_says(&planned, 8, &[damage, "would be marked", lost]);
    assert_eq!(entries(), 1);
    // A repair that reads no data finds nothing.
    assert_says(
        &bed.run(&format!("repair {url}")),
        0,
        &["all can be restored"],
    );
    assert_eq!(entries(), 1);
    let repaired = bed.run(&format!("repair {url} --data"));
    assert_says(&repaired, 8, &[damage, " marked: the next backup", lost]);
    assert_eq!(entries(), 2);
    let again = bed.run(&format!("repair {url} --data --json"));
    assert_says(&again, 8, &[]);
    let report: Value = serde_json::from_slice(&again.stdout).expect("JSON");
    assert_eq!(
        (&report["entries"], &report["marked"]),
        (&0.into(), &Value::Array(vec![]))
    );
    assert_eq!(report["lost"][0]["backup"], "monday");
    assert_eq!(report["lost"][0]["bytes"], MIB / 4);

    // The volume goes on, and most of it is what it was.
    fill(&disk, 40 * MIB, MIB, "more");
    let tuesday = bed.json(&format!("backup ./disk.img {url}/tuesday --handle vm-1"));
    assert_eq!(tuesday["backup"]["new_bytes"], 3 * MIB);

    let restored = bed.run(&format!("restore {url}/monday ./again.img"));
    assert_says(&restored, 0, &["restored from other copies"]);
    assert_same_content(&before, &bed.path("again.img").display().to_string());
    let verified = bed.run(&format!("verify {url} --data"));
    let healed = "; healed: another copy lies in data/";
    assert_says(
        &verified,
        0,
        &[damage, healed, "1 case of damage, healed by other copies"],
    );
    let repaired = bed.run(&format!("repair {url} --data"));
    assert_says(&repaired, 0, &[damage, healed, "all can be restored"]);
    assert_eq!(entries(), 3);

    // Without the pack at all it is the same, and metadata are enough to tell.
    fs::remove_file(&pack).expect("removes it");
    assert_says(
        &bed.run(&format!("repair {url}")),
        0,
        &["is missing", healed],
    );
    let restored = bed.run(&format!("restore {url}/monday ./third.img"));
    assert_says(&restored, 0, &["restored from other copies", "chunks=8"]);
    assert_same_content(&before, &bed.path("third.img").display().to_string());
    // And when the copy is lost as well, no bytes are given out.
    for pack in repository.files("data") {
        fs::remove_file(pack).expect("removes it");
    }
    bed.assert_fails(
        &format!("restore {url}/monday ./fourth.img"),
        6,
        "is missing",
    );
    let repaired = bed.run(&format!("repair {url}"));
    assert_says(&repaired, 8, &["5.0 MiB of volumes cannot be restored"]);
    assert_says(
        &bed.run(&format!("repair {url} --quiet")),
        8,
        &["backup \"tuesday\""],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_index_is_rebuilt_and_other_volumes_are_deduplicated_fully() {
    let (bed, repository) = (Bed::with_disk().await, Repository::new());
    let url = repository.url("");
    bed.lines(&format!("backup ./disk.img {url}/monday"));
    let segments = || {
        let files = repository.files("index").into_iter();
        // Beside them lies an empty one from the probe of the store.
        files.filter(|it| fs::metadata(it).expect("is there").len() > 100)
    };
    for segment in segments() {
        fs::remove_file(segment).expect("removes it");
    }
    let lost = "no data is lost by it";
    assert_says(&bed.run(&format!("verify {url}")), 6, &[lost]);
    let planned = bed.run(&format!("repair {url} --dry-run"));
    let would = ["would be dropped from the index", "1 pack would be listed"];
    assert_says(&planned, 0, &would);
    assert_eq!(segments().count(), 0);
    let repaired = bed.run(&format!("repair {url}"));
    let done = [
        lost,
        " dropped from the index",
        "1 pack listed in the index again",
    ];
    assert_says(&repaired, 0, &done);
    assert_eq!(segments().count(), 1);
    for command in ["verify", "repair"] {
        let lines = bed.lines(&format!("{command} {url}"));
        assert_eq!(lines.len(), 1, "{lines:?}");
    }
    fs::copy(bed.path("disk.img"), bed.path("other.img")).expect("copies");
    let other = bed.json(&format!("backup ./other.img {url}/other --no-cache"));
    assert_eq!(other["backup"]["new_bytes"], 0);
    assert_eq!(other["backup"]["duplicate_bytes"], 2 * MIB);
}
