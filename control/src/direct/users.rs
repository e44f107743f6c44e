//! Who uses a device or a file: mounts, other devices, swap, processes.
//!
//! The kernel is asked with an exclusive open, which fails for whatever it has given away itself;
//! what /proc and /sys say explains the refusal. Processes that merely have the thing open for
//! writing claim nothing: they are looked for in /proc, where only root sees those of others.

use std::{
    collections::BTreeSet,
    fs::{self, File, Metadata, OpenOptions},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    libc,
    sys::stat::{major, makedev, minor},
};

use crate::volume::loop_info;

/// A device's numbers as sysfs writes them, `8:1`.
pub(super) fn device_numbers(device: &Metadata) -> String {
    let numbers = device.rdev();
    format!("{}:{}", major(numbers), minor(numbers))
}

/// The folder in which the kernel describes a block device.
pub(super) fn sys_folder(device: &Metadata) -> PathBuf {
    Path::new("/sys/dev/block").join(device_numbers(device))
}

/// Opens a block device so that nobody can mount it or build on it meanwhile; `None` when somebody
/// has.
pub(super) fn claim(device: &Path, write: bool) -> io::Result<Option<File>> {
    let opened = OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(libc::O_EXCL)
        .open(device);
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the kernel does with a block device that it has given away: `it is mounted at /srv`.
pub(super) fn of_device(device: &Metadata) -> String {
    let family = family(&sys_folder(device));
    let mut uses: Vec<String> = Vec::new();
    for (numbers, mount_point) in mounts() {
        if family.contains(&numbers) {
            uses.push(format!("it is mounted at {mount_point}"));
        }
    }
    for area in swap_areas() {
        if fs::metadata(&area).is_ok_and(|area| family.contains(&device_numbers(&area))) {
            uses.push("it is swap space".to_owned());
        }
    }
    for holder in holders(&sys_folder(device)) {
        uses.push(format!("it is part of {holder}"));
    }
    uses.dedup();
    if uses.is_empty() {
        return "another program has it for itself".to_owned();
    }
    uses.join(", ")
}

/// A device, its partitions, and all that is built on them, by their numbers.
fn family(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut pending = vec![folder.to_owned()];
    while let Some(folder) = pending.pop() {
        let Ok(numbers) = fs::read_to_string(folder.join("dev")) else {
            continue;
        };
        if found.insert(numbers.trim_end().to_owned()) {
            pending.extend(entries(&folder.join("holders")));
            pending.extend(partitions(&folder));
        }
    }
    found
}

fn partitions(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = entries(folder).into_iter();
    entries.filter(|entry| entry.join("partition").exists())
}

/// What is built on a device or its partitions, by the names that people know.
fn holders(folder: &Path) -> Vec<String> {
    let below = partitions(folder).collect::<Vec<_>>();
    let all = below.iter().map(PathBuf::as_path).chain([folder]);
    all.flat_map(|folder| entries(&folder.join("holders")))
        .map(|holder| {
            let mapped = fs::read_to_string(holder.join("dm/name"));
            let kernel_name = || {
                holder
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into()
            };
            mapped.map_or_else(|_| kernel_name(), |name| name.trim_end().to_owned())
        })
        .collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let read = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut all: Vec<PathBuf> = read.map(|entry| entry.path()).collect();
    all.sort();
    all
}

/// Device numbers and mount points of this process's view.
fn mounts() -> Vec<(String, String)> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines().filter_map(mount).collect()
}

fn mount(line: &str) -> Option<(String, String)> {
    let mut fields = line.split(' ').skip(2);
    let (numbers, _, mount_point) = (fields.next()?, fields.next()?, fields.next()?);
    Some((numbers.to_owned(), unescaped(mount_point)))
}

fn swap_areas() -> Vec<String> {
    let text = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let paths = text
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next());
    paths.map(unescaped).collect()
}

/// The kernel writes blanks in paths as octal numbers.
fn unescaped(path: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .iter()
    .fold(path.to_owned(), |path, (escape, plain)| {
        path.replace(escape, plain)
    })
}

