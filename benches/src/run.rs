//! A whole run: all contenders, round by round, on one volume and one kind of sink.
//!
//! In each round every contender goes through all its phases, one contender after the other, each
//! with a sink of its own; the next round begins with another one. So what the machine does
//! meanwhile meets them all, and a ratio compares what was measured within minutes. Nothing of the
//! volume is in the page cache when a phase begins, and a restored volume is durable when it ends;
//! then it is held against what was backed up.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Instant,
};

use nix::{libc, sys::stat};

use crate::{
    contender::{Bed, Contender, make_target},
    error::{Error, Located},
    measure::machine::{Busy, Machine, OTHERS_MAX},
    results::{
        ContenderResults, Phase, PhaseResults, RESULTS_VERSION, Results, Run, Summary,
        VolumeResults,
    },
    sink::{Bucket, Sink, Wanted},
    units::MIB,
    volume::{Changes, Volume, drop_from_cache, hash, hash_start},
};

/// One block changes for every so many bytes of the volume.
const BYTES_PER_CHANGE: u64 = 16 * MIB;
/// Which blocks change, and to what.
const CHANGE_SEED: u64 = 4;
/// The name of the contender that the others are held against.
const LIMIT: &str = "raw";

/// What a run is to do.
pub struct Plan {
    /// What is backed up.
    pub volume: Volume,
    /// Who does it.
    pub contenders: Vec<Box<dyn Contender>>,
    /// How often.
    pub rounds: u32,
    /// Where to.
    pub sink: Wanted,
    /// A folder for what lies about meanwhile, on the volume's filesystem.
    pub scratch: PathBuf,
    /// A device to restore to instead of files.
    pub device: Option<PathBuf>,
    /// The command line, for the results.
    pub command: Vec<String>,
    /// What was measured, for the results.
    pub commit: Option<String>,
}

/// What one contender has done so far.
struct Record {
    version: Option<String>,
    failure: Option<String>,
    runs: Vec<(Phase, Run)>,
}

impl Plan {
    /// Does it all. A contender that fails is told of in the results and not tried again.
    pub fn run(&self) -> Result<Results, Error> {
        let machine = Machine::look(&self.scratch);
        let mut warnings = warnings_before(&machine);
        let changed = self.hash_of_changed()?;
        let mut records: Vec<Record> = self
            .contenders
            .iter()
            .map(|contender| Record {
                version: contender.version(),
                failure: None,
                runs: Vec::new(),
            })
            .collect();
        for round in 1..=self.rounds {
            for at in self.order(round) {
                self.turn(round, at, &changed, &mut records[at])?;
            }
        }
        warnings.extend(warning_after(&self.contenders, &records));
        Ok(self.results(machine, warnings, &records))
    }

    /// Each round begins with another contender.
    fn order(&self, round: u32) -> impl Iterator<Item = usize> + use<> {
        let count = self.contenders.len();
        let first = usize::try_from(round - 1).unwrap_or(0);
        (0..count).map(move |at| (first + at) % count)
    }

    /// One contender's turn; what goes wrong with it is put down.
    fn turn(&self, round: u32, at: usize, changed: &str, record: &mut Record) -> Result<(), Error> {
        if record.version.is_none() || record.failure.is_some() {
            return Ok(());
        }
        let contender = &*self.contenders[at];
        let scratch = self.scratch.join("turn");
        let _ = fs::remove_dir_all(&scratch);
        fs::create_dir_all(&scratch).at("make", &scratch)?;
        let mut sink = self.sink.start()?;
        let bed = Bed {
            volume: self.volume.clone(),
            scratch: scratch.clone(),
            address: sink.address().clone(),
            prefix: format!("bench-{}/{round}-{}", std::process::id(), contender.name()),
            device: self.device.clone(),
        };
        let mut turn = Turn {
            contender,
            bed,
            sink: &mut sink,
            round,
            changed,
            runs: &mut record.runs,
        };
        if let Err(error) = turn.all_phases() {
            eprintln!("{}: {error}", contender.name());
            record.failure = Some(error.to_string());
        }
        // What was measured so far is worth more than a clean bucket.
        if let Err(error) = turn.clear_given_sink() {
            let (name, prefix) = (contender.name(), &turn.bed.prefix);
            eprintln!("{name}: what is below {prefix} in the bucket stays there: {error}");
        }
        fs::remove_dir_all(&scratch).at("remove", &scratch)
    }

