//! Folders and filesystems that come and go, other processes, and what the kernel says of devices.

use std::{
    env, fs,
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Read, Seek, SeekFrom},
    os::unix::{fs::FileExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use ringback::volume::{Attach, Changes, Directory, Volume};
use tempfile::TempDir;

/// Bytes in a mebibyte.
pub(crate) const MIB: u64 = 1 << 20;

/// A folder for a group, on /tmp or on a filesystem of its own; unmounted and deleted at the end.
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    mounted: Option<Mount>,
    pub(crate) temporary: TempDir,
}

/// A mounted filesystem.
pub(crate) struct Mount(pub(crate) PathBuf);

/// Another process of this test, running one of its ignored tests.
pub(crate) struct Helper(Child);

impl Folder {
    pub(crate) fn on_tmp() -> Folder {
        let temporary = tempfile::tempdir().expect("a folder in /tmp");
        Folder {
            path: temporary.path().join("group"),
            mounted: None,
            temporary,
        }
    }

    /// On a fresh XFS, whose files can share blocks.
    pub(crate) fn with_reflinks() -> Folder {
        Folder::on_xfs(1024 * MIB)
    }

    /// The same, of this size.
    pub(crate) fn on_xfs(bytes: u64) -> Folder {
        Folder::on_image(bytes, |image| {
            make_filesystem("mkfs.xfs", "xfsprogs", &["-q", "-m", "reflink=1"], image);
        })
    }

    /// On a fresh ext4 of this size, whose files cannot.
    pub(crate) fn on_ext4(bytes: u64) -> Folder {
        Folder::on_image(bytes, make_ext4)
    }

    /// On a fresh FAT of this size.
    pub(crate) fn on_fat(bytes: u64) -> Folder {
        Folder::on_image(bytes, |image| {
            make_filesystem("mkfs.vfat", "dosfstools", &[], image);
        })
    }

    fn on_image(bytes: u64, make: impl FnOnce(&Path)) -> Folder {
        let temporary = tempfile::tempdir().expect("a folder in /tmp");
        let image = temporary.path().join("filesystem");
        let file = File::create(&image).expect("makes a file");
        file.set_len(bytes).expect("makes it large");
        make(&image);
        let mounted = Mount::new(&image, &temporary.path().join("mount"));
        Folder {
            path: mounted.0.join("group"),
            mounted: Some(mounted),
            temporary,
        }
    }

    pub(crate) async fn open(&self) -> Directory {
        Directory::open(&self.path, Attach::Auto, &Changes::default())
            .await
            .expect("opens")
    }

    /// Where to mount something; a path that is not there yet.
    pub(crate) fn mount_point(&self) -> PathBuf {
        self.temporary.path().join("mounted-volume")
    }
}

impl Drop for Folder {
    /// A test that fails leaves volumes attached, which would keep the filesystem busy.
    fn drop(&mut self) {
        for (device, image) in attached() {
            if image.starts_with(&self.path) || image.starts_with(self.temporary.path()) {
                let _ = Command::new("losetup").arg("--detach").arg(device).status();
            }
        }
        drop(self.mounted.take());
    }
}

impl Mount {
    pub(crate) fn new(source: &Path, target: &Path) -> Mount {
        fs::create_dir_all(target).expect("makes the mount point");
        run(Command::new("mount").arg(source).arg(target));
        Mount(target.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

impl Helper {
    /// Starts the ignored test `test` in a process of its own.
    pub(crate) fn start(test: &str, folder: &Path, user: Option<u32>) -> Helper {
        let this = env::current_exe().expect("this test is a program");
        let mut command = Command::new(this);
        command
            .args(["--exact", test, "--ignored", "--nocapture"])
            .env("RINGBACK_TEST_FOLDER", folder)
            .stdout(Stdio::piped());
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        Helper(command.spawn().expect("starts"))
    }

    /// The folder it is to work on, asked in the other process.
    pub(crate) fn folder() -> PathBuf {
        env::var_os("RINGBACK_TEST_FOLDER")
            .expect("started by another test, which sets RINGBACK_TEST_FOLDER")
            .into()
    }

    pub(crate) fn wait_for_line(&mut self, wanted: &str) {
        let output = self.0.stdout.take().expect("is piped");
        let mut lines = BufReader::new(output).lines();
        let found = lines.any(|line| line.expect("prints text").contains(wanted));
        assert!(found, "the other process never printed {wanted:?}");
        // Keeps the pipe open: a closed one would end the other process.
        thread::spawn(move || lines.count());
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn run(command: &mut Command) {
    let status = command.status();
    let status = status.unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}

pub(crate) fn make_filesystem(program: &str, package: &str, arguments: &[&str], image: &Path) {
    let mut command = Command::new(program);
    command.args(arguments).arg(image).stdout(Stdio::null());
    match command.status() {
        Err(error) => panic!("{program} does not run ({error}); install the package {package}"),
        Ok(status) => assert!(status.success(), "{command:?}: {status}"),
    }
}

pub(crate) fn make_ext4(device: &Path) {
    make_filesystem("mkfs.ext4", "e2fsprogs", &["-q"], device);
}

/// Every attached loop device of this machine, with its image.
pub(crate) fn attached() -> Vec<(PathBuf, PathBuf)> {
    let devices = fs::read_dir("/sys/block").expect("there is a /sys/block");
    let with_image = devices.filter_map(|entry| {
        let entry = entry.ok()?;
        let image = fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
        Some((
            Path::new("/dev").join(entry.file_name()),
            image.trim_end().into(),
        ))
    });
    with_image.collect()
}

pub(crate) fn images_attached_below(folder: &Path) -> Vec<PathBuf> {
    let images = attached().into_iter().map(|(_, image)| image);
    images.filter(|image| image.starts_with(folder)).collect()
}

/// What the kernel says about a volume's device, such as `loop/dio`.
pub(crate) fn device_fact(volume: &Volume, fact: &str) -> String {
    let device = volume.path.file_name().expect("has a name");
    let path = Path::new("/sys/block").join(device).join(fact);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    text.trim_end().to_owned()
}

pub(crate) fn device_bytes(device: &Path) -> u64 {
    let mut device = File::open(device).expect("opens");
    device.seek(SeekFrom::End(0)).expect("seeks")
}

pub(crate) fn write_at(path: &Path, offset: u64, content: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).expect("opens");
    file.write_all_at(content, offset).expect("writes");
    file.sync_all().expect("syncs");
}

pub(crate) fn read_at(path: &Path, offset: u64, length: usize) -> Vec<u8> {
    let mut content = vec![0; length];
    let file = File::open(path).expect("opens");
    file.read_exact_at(&mut content, offset).expect("reads");
    content
}

pub(crate) fn bytes_read() -> u64 {
    let mut text = String::new();
    let mut file = File::open("/proc/self/io").expect("opens");
    file.read_to_string(&mut text).expect("reads");
    let line = text.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.and_then(|line| line.parse().ok())
        .expect("rchar is a number")
}