/// The same thing on the disk, whatever it is called.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Same {
    Device(u64),
    File { device: u64, inode: u64 },
}

impl Same {
    fn of(thing: &Metadata) -> Self {
        if thing.file_type().is_block_device() {
            Self::Device(thing.rdev())
        } else {
            Self::File {
                device: thing.dev(),
                inode: thing.ino(),
            }
        }
    }
}

/// Who else may be writing to a device or a file: `/dev/loop3`, `qemu-system-x86 (process 4711)`. A write to
/// the disk of a partition is one to that, too.
pub(super) fn writers(thing: &Metadata) -> Vec<String> {
    let things = overlapping(thing);
    let mut writers = loop_devices(&things);
    writers.extend(processes(&things));
    writers
}

/// Something that shares bytes with what is asked about.
struct Thing {
    same: Same,
    /// What to call it, unless it is the very one.
    name: Option<String>,
}

impl Thing {
    fn is_device(&self) -> bool {
        matches!(self.same, Same::Device(_))
    }
}

/// A thing itself, first; of a device its partitions, and what it lies on: the disk of a partition, what a
/// mapping leads to, the image of a loop device.
fn overlapping(thing: &Metadata) -> Vec<Thing> {
    let mut found = vec![Thing {
        same: Same::of(thing),
        name: None,
    }];
    if !thing.file_type().is_block_device() {
        return found;
    }
    let Ok(folder) = fs::canonicalize(sys_folder(thing)) else {
        return found;
    };
    found.extend(partitions(&folder).filter_map(|it| device_in(&it)));
    let mut pending = vec![folder];
    while let Some(folder) = pending.pop() {
        found.extend(image_of(&folder));
        for below in lies_on(&folder) {
            found.extend(device_in(&below));
            pending.push(below);
        }
    }
    found
}

/// The devices that this one lies on, without those that a program has open for writing as a matter of course: it
/// makes the device of them (`nbd`), or writes metadata beside what is in it (LVM, `mdmon`).
fn lies_on(folder: &Path) -> Vec<PathBuf> {
    let says = |name: &str, word: &str| {
        fs::read_to_string(folder.join(name)).is_ok_and(|it| it.starts_with(word))
    };
    let below: Vec<PathBuf> = if folder.join("partition").exists() {
        folder.parent().map(Path::to_owned).into_iter().collect()
    } else if says("dm/uuid", "LVM-") || says("md/metadata_version", "external:") {
        Vec::new()
    } else {
        entries(&folder.join("slaves"))
    };
    let known = below.into_iter().filter_map(|it| fs::canonicalize(it).ok());
    let is_of_a_program = |it: &PathBuf| it.join("pid").exists();
    known.filter(|it| !is_of_a_program(it)).collect()
}

fn device_in(folder: &Path) -> Option<Thing> {
    let numbers = fs::read_to_string(folder.join("dev")).ok()?;
    let (major, minor) = numbers.trim_end().split_once(':')?;
    Some(Thing {
        same: Same::Device(makedev(major.parse().ok()?, minor.parse().ok()?)),
        name: Some(node_of(folder)?.display().to_string()),
    })
}

fn node_of(folder: &Path) -> Option<PathBuf> {
    Some(Path::new("/dev").join(folder.file_name()?))
}

/// The image behind a loop device, which knows the file itself: its path is that of another view of the files,
/// perhaps.
fn image_of(folder: &Path) -> Option<Thing> {
    let path = fs::read_to_string(folder.join("loop/backing_file")).ok()?;
    let path = path.trim_end_matches('\n');
    let by_path = fs::metadata(path).ok();
    let is_device = |it: &&Metadata| it.file_type().is_block_device();
    let same = match by_path.as_ref().filter(is_device) {
        Some(device) => Same::of(device),
        None => File::open(node_of(folder)?)
            .and_then(|node| loop_info(&node))
            .map(|image| Same::File {
                device: image.device,
                inode: image.inode,
            })
            .ok()
            .or_else(|| by_path.as_ref().map(Same::of))?,
    };
    Some(Thing {
        same,
        name: Some(path.to_owned()),
    })
}

