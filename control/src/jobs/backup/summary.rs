//! What a backup took, in words.

use ringback_proto::repository::{Commit, Statistics};

use crate::jobs::Bytes;

/// What a backup took: `64.0 MiB backed up: 2.0 MiB (compressed to 1.0 MiB) new, 62.0 MiB zero or never
/// written; 1.1 MiB sent`.
pub(crate) fn describe_commit(commit: &Commit) -> String {
    let statistics = commit.statistics.unwrap_or_default();
    let new = (statistics.new_bytes, describe_new(&statistics), "new");
    let others = [
        (statistics.unchanged_bytes, "unchanged"),
        (statistics.duplicate_bytes, "deduplicated"),
        (
            statistics.zero_bytes + statistics.hole_bytes,
            "zero or never written",
        ),
    ];
    let others = others.map(|(bytes, what)| (bytes, Bytes(bytes).to_string(), what));
    let told: Vec<String> = std::iter::once(new)
        .chain(others)
        .filter(|(bytes, ..)| *bytes > 0)
        .map(|(_, bytes, what)| format!("{bytes} {what}"))
        .collect();
    let parts = if told.is_empty() {
        // Of an empty volume.
        String::new()
    } else {
        format!(": {}", told.join(", "))
    };
    let (volume, sent) = (Bytes(commit.volume_bytes), Bytes(statistics.sent_bytes));
    format!("{volume} backed up{parts}; {sent} sent")
}

/// What was new in a backup, and what became of it: `2.0 MiB (compressed to 1.0 MiB)`.
pub(crate) fn describe_new(statistics: &Statistics) -> String {
    let Statistics {
        new_bytes,
        packed_bytes,
        ..
    } = *statistics;
    let new = Bytes(new_bytes);
    // Not counted, or nothing gained: raw records are a little longer than their chunks.
    if (1..new_bytes).contains(&packed_bytes) {
        format!("{new} (compressed to {})", Bytes(packed_bytes))
    } else {
        new.to_string()
    }
}
