//! `--stats`: where the time of a backup and of a restore went.

use super::*;

const CHUNKS: u64 = (2 * MIB) >> 18;

/// The last line of a file of stats, after all are looked at.
#[track_caller]
fn last_line(bed: &Bed, name: &str) -> Value {
    let text = fs::read_to_string(bed.path(name)).expect("the file is there");
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("each line is JSON"))
        .collect();
    let times: Vec<_> = lines.iter().map(|line| line["ms"].as_u64()).collect();
    assert!(times.is_sorted(), "{times:?}");
    lines.last().expect("at least one line").clone()
}

fn entered(line: &Value, stage: &str) -> u64 {
    line["stages"][stage]["entered"].as_u64().expect(stage)
}

#[tokio::test(flavor = "multi_thread")]
async fn stats_tell_how_many_chunks_went_through_each_stage() {
    let bed = Bed::with_disk().await;
    bed.lines("backup ./disk.img s3://backups/repo/one --stats backup.jsonl");
    let backup = last_line(&bed, "backup.jsonl");
    for stage in ["wait for a buffer", "read", "hash", "hand over"] {
        assert_eq!(entered(&backup, stage), CHUNKS, "{stage}");
    }
    assert!(entered(&backup, "transfer") > 0);
    assert_eq!(entered(&backup, "write"), 0);
    assert_eq!(backup["volume_io_bytes"], 2 * MIB);

    bed.lines("restore s3://backups/repo/one ./again.img --stats restore.jsonl");
    let restore = last_line(&bed, "restore.jsonl");
    for stage in ["wait for a buffer", "verify", "write"] {
        assert_eq!(entered(&restore, stage), CHUNKS, "{stage}");
    }
    assert_eq!(entered(&restore, "flush"), 1);
    assert_eq!(entered(&restore, "read"), 0);
    let flushed = restore["stages"]["flush"]["ms"].as_f64().expect("a time");
    assert!(flushed > 0.0, "{flushed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stats_that_cannot_be_written_are_refused_before_anything_is_done() {
    let bed = Bed::with_disk().await;
    let backup = "backup ./disk.img s3://backups/repo/one --stats no/such/folder";
    bed.assert_fails(backup, 1, "cannot write --stats no/such/folder: ");
    bed.assert_fails("show s3://backups/repo/one", 3, "");
    bed.assert_fails(
        "backup volume s3://backups/repo/one --stats x",
        2,
        "--stats",
    );
}