    /// The hash that the volume has when its blocks have changed; its own when they never do.
    fn hash_of_changed(&self) -> Result<String, Error> {
        if !self.volume.may_change {
            return Ok(self.volume.blake3.clone());
        }
        let changes = Changes::apply(&self.volume, CHANGE_SEED, changes_in(&self.volume))?;
        let changed = hash(&self.volume.path);
        changes.revert()?;
        changed
    }

    fn results(&self, machine: Machine, warnings: Vec<String>, records: &[Record]) -> Results {
        let limit = self.contenders.iter().position(|it| it.name() == LIMIT);
        let limit = limit.map_or(&[][..], |at| &records[at].runs);
        let bytes = self.volume.bytes;
        let contenders = self.contenders.iter().zip(records);
        Results {
            version: RESULTS_VERSION,
            command: self.command.clone(),
            commit: self.commit.clone(),
            machine,
            volume: VolumeResults {
                workload: self.volume.content.clone(),
                bytes,
                blake3: self.volume.blake3.clone(),
                changed_blocks: changes_in(&self.volume),
            },
            sink: self.sink.describe(),
            rounds: self.rounds,
            warnings,
            contenders: contenders
                .map(|(contender, record)| ContenderResults {
                    name: contender.name().to_owned(),
                    about: contender.about().to_owned(),
                    version: record.version.clone(),
                    failure: record.failure.clone(),
                    phases: record.phases(limit, bytes),
                })
                .collect(),
        }
    }
}

impl Record {
    fn runs_of(runs: &[(Phase, Run)], phase: Phase) -> Vec<Run> {
        let of_phase = runs.iter().filter(|(of, _)| *of == phase);
        of_phase.map(|(_, run)| run.clone()).collect()
    }

    fn phases(&self, limit: &[(Phase, Run)], volume_bytes: u64) -> Vec<PhaseResults> {
        let with_runs = Phase::ALL
            .into_iter()
            .map(|phase| (phase, Self::runs_of(&self.runs, phase)))
            .filter(|(_, runs)| !runs.is_empty());
        with_runs
            .map(|(phase, runs)| {
                let limit = Self::runs_of(limit, phase.limited_by());
                let summary = Summary::of(&runs, &limit, volume_bytes);
                PhaseResults {
                    phase,
                    summary,
                    runs,
                }
            })
            .collect()
    }
}

/// Blocks that change between the second and the third backup.
fn changes_in(volume: &Volume) -> u64 {
    if volume.may_change {
        (volume.bytes / BYTES_PER_CHANGE).max(1)
    } else {
        0
    }
}

/// One contender in one round.
struct Turn<'a> {
    contender: &'a dyn Contender,
    bed: Bed,
    sink: &'a mut Sink,
    round: u32,
    /// Hash of what is restored.
    changed: &'a str,
    runs: &'a mut Vec<(Phase, Run)>,
}