/// Loop devices that write to one of these. Of an image each has a part of its own, perhaps.
fn loop_devices(things: &[Thing]) -> Vec<String> {
    let is_one = |same: Same| {
        let mut whole = things
            .iter()
            .take(1)
            .chain(things.iter().filter(|it| it.is_device()));
        whole.any(|it| it.same == same)
    };
    let is_writer = |folder: &PathBuf| {
        let image = image_of(folder)?;
        let own = device_in(folder)?;
        let read_only = fs::read_to_string(folder.join("ro")).ok();
        let is_writable = read_only.is_none_or(|flag| flag.trim_end() != "1");
        (is_one(image.same) && !is_one(own.same) && is_writable).then_some(())
    };
    entries(Path::new("/sys/block"))
        .into_iter()
        .filter(|folder| is_writer(folder).is_some())
        .filter_map(|folder| Some(node_of(&folder)?.display().to_string()))
        .collect()
}

/// Other processes that have one of these open for writing.
fn processes(things: &[Thing]) -> Vec<String> {
    let own = std::process::id();
    let ids = entries(Path::new("/proc"))
        .into_iter()
        .filter_map(|folder| folder.file_name()?.to_str()?.parse::<u32>().ok());
    ids.filter(|&id| id != own)
        .filter_map(|id| {
            let written = written_by(id, things)?;
            let program = fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
            let by_way = written.name.as_ref();
            let by_way = by_way.map_or_else(String::new, |name| format!(", by way of {name}"));
            Some(format!("{} (process {id}{by_way})", program.trim_end()))
        })
        .collect()
}

/// The first of these that a process has open for writing.
fn written_by(process: u32, things: &[Thing]) -> Option<&Thing> {
    let folder = PathBuf::from(format!("/proc/{process}"));
    let descriptors = entries(&folder.join("fd")).into_iter();
    let written = descriptors.filter_map(|descriptor| {
        let same = Same::of(&fs::metadata(&descriptor).ok()?);
        let position = things.iter().position(|it| it.same == same)?;
        let number = descriptor.file_name().unwrap_or_default();
        is_for_writing(&folder.join("fdinfo").join(number)).then_some(position)
    });
    things.get(written.min()?)
}

/// Reads the flags that a descriptor was opened with, an octal number.
fn is_for_writing(info: &Path) -> bool {
    let text = fs::read_to_string(info).unwrap_or_default();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| flags & libc::O_ACCMODE != libc::O_RDONLY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_as_the_kernel_prints_them() {
        let line = "36 35 98:0 /mnt1 /a\\040b\\134c rw,noatime master:1 - ext3 /dev/root rw";
        assert_eq!(mount(line), Some(("98:0".into(), "/a b\\c".into())));
        assert_eq!(mount("36 35"), None);
    }

    #[test]
    fn a_process_that_has_a_file_open_for_writing_is_named_and_one_that_reads_it_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("image");
        fs::write(&path, "x").expect("writes");
        let image = fs::metadata(&path).expect("is there");
        assert_eq!(writers(&image), [""; 0]);
        for (redirect, is_named) in [("exec 3<", false), ("exec 3>>", true)] {
            let mut child = std::process::Command::new("sh")
                .arg("-c")
                .arg(format!("{redirect}\"$1\"; echo ready; read wait"))
                .arg("sh")
                .arg(&path)
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .expect("a shell");
            let mut ready = [0; 6];
            let output = child.stdout.as_mut().expect("is piped");
            io::Read::read_exact(output, &mut ready).expect("it says that it is ready");
            let named = writers(&image);
            let expected = format!("sh (process {})", child.id());
            assert_eq!(named.contains(&expected), is_named, "{named:?}");
            drop(child.stdin.take());
            child.wait().expect("it ends");
        }
    }
}
