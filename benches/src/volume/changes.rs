//! Blocks of a volume that change between two backups, and change back.

use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::{Volume, patterns};
use crate::error::{Error, Located};

/// What changes at a time.
const BLOCK_BYTES: usize = 4096;

/// Changes that were made to a volume. They stay until [`Changes::revert`].
pub struct Changes {
    path: PathBuf,
    before: Vec<(u64, [u8; BLOCK_BYTES])>,
}

impl Changes {
    /// Writes random bytes over `count` blocks of the volume, drawn from `seed`; fewer when it has
    /// fewer.
    pub fn apply(volume: &Volume, seed: u64, count: u64) -> Result<Self, Error> {
        let path = &volume.path;
        let file = open(path)?;
        let mut before = Vec::new();
        for block in draw_blocks(volume.bytes / BLOCK_BYTES as u64, seed, count) {
            let offset = block * BLOCK_BYTES as u64;
            let mut bytes = [0; BLOCK_BYTES];
            file.read_exact_at(&mut bytes, offset).at("read", path)?;
            before.push((offset, bytes));
            patterns::random("changed block", seed.rotate_left(48) ^ block, &mut bytes);
            file.write_all_at(&bytes, offset).at("write", path)?;
        }
        file.sync_all().at("sync", path)?;
        Ok(Self {
            path: path.clone(),
            before,
        })
    }

    /// How many blocks changed.
    pub fn blocks(&self) -> usize {
        self.before.len()
    }

    /// Makes the volume what it was.
    pub fn revert(self) -> Result<(), Error> {
        let file = open(&self.path)?;
        for (offset, bytes) in &self.before {
            file.write_all_at(bytes, *offset).at("write", &self.path)?;
        }
        file.sync_all().at("sync", &self.path)
    }
}

fn open(path: &Path) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).open(path).at("open", path)
}

/// Distinct blocks of the volume, in its order.
fn draw_blocks(blocks: u64, seed: u64, count: u64) -> BTreeSet<u64> {
    let mut draw = patterns::Draw::new("changed blocks", seed);
    let mut drawn = BTreeSet::new();
    while (drawn.len() as u64) < count.min(blocks) {
        drawn.insert(draw.below(blocks));
    }
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_blocks_change_as_were_asked_for_and_all_change_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("volume");
        let before = vec![5u8; 64 * BLOCK_BYTES];
        std::fs::write(&path, &before).expect("writes");
        let volume = Volume {
            path: path.clone(),
            bytes: before.len() as u64,
            blake3: String::new(),
            content: String::new(),
            may_change: true,
        };
        let changes = Changes::apply(&volume, 1, 10).expect("changes");
        let after = std::fs::read(&path).expect("reads");
        let blocks =
            |bytes: &[u8]| -> Vec<_> { bytes.chunks(BLOCK_BYTES).map(<[u8]>::to_vec).collect() };
        let differing = blocks(&before)
            .iter()
            .zip(&blocks(&after))
            .filter(|(old, new)| old != new)
            .count();
        assert_eq!((changes.blocks(), differing), (10, 10));
        changes.revert().expect("reverts");
        assert_eq!(std::fs::read(&path).expect("reads"), before);
        assert_eq!(draw_blocks(3, 1, 10).len(), 3, "not more than there are");
    }
}