impl Turn<'_> {
    fn all_phases(&mut self) -> Result<(), Error> {
        self.contender.prepare(&self.bed)?;
        let phases = self.contender.phases();
        let changes_matter = phases.contains(&Phase::Changed);
        for phase in [Phase::First, Phase::Unchanged] {
            if phases.contains(&phase) {
                self.measure(phase)?;
            }
        }
        if changes_matter && self.bed.volume.may_change {
            let count = changes_in(&self.bed.volume);
            let changes = Changes::apply(&self.bed.volume, CHANGE_SEED, count)?;
            let measured = self.measure(Phase::Changed);
            changes.revert()?;
            measured?;
        } else if changes_matter {
            // The restore brings this one back.
            self.measure(Phase::Changed)?;
        }
        self.measure(Phase::Restore)?;
        self.compare_restored(changes_matter)
    }

    fn measure(&mut self, phase: Phase) -> Result<(), Error> {
        let (contender, bed) = (self.contender, &self.bed);
        if phase == Phase::Restore {
            self.clear_device()?;
            if contender.fills_target() {
                make_target(bed)?;
            }
        }
        drop_from_cache(&bed.volume.path)?;
        let wire_before = self.sink.wire()?;
        let (sink_cpu, busy) = (self.sink.cpu_seconds(), Busy::now());

        let measured = contender.launch(phase, bed).measure(&bed.scratch)?;
        let mut seconds = measured.used.seconds;
        if let Some(own) = contender.own_seconds(phase, bed)? {
            seconds = own;
        } else if phase == Phase::Restore {
            seconds += self.make_durable()?;
        }

        let sink_cpu_seconds = self.sink.cpu_seconds() - sink_cpu;
        let used = measured.used;
        let known = used.user_seconds + used.system_seconds + sink_cpu_seconds;
        let wire = match (self.sink.wire()?, &wire_before) {
            (Some(now), Some(before)) => Some(now.since(before)),
            _ => None,
        };
        let run = Run {
            round: self.round,
            seconds,
            user_seconds: used.user_seconds,
            system_seconds: used.system_seconds,
            sink_cpu_seconds,
            other_cpu_share: busy.map_or(0.0, |busy| busy.others_since(known)),
            peak_rss_bytes: measured.peak_rss_bytes,
            disk_read_bytes: used.read_bytes,
            disk_written_bytes: used.written_bytes,
            wire,
            stored_bytes: self.stored_bytes()?,
            samples: measured.samples,
            stages: contender.stages(bed),
        };
        eprintln!(
            "round {} {:>11} {:<18} {:8.2} s",
            self.round,
            contender.name(),
            phase.title(),
            run.seconds
        );
        self.runs.push((phase, run));
        Ok(())
    }

    /// Fills a device that is restored to with zeros: what the one before has restored there must
    /// not pass for what this one does.
    fn clear_device(&self) -> Result<(), Error> {
        let Some(path) = &self.bed.device else {
            return Ok(());
        };
        let mut device = claim(path)?;
        let bytes = Volume::size_of(path)?;
        io::copy(&mut io::repeat(0).take(bytes), &mut device).at("clear", path)?;
        device.sync_all().at("sync", path)
    }

    /// Syncs what was restored; how long that took.
    fn make_durable(&self) -> Result<f64, Error> {
        let Some(restored) = self.contender.restored(&self.bed) else {
            return Ok(0.0);
        };
        let file = File::open(&restored).at("open", &restored)?;
        let begun = Instant::now();
        file.sync_all().at("sync", &restored)?;
        Ok(begun.elapsed().as_secs_f64())
    }

    fn stored_bytes(&self) -> Result<Option<u64>, Error> {
        if let Some(bytes) = self.contender.stored_elsewhere(&self.bed) {
            return Ok(Some(bytes));
        }
        let objects = self.objects()?;
        Ok((!objects.is_empty()).then(|| objects.iter().map(|(_, bytes)| bytes).sum()))
    }

    /// Keys and lengths of what the contender has put into the bucket; all of a bucket of ours is
    /// its own, and some contenders know no prefix.
    fn objects(&self) -> Result<Vec<(String, u64)>, Error> {
        let (prefix, start) = if self.sink.is_own() {
            ("", String::new())
        } else {
            (&*self.bed.prefix, format!("{}/", self.bed.prefix))
        };
        let listed = Bucket::at(&self.bed.address)?.list(prefix)?;
        let named = listed.into_iter();
        Ok(named
            .map(|it| (format!("{start}{}", it.name), it.bytes))
            .collect())
    }

    /// Holds the restored volume against what was backed up, and removes it.
    fn compare_restored(&self, changed: bool) -> Result<(), Error> {
        let Some(path) = self.contender.restored(&self.bed) else {
            return Ok(());
        };
        let wanted = if changed {
            self.changed
        } else {
            &self.bed.volume.blake3
        };
        let found = hash_start(&path, self.bed.volume.bytes)?;
        if found == wanted {
            return Ok(());
        }
        Err(Error::Differs {
            path,
            found,
            wanted: wanted.to_owned(),
        })
    }

    /// A sink of ours goes away with all that is in it; another one is left as it was.
    fn clear_given_sink(&self) -> Result<(), Error> {
        if self.sink.is_own() {
            return Ok(());
        }
        let bucket = Bucket::at(&self.bed.address)?;
        let mut objects = self.objects()?.into_iter();
        objects.try_for_each(|(key, _)| bucket.delete(&key))?;
        bucket.abandon_uploads(&self.bed.prefix)
    }
}

