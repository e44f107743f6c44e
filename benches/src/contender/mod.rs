//! Who is measured: limits, ringback, and every peer that is installed.
//!
//! Each is told where the volume is, where the sink is and where it may leave things, and names the
//! command for each phase; it runs as a process of its own, as a person would run it.

mod benji;
mod borg;
mod fio;
mod pipeline;
mod raw;
mod restic;
mod ringback;
mod rustic;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Located},
    measure::process::Launch,
    results::{Phase, StageSample},
    sink::Address,
    volume::Volume,
};

use self::ringback::Way;

/// Password of the repositories of peers that do without none.
const PASSWORD: &str = "bench";
/// What the volume is called in repositories.
const VOLUME_NAME: &str = "volume";

/// Where a contender works in one round.
pub struct Bed {
    /// What is backed up.
    pub volume: Volume,
    /// An empty folder of its own, on the volume's filesystem.
    pub scratch: PathBuf,
    /// The sink.
    pub address: Address,
    /// Its own place in the sink's bucket.
    pub prefix: String,
    /// A device to restore to; without one it is a file in the scratch folder.
    pub device: Option<PathBuf>,
}

impl Bed {
    /// Where a contender that can choose restores to.
    pub fn target(&self) -> PathBuf {
        self.device
            .clone()
            .unwrap_or_else(|| self.scratch.join("restored.img"))
    }

    /// A folder of the contender's own.
    fn folder(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    /// `s3://bucket/prefix`.
    fn s3_path(&self) -> String {
        format!("s3://{}/{}", self.address.bucket, self.prefix)
    }
}

/// One who is measured.
pub trait Contender {
    /// Whether all that it stores lies below the prefix that it is given.
    fn keeps_to_its_prefix(&self) -> bool {
        true
    }

    /// Its name, as `--peers` takes it.
    fn name(&self) -> &'static str;

    /// What it does with the bytes, and where they go.
    fn about(&self) -> &'static str;

    /// What it says of itself; `None` when it is not installed.
    fn version(&self) -> Option<String>;

    /// What it does.
    fn phases(&self) -> &'static [Phase] {
        &Phase::ALL
    }

    /// What must be there before its first phase; not measured.
    fn prepare(&self, _bed: &Bed) -> Result<(), Error> {
        Ok(())
    }

    /// Its command for a phase.
    fn launch(&self, phase: Phase, bed: &Bed) -> Launch;

    /// Whether its restore writes to a target that is there already.
    fn fills_target(&self) -> bool {
        false
    }

    /// Where a restore has put the volume; `None` when it restores nothing.
    fn restored(&self, bed: &Bed) -> Option<PathBuf> {
        Some(bed.target())
    }

    /// What its last command says of the time that it took, when that is to count.
    fn own_seconds(&self, _phase: Phase, _bed: &Bed) -> Result<Option<f64>, Error> {
        Ok(None)
    }

    /// What its last command says of its stages.
    fn stages(&self, _bed: &Bed) -> Vec<StageSample> {
        Vec::new()
    }

    /// How many bytes its repository has, when that is not on the sink.
    fn stored_elsewhere(&self, _bed: &Bed) -> Option<u64> {
        None
    }
}

/// The limits and ringback in each way, which are always measured; ringback is the program at `program`.
pub fn own(program: &Path, transfers: usize) -> Vec<Box<dyn Contender>> {
    let limits: [Box<dyn Contender>; 2] =
        [Box::new(fio::Fio), Box::new(raw::RawLimit { transfers })];
    let ways = [Way::Plain, Way::Uncompressed, Way::Encrypted].map(|way| {
        Box::new(ringback::Ringback {
            program: program.to_owned(),
            transfers,
            way,
        }) as Box<dyn Contender>
    });
    limits.into_iter().chain(ways).collect()
}

/// Every peer that the harness knows.
pub fn peers() -> Vec<Box<dyn Contender>> {
    vec![
        Box::new(restic::Restic),
        Box::new(rustic::Rustic),
        Box::new(borg::Borg),
        Box::new(benji::Benji),
        Box::new(pipeline::Pipeline),
    ]
}

/// The first line that a program prints, if it is there and works.
fn first_line(launch: &Launch) -> Option<String> {
    let said = launch.run().ok()?;
    said.lines().next().map(|line| line.trim().to_owned())
}

/// Bytes of all files below a folder.
fn bytes_below(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(about) if about.is_dir() => bytes_below(&entry.path()),
            Ok(about) => about.len(),
            Err(_) => 0,
        })
        .sum()
}

/// A name for the backup that a phase makes, or restores.
fn backup_name(phase: Phase) -> &'static str {
    match phase {
        Phase::First => "first",
        Phase::Unchanged => "unchanged",
        Phase::Changed | Phase::Restore => "changed",
    }
}

/// A new file of the volume's size, all hole, unless the target is a device.
pub fn make_target(bed: &Bed) -> Result<(), Error> {
    if bed.device.is_some() {
        return Ok(());
    }
    let target = bed.target();
    let file = File::create(&target).at("make", &target)?;
    file.set_len(bed.volume.bytes).at("size", &target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_contender_has_a_name_of_its_own_and_says_what_it_is() {
        let mut all = own(Path::new("/bin/true"), 8);
        all.extend(peers());
        let mut names: Vec<_> = all.iter().map(|it| it.name()).collect();
        assert!(all.iter().all(|it| !it.about().is_empty()));
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
