//! The guest's volume group, a daemon on it, and what LVM and the kernel say of both.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::{FileExt, MetadataExt},
    path::PathBuf,
    process::Command,
};

use nix::sys::stat::{major, minor};
use ringback_proto::lvmd::{
    CreateLvRequest, CreateLvSnapshotRequest, DataSource, GetFreeBytesRequest, GetLvListRequest,
    LogicalVolume, RemoveLvRequest, ResizeLvRequest,
};
use tonic::Status;

use crate::{
    bed,
    client::{Client, ok, sized_bytes, with_source},
    harness::{Daemon, MIB},
    store::Store,
};

/// The guest's volume group.
pub(crate) const VG: &str = "vm";
/// The thin pool that every bed has, and its size. It fails when it is full, and does not wait.
pub(crate) const POOL: &str = "pool";
pub(crate) const POOL_BYTES: u64 = 512 * MIB;
/// What volumes of the class `thin` may have together.
pub(crate) const PROMISED_BYTES_MAX: u64 = 20 * POOL_BYTES;
/// The pool of the class `raw`, which does not zero its blocks. They are large, so that much of a
/// block is left to what the disk held.
pub(crate) const RAW_POOL: &str = "raw-pool";

/// Both classes that every volume can be in.
pub(crate) const CLASSES: [&str; 2] = ["thick", "thin"];

/// A daemon with the classes `thick` (the default), `thin` and `raw` in an empty volume group, and a
/// store.
pub(crate) struct Bed {
    pub(crate) daemon: Daemon,
    pub(crate) client: Client,
    pub(crate) store: Store,
    /// What a test has put below the group.
    pub(crate) mappings: Vec<&'static str>,
    // Gone in this order, when the daemon is: then nothing may be left.
    _group: bed::Group,
    _disks: bed::Bed,
}

impl Bed {
    pub(crate) async fn new() -> Self {
        Self::with("", "").await
    }

    /// The same with further keys of the class `thick`, and further sections of the file.
    pub(crate) async fn with(thick: &str, sections: &str) -> Self {
        Self::sparing(0, thick, sections).await
    }

    /// The same with so many GiB of the class `thick` reported as taken.
    pub(crate) async fn sparing(spare_gib: u64, thick: &str, sections: &str) -> Self {
        let disks = bed::Bed::new();
        let group = bed::Group::make(VG, &[0, 1, 2].map(|number| disks.disk(number)));
        make_pools();
        let daemon = Daemon::with(|_| {
            format!(
                "- {{ name: thick, volume-group: {VG}, default: true, spare-gb: {spare_gib}, {thick} }}\n\
                 - {{ name: thin, volume-group: {VG}, type: thin, spare-gb: 0,\n\
                 \x20   thin-pool: {{ name: {POOL}, overprovision-ratio: 20.0 }} }}\n\
                 - {{ name: raw, volume-group: {VG}, type: thin, spare-gb: 0,\n\
                 \x20   thin-pool: {{ name: {RAW_POOL}, overprovision-ratio: 20.0 }} }}\n\
                 datapath: {{ memory-mib: 128, backups-max: 1, restores-max: 1 }}\n{sections}"
            )
        });
        Self {
            client: daemon.client().await,
            daemon,
            store: Store::start().await,
            mappings: Vec::new(),
            _group: group,
            _disks: disks,
        }
    }

    /// Kills the daemon, and starts it on what it left.
    pub(crate) async fn restart(&mut self) {
        self.daemon.restart();
        self.client = self.daemon.client().await;
    }

    pub(crate) async fn create(&self, class: &str, name: &str, bytes: u64) -> LogicalVolume {
        let created = self.try_create(class, name, bytes).await;
        created.expect("the volume is made")
    }

    pub(crate) async fn try_create(
        &self,
        class: &str,
        name: &str,
        bytes: u64,
    ) -> Result<LogicalVolume, Status> {
        let request = CreateLvRequest {
            device_class: class.to_owned(),
            ..sized_bytes(name, bytes)
        };
        let answer = self.client.clone().lv.create_lv(request).await?;
        Ok(answer.into_inner().volume.expect("the answer has it"))
    }

    pub(crate) async fn remove(&self, class: &str, name: &str) -> Result<(), Status> {
        let request = RemoveLvRequest {
            name: name.to_owned(),
            device_class: class.to_owned(),
        };
        self.client.clone().lv.remove_lv(request).await.map(drop)
    }

    /// Grows a volume in the current dialect; its size then.
    pub(crate) async fn resize(&self, class: &str, name: &str, bytes: u64) -> Result<u64, Status> {
        let request = ResizeLvRequest {
            name: name.to_owned(),
            device_class: class.to_owned(),
            size_bytes: i64::try_from(bytes).expect("a size"),
            ..ResizeLvRequest::default()
        };
        let answer = self.client.clone().lv.resize_lv(request).await?;
        Ok(answer.into_inner().size_bytes.unsigned_abs())
    }

