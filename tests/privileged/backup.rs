//! Backups and restores as the kernel sees them.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    process::{Command, Stdio},
    thread,
};

use super::{
    bed::{Daemon, Sink, User},
    support::{Folder, MIB, run},
};

const GIB: u64 = 1 << 30;

/// Fills a file or device with data that neither repeats nor compresses, between holes.
fn scatter(path: &Path, volume_bytes: u64, data_bytes: u64, extent_bytes: u64) {
    let file = File::options().write(true).open(path).expect("opens");
    let extents = data_bytes / extent_bytes;
    let stride = volume_bytes / extents / 4096 * 4096;
    let mut noise = vec![0; usize::try_from(extent_bytes).expect("small")];
    for number in 0..extents {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&number.to_le_bytes());
        hasher.finalize_xof().fill(&mut noise);
        file.write_all_at(&noise, number * stride).expect("writes");
    }
    file.sync_all().expect("syncs");
}

fn sha256(path: &Path) -> String {
    let output = Command::new("sha256sum")
        .arg(path)
        .output()
        .expect("sha256sum runs");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("text");
    text.split_whitespace().next().expect("a hash").to_owned()
}

/// A line of a file in /proc, as a number.
fn proc_number(path: &str, key: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let line = text.lines().find(|line| line.starts_with(key));
    let value = line.and_then(|line| line.split_whitespace().nth(1));
    value
        .and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("{path} has no {key}"))
}

#[test]
fn a_sparse_20_gib_volume_with_3_gib_of_data_comes_back_and_the_daemon_stays_under_300_mib() {
    // A group promises a volume's whole size: room for two, of which 9 GiB are ever taken.
    let folder = Folder::on_ext4(64 * GIB);
    let group = &folder.path;
    let sink = Sink::start();
    let daemon = Daemon::start(&sink, group, "{}", User::Root);
    daemon.ringback(&["lv", "create", "data", "--size", "20GiB"]);
    let source = daemon.path_of("data");
    assert!(source.starts_with("/dev"), "{}", source.display());
    scatter(&source, 20 * GIB, 3 * GIB, 4 * MIB);
    let before = sha256(&source);

    daemon.ringback(&["backup", "data", "s3://backups/repo/one"]);
    daemon.ringback(&["restore", "s3://backups/repo/one", "again"]);
    let peak_kib = proc_number(&format!("/proc/{}/status", daemon.pid()), "VmHWM:");
    println!("peak RSS of the daemon: {} MiB", peak_kib >> 10);
    assert!(peak_kib < 300 << 10, "peak RSS {peak_kib} KiB");

    assert_eq!(sha256(&daemon.path_of("again")), before);
    let allocated = |name: &str| {
        let image = group.join("volumes").join(name).join("image");
        fs::metadata(image).expect("stat").blocks() * 512
    };
    let (original, restored) = (allocated("data"), allocated("again"));
    println!("allocated: {original} bytes before, {restored} after");
    assert!(restored <= original + MIB, "{original} {restored}");
    daemon.ringback(&["lv", "remove", "data"]);
    daemon.ringback(&["lv", "remove", "again"]);
}

/// What the kernel counted over one backup.
#[derive(Debug)]
struct Counted {
    mapped_bytes: u64,
    read_bytes: u64,
    rchar: u64,
    saw_o_direct: bool,
}

impl Counted {
    /// Whether all data came from the device, and past the page cache.
    fn judge(&self) -> Result<(), String> {
        if self.read_bytes < self.mapped_bytes {
            return Err(format!(
                "less was read from the device than is mapped: {self:?}"
            ));
        }
        if self.rchar * 100 >= self.mapped_bytes {
            return Err(format!("1 % or more went through read calls: {self:?}"));
        }
        if !self.saw_o_direct {
            return Err(format!("no descriptor of the image had O_DIRECT: {self:?}"));
        }
        Ok(())
    }
}

