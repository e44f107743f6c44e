//! Repositories on a FAT stick, and on a server of NFS, which is this guest itself.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    bed::{Bed, Group, Lv, Mount, text},
    harness,
    repository::succeed,
    tools::{MIB, assert_same, noise, output, run, write_at},
};

const PATIENCE: Duration = Duration::from_secs(300);

/// A folder of a filesystem for a repository.
struct Folder(PathBuf);

impl Folder {
    fn url(&self, name: &str) -> String {
        format!("file://{}/{name}", self.0.display())
    }

    /// Files below one of its folders.
    fn files(&self, below: &str) -> usize {
        let mut folders = vec![self.0.join(below)];
        let mut files = 0;
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                match entry.path() {
                    path if path.is_dir() => folders.push(path),
                    _ => files += 1,
                }
            }
        }
        files
    }
}

/// A server of NFS, and a mount of what it exports.
struct Nfs {
    mounted: PathBuf,
    exported: Mount,
}

impl Nfs {
    /// Exports an ext4 filesystem on this volume, and mounts it by NFS.
    fn serve(bed: &Bed, on: &Lv) -> Self {
        let exported = bed.mount_new("ext4", &on.path);
        let nfs = Self {
            mounted: bed.folder("nfs"),
            exported,
        };
        let script = format!(
            "mkdir -p /var/lib/nfs && touch /etc/exports /var/lib/nfs/etab /var/lib/nfs/rmtab
             modprobe nfsd
             [ -e /proc/fs/nfsd/threads ] || mount -t nfsd nfsd /proc/fs/nfsd
             echo 10 >/proc/fs/nfsd/nfsv4leasetime
             echo 10 >/proc/fs/nfsd/nfsv4gracetime
             exportfs -o rw,fsid=0,no_root_squash,no_subtree_check 127.0.0.1:{}
             rpc.mountd --no-nfs-version 3
             rpc.nfsd --no-nfs-version 3 4
             mount -t nfs -o vers=4.2,hard,timeo=10 127.0.0.1:/ {}",
            nfs.exported.0.display(),
            nfs.mounted.display()
        );
        run("bash", &["-euc", &script]);
        nfs
    }

    /// Nobody answers from now on.
    fn stop() {
        run("rpc.nfsd", &["0"]);
    }

    /// It serves again, and gives its clients back what they had.
    fn start() {
        run("rpc.nfsd", &["--no-nfs-version", "3", "4"]);
    }
}

impl Drop for Nfs {
    fn drop(&mut self) {
        output("umount", &["--force", "--lazy", text(&self.mounted)]);
        output(
            "bash",
            &["-c", "rpc.nfsd 0; exportfs -au; pkill -x rpc.mountd"],
        );
    }
}

/// Two volumes of noise.
fn volumes(group: &Group) -> [Lv; 2] {
    ["one", "two"].map(|name| {
        let volume = group.thick(name, 64);
        write_at(&volume.path, 0, &noise(name, 48 * MIB));
        volume
    })
}

fn start(arguments: &[&str]) -> Child {
    let mut command = harness::ringback();
    command
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::inherit());
    command.spawn().expect("the program starts")
}

/// Returns when there are so many files below a folder.
fn await_files(folder: &Folder, below: &str, count: usize) {
    let deadline = Instant::now() + PATIENCE;
    while folder.files(below) < count {
        assert!(Instant::now() < deadline, "no {count} files below {below}");
        sleep(Duration::from_millis(5));
    }
}

/// Two back up at once, again and again, and one is killed in the midst: all that ended is there.
fn keeps_what_it_was_given(group: &Group, folder: &Folder) {
    let volumes = volumes(group);
    for round in 0..3 {
        let running = volumes.each_ref().map(|volume| {
            let name = format!(
                "{}-{round}",
                volume.path.file_name().expect("has one").display()
            );
            start(&[
                "backup",
                volume.text(),
                &folder.url(&name),
                "--memory",
                "32",
            ])
        });
        for mut process in running {
            assert!(process.wait().expect("ends").success());
        }
        for (n, volume) in volumes.iter().enumerate() {
            let seed = format!("{round} {n}");
            write_at(&volume.path, round * 9 * MIB, &noise(&seed, 8 * MIB));
        }
    }
    let [one, _] = &volumes;
    write_at(&one.path, 0, &noise("anew", 48 * MIB));
    let packs = folder.files("data");
    let mut killed = start(&["backup", one.text(), &folder.url("last"), "--memory", "32"]);
    await_files(folder, "data", packs + 2);
    killed.kill().expect("is killed");
    killed.wait().expect("ends");
    succeed(&["backup", one.text(), &folder.url("last"), "--memory", "32"]);
    assert_eq!(folder.files(".uploads"), 0, "drafts");

    let listed = succeed(&["list", &folder.url(""), "--json"]);
    assert_eq!(listed.matches("\"slot\"").count(), 7, "{listed}");
    succeed(&["verify", &folder.url(""), "--data"]);
    let again = group.thick("again", 64);
    succeed(&["restore", &folder.url("last"), again.text(), "--overwrite"]);
    assert_same(&again.path, &one.path);
}

#[test]
fn a_repository_on_a_fat_stick_keeps_what_it_was_given() {
    let bed = Bed::new();
    let group = bed.group();
    run("mkfs.vfat", &[text(bed.disk(2))]);
    let stick = bed.mount(bed.disk(2));
    keeps_what_it_was_given(&group, &Folder(stick.0.clone()));
}

#[test]
fn a_repository_on_a_server_of_nfs_keeps_what_it_was_given() {
    let bed = Bed::new();
    let group = bed.group();
    let export = group.thick("export", 512);
    let nfs = Nfs::serve(&bed, &export);
    keeps_what_it_was_given(&group, &Folder(nfs.mounted.clone()));
}

#[test]
fn a_backup_goes_on_when_a_server_of_nfs_that_went_away_is_back() {
    let bed = Bed::new();
    let group = bed.group();
    let export = group.thick("export", 256);
    let nfs = Nfs::serve(&bed, &export);
    let folder = Folder(nfs.mounted.clone());
    let [one, again] = ["one", "again"].map(|name| group.thick(name, 64));
    write_at(&one.path, 0, &noise("one", 60 * MIB));
    let url = folder.url("one");
    let mut running = start(&["backup", one.text(), &url, "--memory", "32"]);
    await_files(&folder, "data", 1);
    Nfs::stop();
    sleep(Duration::from_secs(3));
    assert!(running.try_wait().expect("asked").is_none(), "it waits");
    Nfs::start();
    assert!(running.wait().expect("ends").success());
    succeed(&["verify", &url, "--data"]);
    succeed(&["restore", &url, again.text(), "--overwrite"]);
    assert_same(&again.path, &one.path);
}