    /// Makes a snapshot that can be written to, as large as its source.
    pub(crate) async fn snapshot(
        &self,
        class: &str,
        name: &str,
        source: &str,
    ) -> Result<LogicalVolume, Status> {
        let request = CreateLvSnapshotRequest {
            name: name.to_owned(),
            device_class: class.to_owned(),
            source_volume: source.to_owned(),
            access_type: "rw".to_owned(),
            ..CreateLvSnapshotRequest::default()
        };
        let answer = self.client.clone().lv.create_lv_snapshot(request).await?;
        Ok(answer.into_inner().snapshot.expect("the answer has it"))
    }

    /// Makes a volume that holds a backup.
    pub(crate) async fn restore(
        &self,
        class: &str,
        name: &str,
        size_gb: u64,
        source: &DataSource,
    ) -> Result<LogicalVolume, Status> {
        let request = CreateLvRequest {
            device_class: class.to_owned(),
            ..with_source(name, size_gb, source)
        };
        let answer = self.client.clone().lv.create_lv(request).await?;
        Ok(answer.into_inner().volume.expect("the answer has it"))
    }

    pub(crate) async fn list(&self, class: &str) -> Vec<LogicalVolume> {
        let request = GetLvListRequest {
            device_class: class.to_owned(),
        };
        ok(self.client.clone().vg.get_lv_list(request).await).volumes
    }

    pub(crate) async fn names(&self, class: &str) -> Vec<String> {
        let volumes = self.list(class).await.into_iter();
        volumes.map(|volume| volume.name).collect()
    }

    pub(crate) async fn free_bytes(&self, class: &str) -> u64 {
        let request = GetFreeBytesRequest {
            device_class: class.to_owned(),
        };
        ok(self.client.clone().vg.get_free_bytes(request).await).free_bytes
    }

    /// Asserts that LVM has these volumes, all of them active, and no others beside the pools and what
    /// those consist of, none with a tag of ours, and the device-mapper no other devices.
    #[track_caller]
    pub(crate) fn assert_left(&self, volumes: &[&str]) {
        let rows = Row::all();
        let mut names: Vec<&str> = rows.iter().map(|row| &row.name[..]).collect();
        names.sort_unstable();
        assert_eq!(names, with_pools(volumes));
        let is_ours = |row: &Row| row.tags.contains("ringback");
        assert!(!rows.iter().any(is_ours), "a tag: {rows:?}");
        let mut devices = words(&["dmsetup", "info", "-c", "--noheadings", "-o", "name"]);
        devices.retain(|name| !self.mappings.contains(&&name[..]));
        assert_eq!(devices, devices_with_pools(volumes, &rows, &devices));
        assert_eq!(words(&["losetup", "-a"]), [""; 0]);
    }
}

/// A logical volume, also one that is only a part of another: that has its name in brackets.
#[derive(Debug)]
struct Row {
    name: String,
    pool: String,
    tags: String,
}

impl Row {
    #[track_caller]
    fn all() -> Vec<Self> {
        let options = ["--noheadings", "--separator", "|"];
        let fields = ["-o", "lv_name,pool_lv,lv_tags", VG];
        let rows = run(&[&["lvs", "-a"], &options[..], &fields].concat());
        let row = |row: &str| {
            let mut fields = row.trim().split('|').map(str::to_owned);
            let mut next = || fields.next().expect("three fields");
            Self {
                name: next(),
                pool: next(),
                tags: next(),
            }
        };
        rows.lines().map(row).collect()
    }
}

/// What LVM lists when there are these volumes and the pools, sorted.
fn with_pools(volumes: &[&str]) -> Vec<String> {
    let mut names: Vec<String> = volumes.iter().map(ToString::to_string).collect();
    for pool in [POOL, RAW_POOL] {
        let parts = ["tdata", "tmeta"].map(|part| format!("[{pool}_{part}]"));
        names.push(pool.to_owned());
        names.extend(parts);
    }
    // The room to repair a pool's metadata in, as much as the largest one has.
    names.push("[lvol0_pmspare]".to_owned());
    names.sort_unstable();
    names
}

/// The devices of these volumes, which are among `rows`, and of the pools, sorted.
fn devices_with_pools(volumes: &[&str], rows: &[Row], found: &[String]) -> Vec<String> {
    let of = |name: &str| format!("{VG}-{}", name.replace('-', "--"));
    let mut names: Vec<String> = volumes.iter().map(|name| of(name)).collect();
    for pool in [POOL, RAW_POOL] {
        let name = of(pool);
        names.extend(["_tdata", "_tmeta"].map(|part| format!("{name}{part}")));
        // What volumes of the pool are on. It comes with the first of them, and stays when the last one goes.
        let below = format!("{name}-tpool");
        if rows.iter().any(|row| row.pool == pool) || found.contains(&below) {
            names.push(below);
        }
        names.push(name);
    }
    names.sort_unstable();
    names
}

