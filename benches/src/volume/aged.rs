//! A filesystem that has been lived in: filled, half emptied in random order, filled again, so
//! that files lie in pieces and deleted ones have left their bytes behind. Made with e2fsprogs,
//! without root.

use std::{
    fs::{self, File},
    path::Path,
};

use super::{fill_holes, patterns, with_scratch};
use crate::{
    error::{Error, Located},
    measure::process::Launch,
};

/// How much of the volume is filled with files at first, in percent: the rest is for tables,
/// journal and the last blocks of files.
const FILLED_PERCENT: u64 = 85;
/// How much of what was deleted is written again, in percent.
const REFILLED_PERCENT: u64 = 90;

/// Makes the volume at `path`.
pub(super) fn make(path: &Path, bytes: u64) -> Result<(), Error> {
    with_scratch(path, |scratch| make_with(path, bytes, scratch))
}

fn make_with(path: &Path, bytes: u64, scratch: &Path) -> Result<(), Error> {
    let (first, second) = (scratch.join("first"), scratch.join("second"));
    for folder in [&first, &second] {
        fs::create_dir_all(folder).at("make", folder)?;
    }
    let old = write_files(&first, "old", 1, bytes / 100 * FILLED_PERCENT)?;
    let image = File::create(path).at("make", path)?;
    image.set_len(bytes).at("size", path)?;
    let options = format!("hash_seed={FIXED_ID},lazy_itable_init=0");
    Launch::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-U", FIXED_ID])
        .args(["-E", &options, "-d"])
        .args([&first, path])
        .run()
        .map_err(needs_e2fsprogs)?;

    // Every second file goes, in an order of its own.
    let mut goes = old;
    shuffle(&mut goes, 2);
    goes.truncate(goes.len() / 2);
    let freed: u64 = goes.iter().map(|file| file.bytes).sum();
    let new = write_files(&second, "new", 3, freed / 100 * REFILLED_PERCENT)?;
    let mut commands = String::new();
    for file in &goes {
        commands.push_str(&format!("rm /{}\n", file.name));
    }
    for file in &new {
        let from = second.join(&file.name);
        commands.push_str(&format!("write \"{}\" /{}\n", from.display(), file.name));
    }
    let script = scratch.join("commands");
    fs::write(&script, commands).at("write", &script)?;
    Launch::new("debugfs")
        .args(["-w", "-f"])
        .args([&script, path])
        .run()
        .map_err(needs_e2fsprogs)?;
    fill_holes(path, bytes)
}

/// What would otherwise be drawn anew for every filesystem.
const FIXED_ID: &str = "5eed0000-5eed-4000-8000-5eed5eed5eed";

fn needs_e2fsprogs(error: Error) -> Error {
    match error {
        Error::Start { program, source } => Error::Other(format!(
            "{program} does not start ({source}); the workload `aged` needs e2fsprogs"
        )),
        other => other,
    }
}

struct Written {
    name: String,
    bytes: u64,
}

/// Files of 1 KiB to 8 MiB, about as many of each power of two, half text and half random, until
/// `total` bytes are written.
fn write_files(folder: &Path, prefix: &str, seed: u64, total: u64) -> Result<Vec<Written>, Error> {
    let mut draw = patterns::Draw::new("aged files", seed);
    let mut written = Vec::new();
    let mut left = total;
    let mut buffer = vec![0; 8 << 20];
    while left > 0 {
        let magnitude = 1024u64 << draw.below(13);
        let bytes = (magnitude + draw.below(magnitude)).min(8 << 20).min(left);
        let name = format!("{prefix}-{:06}", written.len());
        let content = &mut buffer[..usize::try_from(bytes).expect("at most 8 MiB")];
        let number = seed << 32 | written.len() as u64;
        if draw.below(2) == 0 {
            patterns::text(number, content);
        } else {
            patterns::random("aged file", number, content);
        }
        let path = folder.join(&name);
        fs::write(&path, &*content).at("write", &path)?;
        written.push(Written { name, bytes });
        // Its last block counts whole.
        left = left.saturating_sub(bytes.next_multiple_of(4096));
    }
    Ok(written)
}

fn shuffle<T>(items: &mut [T], seed: u64) {
    let mut draw = patterns::Draw::new("shuffle", seed);
    for last in (1..items.len()).rev() {
        let with = usize::try_from(draw.below(last as u64 + 1)).expect("an index");
        items.swap(last, with);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "needs e2fsprogs; .ci/run runs it"]
    fn an_aged_filesystem_is_sound_and_holds_old_and_new_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("aged.img");
        make(&path, 64 << 20).expect("made");
        assert_eq!(fs::metadata(&path).expect("is there").len(), 64 << 20);
        Launch::new("e2fsck")
            .args(["-fn"])
            .arg(&path)
            .run()
            .expect("sound");
        let list = Launch::new("debugfs").args(["-R", "ls -p /"]).arg(&path);
        let names = list.run().expect("listed");
        let count = |prefix: &str| names.matches(&format!("/{prefix}-")).count();
        assert!(count("old") > 5 && count("new") > 5, "{names}");
        assert!(!scratch_is_left(folder.path()));
    }

    fn scratch_is_left(folder: &Path) -> bool {
        fs::read_dir(folder).expect("lists").count() != 1
    }

    #[test]
    fn shuffling_keeps_every_item() {
        let mut items: Vec<_> = (0..100).collect();
        shuffle(&mut items, 1);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