/// Backs a volume with 256 MiB of data up and watches the daemon meanwhile.
fn count(datapath: &str) -> Counted {
    let folder = Folder::on_ext4(2 * GIB);
    let group = &folder.path;
    let sink = Sink::start();
    let daemon = Daemon::start(&sink, group, datapath, User::Root);
    daemon.ringback(&["lv", "create", "data", "--size", "1GiB"]);
    let mapped_bytes = 256 * MIB;
    scatter(&daemon.path_of("data"), GIB, mapped_bytes, 16 * MIB);
    run(Command::new("sync").arg("-f").arg(group));
    fs::write("/proc/sys/vm/drop_caches", "3").expect("drops the page cache");

    let io = format!("/proc/{}/io", daemon.pid());
    let before = (proc_number(&io, "read_bytes:"), proc_number(&io, "rchar:"));
    let mut backup = daemon
        .command(&["backup", "data", "s3://backups/repo/one"])
        .stdout(Stdio::null())
        .spawn()
        .expect("starts");
    let mut saw_o_direct = false;
    let status = loop {
        saw_o_direct |= has_o_direct(daemon.pid(), group);
        if let Some(status) = backup.try_wait().expect("waits") {
            break status;
        }
        thread::yield_now();
    };
    assert!(status.success(), "{}", daemon.log());
    let after = (proc_number(&io, "read_bytes:"), proc_number(&io, "rchar:"));
    daemon.ringback(&["lv", "remove", "data"]);
    Counted {
        mapped_bytes,
        read_bytes: after.0 - before.0,
        rchar: after.1 - before.1,
        saw_o_direct,
    }
}

/// Whether the process has an image below `group` open with O_DIRECT.
fn has_o_direct(pid: u32, group: &Path) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    descriptors.flatten().any(|descriptor| {
        let is_image = fs::read_link(descriptor.path()).is_ok_and(|path| path.starts_with(group));
        let number = descriptor.file_name();
        let info = format!("/proc/{pid}/fdinfo/{}", number.to_string_lossy());
        is_image && fs::read_to_string(info).is_ok_and(|info| flags_have_o_direct(&info))
    })
}

fn flags_have_o_direct(info: &str) -> bool {
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|text| i32::from_str_radix(text.trim(), 8).ok());
    flags.is_some_and(|flags| flags & nix::libc::O_DIRECT != 0)
}

#[test]
fn a_backup_reads_all_data_from_the_device_and_none_through_the_page_cache() {
    let counted = count("{}");
    println!("{counted:?}");
    assert_eq!(counted.judge(), Ok(()));
}

#[test]
fn the_same_judgement_refuses_the_synchronous_twin_without_o_direct() {
    let counted = count("{io-engine: sync, direct-io: false}");
    println!("{counted:?}");
    let refused = counted.judge().expect_err("it goes through the page cache");
    assert!(refused.contains("read calls"), "{refused}");
}

#[test]
fn the_synchronous_twin_with_o_direct_brings_the_same_bytes() {
    assert_comes_back("{io-engine: sync}", User::Root, "mode=Sync direct=true");
}

#[test]
fn without_the_memlock_limit_for_registration_it_works_and_says_so() {
    let says = "buffers are not registered with io_uring";
    assert_comes_back("{}", User::Ordinary, says);
}

fn assert_comes_back(datapath: &str, user: User, log_says: &str) {
    let folder = Folder::on_tmp();
    run(Command::new("chmod")
        .arg("755")
        .arg(folder.temporary.path()));
    let sink = Sink::start();
    let daemon = Daemon::start(&sink, &folder.path, datapath, user);
    daemon.ringback(&["lv", "create", "data", "--size", "1GiB"]);
    let source = daemon.path_of("data");
    scatter(&source, GIB, 64 * MIB, MIB);
    daemon.ringback(&["backup", "data", "s3://backups/repo/one"]);
    daemon.ringback(&["restore", "s3://backups/repo/one", "again"]);
    assert_eq!(sha256(&daemon.path_of("again")), sha256(&source));
    let log = daemon.log();
    assert!(log.contains(log_says), "{log}");
    daemon.ringback(&["lv", "remove", "data"]);
    daemon.ringback(&["lv", "remove", "again"]);
}