/// Checks that a device may be restored to: it is one, large enough, not the one that is read, and nobody uses it.
pub fn check_target(path: &Path, source: &Path) -> Result<(), Error> {
    let refused = |why: String| {
        Err(Error::Other(format!(
            "--overwrite-device {}: {why}",
            path.display()
        )))
    };
    let Some(target) = place_of(path)? else {
        return refused("it is no block device".to_owned());
    };
    // A partition's place is in that of its disk.
    let overlaps = |source: PathBuf| source.starts_with(&target) || target.starts_with(&source);
    if place_of(source)?.is_some_and(overlaps) {
        return refused("it has a share in the device that is backed up".to_owned());
    }
    claim(path)?;
    let (bytes, needed) = (Volume::size_of(path)?, Volume::size_of(source)?);
    if bytes < needed {
        return refused(format!(
            "it has {bytes} bytes, and what is backed up {needed}"
        ));
    }
    Ok(())
}

/// Where in the tree of devices a block device is.
fn place_of(path: &Path) -> Result<Option<PathBuf>, Error> {
    let found = fs::metadata(path).at("inspect", path)?;
    if !found.file_type().is_block_device() {
        return Ok(None);
    }
    let (major, minor) = (stat::major(found.rdev()), stat::minor(found.rdev()));
    let named = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    fs::canonicalize(&named).at("find", &named).map(Some)
}

/// Opens a device to write to, unless it is mounted or otherwise in use.
fn claim(path: &Path) -> Result<File, Error> {
    let mut exclusive = OpenOptions::new();
    exclusive.write(true).custom_flags(libc::O_EXCL);
    exclusive.open(path).at("claim", path)
}

fn warnings_before(machine: &Machine) -> Vec<String> {
    if machine.busy_share <= OTHERS_MAX {
        return Vec::new();
    }
    let warning = format!(
        "the machine was busy before the run began: {:.0} % of its cores, load average {:.1}",
        machine.busy_share * 100.0,
        machine.load
    );
    eprintln!("warning: {warning}; measure again when it is quiet");
    vec![warning]
}

/// What others did while something was measured, if it was much.
fn warning_after(contenders: &[Box<dyn Contender>], records: &[Record]) -> Option<String> {
    let measured = contenders
        .iter()
        .zip(records)
        .flat_map(|(contender, record)| {
            let runs = record.runs.iter();
            runs.map(|(phase, run)| (contender.name(), *phase, run.other_cpu_share))
        });
    let measured: Vec<_> = measured.collect();
    let is_disturbed = |share: f64| share > OTHERS_MAX;
    let count = measured
        .iter()
        .filter(|(.., share)| is_disturbed(*share))
        .count();
    let (name, phase, worst) = measured
        .iter()
        .copied()
        .max_by(|(.., one), (.., other)| one.total_cmp(other))?;
    is_disturbed(worst).then(|| {
        format!(
            "in {count} of {} measurements more than {:.0} % of all cores were busy with something \
             else; most of all, {:.0} %, in {name}, {}",
            measured.len(),
            OTHERS_MAX * 100.0,
            worst * 100.0,
            phase.title()
        )
    })
}
