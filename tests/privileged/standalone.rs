//! The command line on block devices, without a daemon: what may be read and written over, and what
//! is left when it fails.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use nix::{
    libc::O_EXCL,
    sys::stat::{Mode, SFlag, makedev, mknod},
};
use ringback_endpoint::{Backing, Endpoint, Moment, Options, Stop, Stopped};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::support::{
    MIB, Mount, device_bytes, make_ext4, make_filesystem, read_at, run, write_at,
};

const DEADLINE: Duration = Duration::from_secs(60);
const RINGBACK: &str = env!("CARGO_BIN_EXE_ringback");
/// Of a backup; devices are as large or larger.
const VOLUME_BYTES: u64 = 48 * MIB;
const SMALL_BYTES: u64 = 44 * MIB;

/// A store, and a folder for the images of devices.
struct Bed {
    folder: TempDir,
    endpoint: Endpoint,
}

/// A loop device; detached at the end.
struct Loop {
    device: PathBuf,
    image: PathBuf,
}

impl Loop {
    fn attach(image: &Path, options: &[&str]) -> Self {
        let output = Command::new("losetup")
            .args(["--find", "--show"])
            .args(options)
            .arg(image)
            .output()
            .expect("losetup runs; it is in the package mount");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "losetup: {said}");
        let device = String::from_utf8(output.stdout).expect("text");
        Self {
            device: device.trim_end().into(),
            image: image.to_owned(),
        }
    }

    fn name(&self) -> String {
        self.device.display().to_string()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // The kernel keeps a partition that it did not find by itself for whoever comes next.
        let _ = Command::new("delpart")
            .arg(&self.device)
            .arg("1")
            .stderr(Stdio::null())
            .status();
        let _ = Command::new("losetup")
            .arg("--detach")
            .arg(&self.device)
            .status();
    }
}

impl Bed {
    /// With a backup `s3://backups/disks/one` of 48 MiB: data here and there, and at the very end.
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let endpoint = Endpoint::start(Options {
            buckets: vec!["backups".to_owned()],
            backing: Backing::Folder(folder.path().join("s3")),
            ..Options::default()
        })
        .await
        .expect("the endpoint starts");
        let bed = Self { folder, endpoint };
        let disk = bed.image("disk.img", VOLUME_BYTES);
        for (offset, len, seed) in [
            (4096, 3 * MIB, "head"),
            (20 * MIB + 512, 5000, "odd"),
            (VOLUME_BYTES - 1000, 1000, "end"),
        ] {
            write_at(&disk, offset, &noise(seed, len));
        }
        bed.succeed("backup ./disk.img s3://backups/disks/one");
        bed
    }

    fn image(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.folder.path().join(name);
        let file = File::create_new(&path).expect("makes an image");
        file.set_len(bytes).expect("makes it large");
        path
    }

    fn device(&self, name: &str, bytes: u64) -> Loop {
        Loop::attach(&self.image(name, bytes), &[])
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(RINGBACK);
        command
            .args(arguments.split(' '))
            .current_dir(self.folder.path())
            .env("XDG_CACHE_HOME", self.folder.path().join("cache"))
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ENDPOINT_URL_S3", self.endpoint.url())
            .env("AWS_ACCESS_KEY_ID", self.endpoint.access_key_id())
            .env("AWS_SECRET_ACCESS_KEY", self.endpoint.secret_access_key());
        command
    }

    fn run(&self, arguments: &str) -> Output {
        self.command(arguments).output().expect("runs")
    }

    /// Makes a partition of a device and a node for it, neither of which every kernel does by
    /// itself.
    fn partition(&self, disk: &Loop) -> PathBuf {
        let mut add = Command::new("addpart");
        run(add.arg(&disk.device).args(["1", "2048", "100000"]));
        let name = disk
            .device
            .file_name()
            .expect("has a name")
            .to_string_lossy();
        let numbers = fs::read_to_string(format!("/sys/block/{name}/{name}p1/dev"));
        let numbers = numbers.expect("the kernel has the partition");
        let (major, minor) = numbers.trim_end().split_once(':').expect("two numbers");
        let parsed = |number: &str| number.parse().expect("a number");
        let node = self.folder.path().join("partition");
        let device = makedev(parsed(major), parsed(minor));
        mknod(&node, SFlag::S_IFBLK, Mode::S_IRUSR | Mode::S_IWUSR, device).expect("makes a node");
        node
    }

    /// What it printed, result and warnings.
    #[track_caller]
    fn succeed(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned() + &said
    }

    #[track_caller]
    fn assert_fails(&self, arguments: &str, code: i32, says: &str) {
        assert_ended(&self.run(arguments), code, says);
    }

    /// Asserts that a restore to this device is refused, and that not a byte of it changed.
    #[track_caller]
    fn assert_refuses(&self, device: &Loop, options: &str, says: &str) {
        let before = blake3::hash(&fs::read(&device.image).expect("reads"));
        let to = device.name();
        self.assert_fails(
            &format!("restore s3://backups/disks/one {to}{options}"),
            7,
            says,
        );
        let after = blake3::hash(&fs::read(&device.image).expect("reads"));
        assert_eq!(after, before, "{says}");
    }

    /// Asserts that the device holds the backup, and zeros behind it.
    #[track_caller]
    fn assert_restored(&self, device: &Path) {
        let mut expected = fs::read(self.folder.path().join("disk.img")).expect("reads");
        let bytes = device_bytes(device);
        expected.resize(usize::try_from(bytes).expect("small"), 0);
        let found = read_at(device, 0, expected.len());
        let differs = found.iter().zip(&expected).position(|(a, b)| a != b);
        assert_eq!(differs, None, "first byte that differs");
    }

    /// Withholds the replies to an operation's requests for packs of chunks.
    fn stop_data(&self, operation: &str) -> Stopped {
        self.endpoint.stop_at(Stop {
            operation: operation.to_owned(),
            path_contains: "/data/".to_owned(),
            nth: 1,
            moment: Moment::Applied,
        })
    }
}