fn make_pools() {
    let full_name = |pool: &str| format!("{VG}/{pool}");
    let size = format!("{POOL_BYTES}b");
    let pool = full_name(POOL);
    let make = [
        "lvcreate",
        "--yes",
        "--errorwhenfull",
        "y",
        "-L",
        &size,
        "-T",
        &pool,
    ];
    run(&make);
    let (raw, sizes) = (full_name(RAW_POOL), ["--chunksize", "1m", "-L", "256m"]);
    let make = ["lvcreate", "--yes", "--zero", "n", "-T", &raw];
    run(&[&make[..], &sizes].concat());
}

/// Runs a program, which must succeed; what it printed.
#[track_caller]
pub(crate) fn run(command: &[&str]) -> String {
    let output = Command::new(command[0])
        .args(&command[1..])
        .output()
        .expect("the program starts");
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The words that a program prints, sorted.
#[track_caller]
pub(crate) fn words(command: &[&str]) -> Vec<String> {
    let mut words: Vec<String> = run(command).split_whitespace().map(str::to_owned).collect();
    words.sort_unstable();
    words
}

/// One field of a volume or pool.
#[track_caller]
pub(crate) fn field(name: &str, field: &str) -> String {
    let full = format!("{VG}/{name}");
    let options = [
        "lvs",
        "--noheadings",
        "--units",
        "b",
        "--nosuffix",
        "-o",
        field,
    ];
    let command: Vec<&str> = options.into_iter().chain([&full[..]]).collect();
    run(&command).trim().to_owned()
}

/// What the group has free, as LVM says.
#[track_caller]
pub(crate) fn vg_free_bytes() -> u64 {
    let options = [
        "vgs",
        "--noheadings",
        "--units",
        "b",
        "--nosuffix",
        "-o",
        "vg_free",
        VG,
    ];
    run(&options).trim().parse().expect("a number")
}

/// The device of a volume.
pub(crate) fn device(name: &str) -> PathBuf {
    PathBuf::from(format!("/dev/{VG}/{name}"))
}

/// Numbers of the device node of a volume.
pub(crate) fn device_numbers(name: &str) -> (u32, u32) {
    let number = fs::metadata(device(name)).expect("a node").rdev();
    let part = |number: u64| u32::try_from(number).expect("a device number");
    (part(major(number)), part(minor(number)))
}

/// All bytes of a volume.
pub(crate) fn content(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    File::open(device(name))
        .and_then(|mut device| device.read_to_end(&mut bytes))
        .expect("the volume can be read");
    bytes
}

/// So many of its first bytes.
pub(crate) fn head(name: &str, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(len).expect("a length")];
    File::open(device(name))
        .and_then(|device| device.read_exact_at(&mut bytes, 0))
        .expect("the volume can be read");
    bytes
}

/// Asserts that a volume begins with these bytes, and reads as zeros behind them.
#[track_caller]
pub(crate) fn assert_holds(name: &str, original: &[u8]) {
    let mut file = File::open(device(name)).expect("the volume can be opened");
    let step = usize::try_from(MIB).expect("a length");
    let (mut found, mut expected) = (vec![0; step], vec![0; step]);
    let mut at = 0;
    loop {
        let read = file.read(&mut found).expect("the volume can be read");
        if read == 0 {
            break;
        }
        let known = original.get(at..).unwrap_or_default();
        let known = &known[..known.len().min(read)];
        expected.fill(0);
        expected[..known.len()].copy_from_slice(known);
        if found[..read] != expected[..read] {
            let differs = found.iter().zip(&expected).position(|(a, b)| a != b);
            let differs = differs.expect("one does");
            let (found, expected) = (found[differs], expected[differs]);
            panic!("byte {} of {name} is {found}, not {expected}", at + differs);
        }
        at += read;
    }
    assert!(at >= original.len(), "{name} has {at} bytes");
}

/// Leaves something in every mebibyte to whoever gets the extents next.
pub(crate) fn soil(name: &str, bytes: u64) {
    let file = open_to_write(name);
    for at in 0..bytes / MIB {
        file.write_all_at(&[0xee; 4096], at * MIB).expect("writes");
    }
    file.sync_all().expect("syncs");
}

pub(crate) fn open_to_write(name: &str) -> File {
    let opened = File::options().write(true).open(device(name));
    opened.expect("opens")
}

/// Writes `byte` over a range of a volume, past the page cache's memory of it.
pub(crate) fn write(name: &str, offset: u64, len: u64, byte: u8) {
    let file = open_to_write(name);
    let block = vec![byte; usize::try_from(MIB).expect("a length")];
    let mut at = offset;
    while at < offset + len {
        let step = usize::try_from((offset + len - at).min(MIB)).expect("a length");
        file.write_all_at(&block[..step], at).expect("writes");
        at += step as u64;
    }
    file.sync_all().expect("syncs");
}