async fn reached(stopped: &Stopped) {
    let reached = timeout(DEADLINE, stopped.reached()).await;
    reached.expect("a request is stopped");
}

#[track_caller]
fn assert_ended(output: &Output, code: i32, says: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains(says), "{said}");
}

fn noise(seed: &str, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(len).expect("small")];
    let hash = blake3::Hasher::new().update(seed.as_bytes()).finalize_xof();
    { hash }.fill(&mut bytes);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blank_device_takes_a_backup_and_its_own_backup_goes_on_from_it() {
    let bed = Bed::new().await;
    let device = bed.device("target", 64 * MIB);
    let to = device.name();
    let told = bed.succeed(&format!("restore s3://backups/disks/one {to}"));
    assert_eq!(
        told,
        format!(
            "{to}: 48.0 MiB restored, 3.8 MiB of it data; the 16.0 MiB behind it read as zeros\n"
        )
    );
    bed.assert_restored(&device.device);

    for (name, says) in [("two", "deduplicated"), ("three", "unchanged")] {
        let told = bed.succeed(&format!("backup {to} s3://backups/disks/{name}"));
        assert!(
            told.contains("64.0 MiB backed up") && told.contains(says),
            "{told}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lay_on_an_overwritten_device_does_not_show_through_anywhere() {
    let bed = Bed::new().await;
    let device = bed.device("target", 64 * MIB);
    write_at(&device.device, 0, &vec![0xaa; 64 << 20]);
    bed.assert_refuses(
        &device,
        "",
        "holds data (its first or last MiB is not all zeros)",
    );
    let to = device.name();
    bed.succeed(&format!("restore s3://backups/disks/one {to} --overwrite"));
    bed.assert_restored(&device.device);

    // One byte near either end is enough to be refused.
    for at in [70_000, 64 * MIB - 1] {
        write_at(&device.device, 0, &vec![0; 64 << 20]);
        write_at(&device.device, at, &[1]);
        bed.assert_refuses(&device, "", "which a restore would destroy");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filesystem_is_named_and_a_mounted_one_is_safe_from_restores_and_backups() {
    let bed = Bed::new().await;
    let device = bed.device("target", 64 * MIB);
    let to = device.name();
    make_filesystem(
        "mkfs.ext4",
        "e2fsprogs",
        &["-q", "-L", "precious"],
        &device.device,
    );
    let says = format!("{to} holds a filesystem (ext4) named \"precious\"");
    bed.assert_refuses(&device, "", &says);

    let mount = Mount::new(&device.device, &bed.folder.path().join("mounted here"));
    let says = format!("{to} is in use: it is mounted at {}", mount.0.display());
    for options in ["", " --overwrite"] {
        let restore = format!("restore s3://backups/disks/one {to}{options}");
        bed.assert_fails(&restore, 7, &says);
    }
    bed.assert_fails(&format!("backup {to} s3://backups/disks/two"), 7, &says);
    let told = bed.succeed(&format!("backup {to} s3://backups/disks/two --live"));
    assert!(
        told.contains("not certain to be one moment's state"),
        "{told}"
    );
    drop(mount);
    bed.succeed(&format!("backup {to} s3://backups/disks/three"));
    bed.succeed(&format!("restore s3://backups/disks/one {to} --overwrite"));
    bed.assert_restored(&device.device);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_a_program_claims_or_writes_to_is_refused() {
    let bed = Bed::new().await;
    let device = bed.device("target", 64 * MIB);
    let claim = OpenOptions::new()
        .read(true)
        .custom_flags(O_EXCL)
        .open(&device.device)
        .expect("claims");
    bed.assert_refuses(&device, " --overwrite", "another program has it for itself");
    drop(claim);
    let writer = OpenOptions::new()
        .write(true)
        .open(&device.device)
        .expect("opens");
    let own = format!("(process {}) has it open for writing", std::process::id());
    bed.assert_refuses(&device, " --overwrite", &own);
    let to = device.name();
    bed.assert_fails(&format!("backup {to} s3://backups/disks/two"), 7, &own);
    drop(writer);
    bed.succeed(&format!("restore s3://backups/disks/one {to}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_attached_as_a_device_is_neither_replaced_nor_read() {
    let bed = Bed::new().await;
    let device = bed.device("target", 64 * MIB);
    let says = format!("is in use: {} has it open for writing", device.name());
    bed.assert_fails(
        "restore s3://backups/disks/one ./target --overwrite",
        7,
        &says,
    );
    bed.assert_fails("backup ./target s3://backups/disks/two", 7, &says);
    drop(device);
    let image = bed.folder.path().join("target");
    let read_only = Loop::attach(&image, &["--read-only"]);
    bed.succeed("backup ./target s3://backups/disks/two");
    drop(read_only);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_too_small_or_of_its_own_size_is_told_so_and_keeps_its_content() {
    let bed = Bed::new().await;
    let device = bed.device("target", SMALL_BYTES);
    write_at(&device.device, 0, b"kept");
    let says = format!(
        "the device {} has {SMALL_BYTES} bytes, the backup {VOLUME_BYTES}; it must be as large. \
         Nothing was written",
        device.name()
    );
    bed.assert_refuses(&device, " --overwrite", &says);
    let to = device.name();
    let sized = format!("restore s3://backups/disks/one {to} --overwrite --size 1GiB");
    bed.assert_fails(&sized, 2, "--size is the size of a file");
    assert_eq!(read_at(&device.device, 0, 4), b"kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_fails_or_is_interrupted_says_that_the_device_must_not_be_used() {
    let bed = Bed::new().await;
    let device = bed.device("target", 64 * MIB);
    let to = device.name();
    let restore = format!("restore s3://backups/disks/one {to} --overwrite");
    let says = format!("{to} now holds neither what it held nor the backup, and must not be used");

    let stopped = bed.stop_data("GetObject");
    let mut command = bed.command(&restore);
    let running = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    reached(&stopped).await;
    let id = nix::unistd::Pid::from_raw(running.id().cast_signed());
    nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGINT).expect("signals");
    let output = running.wait_with_output().expect("ends");
    assert_ended(&output, 130, &says);
    drop(stopped);

    let packs = fs::read_dir(bed.folder.path().join("s3/backups")).expect("lists");
    let pack = packs
        .map(|entry| entry.expect("an entry").path())
        .find(|path| path.display().to_string().contains("disks%2Fdata"))
        .expect("there is a pack");
    let byte = read_at(&pack, MIB, 1)[0];
    write_at(&pack, MIB, &[byte ^ 1]);
    bed.assert_fails(&restore, 6, &says);
    bed.assert_fails(&restore, 6, "is damaged at byte");
    write_at(&pack, MIB, &[byte]);
    bed.succeed(&restore);
    bed.assert_restored(&device.device);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_can_mount_a_device_while_it_is_backed_up_or_restored_to() {
    let bed = Bed::new().await;
    let device = bed.device("target", 64 * MIB);
    make_ext4(&device.device);
    let to = device.name();
    let point = bed.folder.path().join("mounted");
    fs::create_dir(&point).expect("makes a folder");
    for (arguments, operation) in [
        (format!("backup {to} s3://backups/disks/two"), "PutObject"),
        (
            format!("restore s3://backups/disks/one {to} --overwrite"),
            "GetObject",
        ),
    ] {
        let stopped = bed.stop_data(operation);
        let mut command = bed.command(&arguments);
        let running = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        reached(&stopped).await;
        let mounted = Command::new("mount")
            .arg(&device.device)
            .arg(&point)
            .output();
        let mounted = mounted.expect("mount runs");
        assert!(
            !mounted.status.success(),
            "{arguments}: it could be mounted"
        );
        drop(stopped);
        let output = running.wait_with_output().expect("ends");
        assert_ended(&output, 0, "");
    }
    bed.assert_restored(&device.device);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_of_which_a_partition_is_mounted_is_in_use() {
    let bed = Bed::new().await;
    let image = bed.image("target", 64 * MIB);
    // One Linux partition from 1 MiB on: a DOS table's first entry, and its signature.
    let file = File::options().write(true).open(&image).expect("opens");
    let entry = [
        &[0, 0, 0, 0, 0x83, 0, 0, 0][..],
        &2048u32.to_le_bytes(),
        &100_000u32.to_le_bytes(),
    ];
    file.write_all_at(&entry.concat(), 446).expect("writes");
    file.write_all_at(&[0x55, 0xaa], 510).expect("writes");
    drop(file);
    let disk = Loop::attach(&image, &[]);
    let partition = bed.partition(&disk);
    bed.assert_refuses(&disk, "", "holds a partition table (dos)");
    run(Command::new("mkfs.ext4").arg("-q").arg(&partition));
    let mount = Mount::new(&partition, &bed.folder.path().join("mounted"));
    let says = format!("it is mounted at {}", mount.0.display());
    let to = disk.name();
    bed.assert_fails(
        &format!("restore s3://backups/disks/one {to} --overwrite"),
        7,
        &says,
    );
    bed.assert_fails(&format!("backup {to} s3://backups/disks/two"), 7, &says);
    drop(mount);
    bed.succeed(&format!(
        "backup {} s3://backups/disks/two",
        partition.display()
    ));
    let shown = bed.succeed("show s3://backups/disks/two");
    assert!(shown.contains(":part1"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_of_a_disk_that_somebody_writes_to_is_in_use_and_so_is_that_disk() {
    let bed = Bed::new().await;
    let image = bed.image("target", 64 * MIB);
    let disk = Loop::attach(&image, &[]);
    let partition = bed.partition(&disk);
    let assert_in_use = |target: &str, by_way: &str| {
        let says = format!(
            "(process {}, by way of {by_way}) has it",
            std::process::id()
        );
        let restore = format!("restore s3://backups/disks/one {target} --overwrite");
        bed.assert_fails(&restore, 7, &says);
        bed.assert_fails(&format!("backup {target} s3://backups/disks/two"), 7, &says);
    };
    let open = |path: &Path| File::options().write(true).open(path).expect("opens");
    // As virtual machines have them, which claim nothing.
    let of_partition = partition.display().to_string();
    for (held, way) in [
        (&disk.device, disk.name()),
        (&image, image.display().to_string()),
    ] {
        let holder = open(held);
        assert_in_use(&of_partition, &way);
        drop(holder);
    }
    let holder = open(&partition);
    assert_in_use(&disk.name(), &format!("{}p1", disk.name()));
    drop(holder);
    bed.succeed(&format!("backup {of_partition} s3://backups/disks/two"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_behind_a_loop_device_is_in_use_whatever_path_that_was_attached_by() {
    let bed = Bed::new().await;
    let image = bed.image("target", 64 * MIB);
    let view = bed.folder.path().join("view");
    fs::create_dir(&view).expect("makes a folder");
    let folder = image.parent().expect("a folder");
    run(Command::new("mount").arg("--bind").args([folder, &view]));
    let name = image.file_name().expect("a name");
    let disk = Loop::attach(&view.join(name), &[]);
    run(Command::new("umount").arg("--lazy").arg(&view));
    let says = format!("is in use: {} has it open for writing", disk.name());
    let restore = format!(
        "restore s3://backups/disks/one {} --overwrite",
        image.display()
    );
    bed.assert_fails(&restore, 7, &says);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_for_which_there_is_no_room_is_not_begun() {
    let bed = Bed::new().await;
    let small = bed.device("small", 16 * MIB);
    make_ext4(&small.device);
    let mount = Mount::new(&small.device, &bed.folder.path().join("mounted"));
    let free = mount.0.join("filler");
    run(Command::new("fallocate").args(["-l", "9MiB"]).arg(&free));
    let before = fs::read_dir(&mount.0).expect("lists").count();
    let says = "bytes, the filesystem of ";
    bed.assert_fails(
        "restore s3://backups/disks/one ./mounted/again.img",
        1,
        says,
    );
    assert_eq!(fs::read_dir(&mount.0).expect("lists").count(), before);
    fs::remove_file(free).expect("removes the filler");
    bed.succeed("restore s3://backups/disks/one ./mounted/again.img");
    bed.assert_restored(&mount.0.join("again.img"));
}
