//! The Directory group with loop devices, mounted volumes, reflinks, and kills.

use std::{
    fs,
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::PathBuf,
    process::Command,
    slice, thread,
    time::Duration,
};

use nix::sys::stat::{major, minor};
use ringback::{
    names::{Tag, VolumeName},
    volume::{
        Attach, BackupSnapshot, Changes, Directory, Error, Frozen, LayoutOptions, NewSnapshot,
        NewVolume, Volume, VolumeGroup,
    },
};

use crate::support::{
    Folder, Helper, MIB, Mount, attached, bytes_read, device_bytes, device_fact,
    images_attached_below, make_ext4, read_at, run, write_at,
};

const NOBODY: u32 = 65534;

fn name(text: &str) -> VolumeName {
    VolumeName::parse(text).expect("a volume name")
}

fn new_volume(text: &str, size_bytes: u64) -> NewVolume {
    NewVolume {
        name: name(text),
        size_bytes,
        tags: vec![Tag::parse("tag").expect("a tag")],
        layout: LayoutOptions::default(),
    }
}

fn new_snapshot(text: &str, source: &Volume, writable: bool) -> NewSnapshot {
    NewSnapshot {
        name: name(text),
        source: source.name.clone(),
        size_bytes: None,
        tags: Vec::new(),
        writable,
    }
}

fn assert_device_numbers_are_those_of_the_node(volume: &Volume) {
    let node = fs::metadata(&volume.path).expect("has a node");
    assert!(node.file_type().is_block_device(), "{volume:?}");
    let numbers = (major(node.rdev()), minor(node.rdev()));
    assert_eq!(
        (u64::from(volume.device.0), u64::from(volume.device.1)),
        numbers
    );
}

fn snapshot_path(snapshot: &BackupSnapshot) -> PathBuf {
    match &snapshot.frozen {
        Frozen::Snapshot(path) => path.clone(),
        other => panic!("XFS has reflinks, and yet: {other:?}"),
    }
}

#[tokio::test]
async fn a_volume_is_a_block_device_from_create_to_remove() {
    let folder = Folder::on_tmp();
    let group = folder.open().await;
    let volume = group
        .create(new_volume("data", 8 * MIB))
        .await
        .expect("creates");
    assert_eq!(volume.attr, "-wi-a-----");
    assert_device_numbers_are_those_of_the_node(&volume);
    assert_eq!(device_bytes(&volume.path), 8 * MIB);
    assert_eq!(device_fact(&volume, "loop/dio"), "1");
    assert_eq!(device_fact(&volume, "loop/autoclear"), "0");
    assert_eq!(group.list().await.expect("lists"), slice::from_ref(&volume));

    write_at(&volume.path, MIB, b"through the device");
    let image = folder.path.join("volumes/data/image");
    assert_eq!(read_at(&image, MIB, 18), b"through the device");

    group.remove(&name("data")).await.expect("removes");
    assert_eq!(
        images_attached_below(&folder.path),
        [""; 0].map(PathBuf::from)
    );
}

#[tokio::test]
async fn a_restored_volume_gets_its_device_with_its_name() {
    let folder = Folder::on_tmp();
    let group = folder.open().await;
    let pending = group
        .create_pending(new_volume("data", MIB))
        .await
        .expect("begins");
    write_at(pending.path(), 4096, b"restored");
    assert_eq!(images_attached_below(&folder.path).len(), 0);
    let volume = pending.publish().await.expect("publishes");
    assert_device_numbers_are_those_of_the_node(&volume);
    assert_eq!(read_at(&volume.path, 4096, 8), b"restored");
    let images = images_attached_below(&folder.path);
    assert_eq!(images, [folder.path.join("volumes/data/image")]);
    group.detach_all().await.expect("detaches");
}

#[tokio::test]
async fn devices_are_found_again_after_a_restart() {
    let folder = Folder::on_tmp();
    let group = folder.open().await;
    for text in ["a", "b"] {
        group.create(new_volume(text, MIB)).await.expect("creates");
    }
    let before = group.list().await.expect("lists");
    drop(group);

    let group = folder.open().await;
    assert_eq!(group.list().await.expect("lists"), before);
    assert_eq!(images_attached_below(&folder.path).len(), 2);
    group.detach_all().await.expect("detaches");
}

#[tokio::test]
async fn volumes_are_attached_again_after_a_reboot() {
    let folder = Folder::on_tmp();
    let group = folder.open().await;
    group
        .create(new_volume("data", MIB))
        .await
        .expect("creates");
    group.detach_all().await.expect("detaches");
    assert_eq!(images_attached_below(&folder.path).len(), 0);
    let inactive = group.list().await.expect("lists");
    assert_eq!(inactive[0].device, (0, 0));
    assert_eq!(inactive[0].attr, "-wi-------");
    assert_eq!(inactive[0].path, folder.path.join("volumes/data/image"));
    drop(group);

    let group = folder.open().await;
    let volumes = group.list().await.expect("lists");
    assert_device_numbers_are_those_of_the_node(&volumes[0]);
    group.detach_all().await.expect("detaches");
}

#[tokio::test]
async fn a_mounted_volume_is_not_removed() {
    let folder = Folder::on_tmp();
    let group = folder.open().await;
    let volume = group
        .create(new_volume("data", 16 * MIB))
        .await
        .expect("creates");
    make_ext4(&volume.path);
    let mounted = Mount::new(&volume.path, &folder.mount_point());
    fs::write(mounted.0.join("file"), "content").expect("writes");

    let refused = group.remove(&name("data")).await;
    assert!(matches!(refused, Err(Error::InUse(_))), "{refused:?}");
    let refused = group.detach_all().await;
    assert!(matches!(refused, Err(Error::InUse(_))), "{refused:?}");
    assert_eq!(group.list().await.expect("lists"), [volume]);
    assert_eq!(fs::read(mounted.0.join("file")).expect("reads"), b"content");

    drop(mounted);
    group.remove(&name("data")).await.expect("removes");
    assert_eq!(images_attached_below(&folder.path).len(), 0);
}

#[tokio::test]
async fn a_volume_held_open_is_not_removed_and_stays_as_it_was() {
    let folder = Folder::on_tmp();
    let group = folder.open().await;
    let volume = group
        .create(new_volume("data", MIB))
        .await
        .expect("creates");
    let holder = File::open(&volume.path).expect("opens");
    let refused = group.remove(&name("data")).await;
    assert!(matches!(refused, Err(Error::InUse(_))), "{refused:?}");
    drop(holder);
    // A detach left pending would have happened with the close.
    assert_eq!(device_fact(&volume, "loop/autoclear"), "0");
    assert_eq!(group.list().await.expect("lists"), [volume]);
    group.remove(&name("data")).await.expect("removes");
    assert_eq!(images_attached_below(&folder.path).len(), 0);
}

#[tokio::test]
async fn a_volume_whose_other_device_is_in_use_keeps_one_of_ours() {
    let folder = Folder::on_tmp();
    let group = folder.open().await;
    let volume = group
        .create(new_volume("data", MIB))
        .await
        .expect("creates");
    let image = folder.path.join("volumes/data/image");
    run(Command::new("losetup").arg("--find").arg(&image));
    let of_image = || attached().into_iter().filter(|(_, it)| *it == image);
    let other = of_image().find(|(device, _)| *device != volume.path);
    let (other, _) = other.expect("is attached twice");
    let holder = File::open(&other).expect("opens");
    let refused = group.remove(&name("data")).await;
    assert!(matches!(refused, Err(Error::InUse(_))), "{refused:?}");
    assert_eq!(of_image().count(), 2);
    drop(holder);
    group.remove(&name("data")).await.expect("removes");
    assert_eq!(images_attached_below(&folder.path).len(), 0);
}

#[tokio::test]
async fn a_removal_that_was_cut_off_costs_a_volume_in_use_no_device() {
    let folder = Folder::on_tmp();
    let group = folder.open().await;
    let volume = group
        .create(new_volume("data", MIB))
        .await
        .expect("creates");
    let holder = File::open(&volume.path).expect("opens");
    // What a removal begins with, before it waits for who has it open.
    run(Command::new("losetup").arg("--detach").arg(&volume.path));
    assert_eq!(device_fact(&volume, "loop/autoclear"), "1");
    drop(group);
    let group = folder.open().await;
    drop(holder);
    assert_eq!(group.list().await.expect("lists"), [volume]);
}

#[tokio::test]
async fn an_opener_that_soon_lets_go_only_delays_a_removal() {
    let folder = Folder::on_tmp();
    let group = folder.open().await;
    let volume = group
        .create(new_volume("data", MIB))
        .await
        .expect("creates");
    let holder = File::open(&volume.path).expect("opens");
    let letting_go = thread::spawn(move || {
        thread::sleep(Duration::from_millis(300));
        drop(holder);
    });
    group.remove(&name("data")).await.expect("removes");
    letting_go.join().expect("does not panic");
    assert_eq!(images_attached_below(&folder.path).len(), 0);
}

#[tokio::test]
async fn the_kernel_sees_a_mounted_volume_grow() {
    let folder = Folder::on_tmp();
    let group = folder.open().await;
    let volume = group
        .create(new_volume("data", 16 * MIB))
        .await
        .expect("creates");
    make_ext4(&volume.path);
    let mounted = Mount::new(&volume.path, &folder.mount_point());
    let grown = group.resize(&name("data"), 32 * MIB).await.expect("grows");
    assert_eq!(grown.size_bytes, 32 * MIB);
    assert_eq!(grown.device, volume.device);
    assert_eq!(device_bytes(&grown.path), 32 * MIB);
    drop(mounted);
    group.detach_all().await.expect("detaches");
}

#[tokio::test]
async fn a_resize_that_was_cut_off_reaches_the_device_at_the_next_start() {
    let folder = Folder::on_tmp();
    let group = folder.open().await;
    let volume = group
        .create(new_volume("data", MIB))
        .await
        .expect("creates");
    drop(group);
    let image = OpenOptions::new()
        .write(true)
        .open(folder.path.join("volumes/data/image"));
    image
        .and_then(|image| image.set_len(2 * MIB))
        .expect("grows the image alone");
    assert_eq!(device_bytes(&volume.path), MIB);

    let group = folder.open().await;
    assert_eq!(device_bytes(&volume.path), 2 * MIB);
    group.detach_all().await.expect("detaches");
}

#[tokio::test]
async fn what_is_swept_at_the_start_is_detached_first() {
    let folder = Folder::on_tmp();
    drop(folder.open().await);
    for image in [
        "pending/restoring/image",
        "trash/01234567-89ab-4def-8123-456789abcdef/image",
        "temporary/11234567-89ab-4def-8123-456789abcdef",
    ] {
        let image = folder.path.join(image);
        fs::create_dir_all(image.parent().expect("has a parent")).expect("makes folders");
        File::create(&image)
            .and_then(|image| image.set_len(MIB))
            .expect("makes an image");
        run(Command::new("losetup").arg("--find").arg(&image));
    }
    assert_eq!(images_attached_below(&folder.path).len(), 3);
    folder.open().await;
    assert_eq!(images_attached_below(&folder.path).len(), 0);
    for part in ["pending", "trash", "temporary"] {
        let left = fs::read_dir(folder.path.join(part))
            .expect("is there")
            .count();
        assert_eq!(left, 0, "{part}");
    }
}

#[tokio::test]
async fn what_is_left_unfinished_and_in_use_frees_its_name_all_the_same() {
    let folder = Folder::on_tmp();
    drop(folder.open().await);
    let image = folder.path.join("pending/data/image");
    fs::create_dir_all(folder.path.join("pending/data")).expect("makes a folder");
    File::create(&image)
        .and_then(|image| image.set_len(MIB))
        .expect("makes an image");
    run(Command::new("losetup").arg("--find").arg(&image));
    let device = attached()
        .into_iter()
        .find(|(_, attached)| *attached == image);
    let holder = File::open(device.expect("is attached").0).expect("opens");

    let group = folder.open().await;
    group
        .create(new_volume("data", MIB))
        .await
        .expect("the name is free");
    group.detach_all().await.expect("detaches");
    drop((group, holder));
    folder.open().await.detach_all().await.expect("detaches");
    assert_eq!(images_attached_below(&folder.path).len(), 0);
}

#[tokio::test]
async fn a_snapshot_and_its_source_go_their_own_ways() {
    let folder = Folder::with_reflinks();
    let group = folder.open().await;
    let source = group
        .create(new_volume("source", 8 * MIB))
        .await
        .expect("creates");
    write_at(&source.path, 0, b"before");
    let new = NewSnapshot {
        size_bytes: Some(16 * MIB),
        ..new_snapshot("copy", &source, true)
    };
    let copy = group.snapshot(new).await.expect("snapshots");
    assert_eq!(copy.size_bytes, 16 * MIB);
    assert_eq!(copy.attr, "-wi-a-----");
    assert_ne!(copy.identity, source.identity);
    assert_device_numbers_are_those_of_the_node(&copy);

    write_at(&source.path, 0, b"SOURCE");
    write_at(&copy.path, 4096, b"COPY");
    assert_eq!(read_at(&copy.path, 0, 6), b"before");
    assert_eq!(read_at(&source.path, 4096, 4), [0; 4]);
    assert_eq!(read_at(&copy.path, 12 * MIB, 4), [0; 4]);
    group.remove(&name("source")).await.expect("removes");
    assert_eq!(read_at(&copy.path, 0, 6), b"before");
    group.detach_all().await.expect("detaches");
}

#[tokio::test]
async fn a_read_only_snapshot_refuses_writes_also_after_a_restart() {
    let folder = Folder::with_reflinks();
    let group = folder.open().await;
    let source = group
        .create(new_volume("source", MIB))
        .await
        .expect("creates");
    let snapshot = group
        .snapshot(new_snapshot("fixed", &source, false))
        .await
        .expect("snapshots");
    assert_eq!(snapshot.attr, "-ri-a-----");
    assert_eq!(device_fact(&snapshot, "ro"), "1");
    group.detach_all().await.expect("detaches");
    drop(group);

    let group = folder.open().await;
    let again = group
        .get(&name("fixed"))
        .await
        .expect("looks")
        .expect("is there");
    assert_eq!(device_fact(&again, "ro"), "1");
    let writing = OpenOptions::new().write(true).open(&again.path);
    let refused = writing.and_then(|mut device| device.write_all(&[1; 4096]));
    assert!(refused.is_err());
    group
        .freeze_for_backup(&again)
        .await
        .expect("a read-only volume can be backed up");
    group.detach_all().await.expect("detaches");
}

#[tokio::test]
async fn a_backup_has_what_was_written_to_a_mounted_volume_before_it_and_nothing_after() {
    let folder = Folder::with_reflinks();
    let group = folder.open().await;
    let volume = group
        .create(new_volume("data", 64 * MIB))
        .await
        .expect("creates");
    make_ext4(&volume.path);
    let mounted = Mount::new(&volume.path, &folder.mount_point());
    // Not synced: it may lie in the page cache only.
    fs::write(mounted.0.join("before"), vec![42; 3 * 1024 * 1024]).expect("writes");
    let snapshot = group.freeze_for_backup(&volume).await.expect("freezes");
    fs::write(mounted.0.join("after"), "after").expect("writes");
    run(&mut Command::new("sync"));
    drop(mounted);

    assert_eq!(snapshot.size_bytes, 64 * MIB);
    assert_eq!(snapshot.warning, None);
    let copy = folder.temporary.path().join("restored");
    fs::copy(snapshot_path(&snapshot), &copy).expect("copies");
    let restored = Mount::new(&copy, &folder.mount_point());
    let before = fs::read(restored.0.join("before")).expect("is in the backup");
    assert_eq!(before, vec![42; 3 * 1024 * 1024]);
    assert!(!restored.0.join("after").exists());
    drop(restored);

    let path = snapshot_path(&snapshot);
    snapshot.release().await.expect("releases");
    assert!(!path.exists());
    group.detach_all().await.expect("detaches");
}

#[tokio::test]
async fn freezing_does_not_read_the_image() {
    let folder = Folder::with_reflinks();
    // In a process of its own: the kernel counts what all threads read.
    let mut helper = Helper::start("directory::helper_freezing", &folder.path, None);
    helper.wait_for_line("frozen without a read");
    drop(helper);
    folder.open().await.detach_all().await.expect("detaches");
}

#[tokio::test]
#[ignore = "the other process of freezing_does_not_read_the_image"]
async fn helper_freezing() {
    let group = Directory::open(Helper::folder(), Attach::Auto, &Changes::default())
        .await
        .expect("opens");
    let volume = group
        .create(new_volume("data", 64 * MIB))
        .await
        .expect("creates");
    write_at(&volume.path, 0, &vec![1; 64 << 20]);
    let before = bytes_read();
    let snapshot = group.freeze_for_backup(&volume).await.expect("freezes");
    let read = bytes_read() - before;
    // The group's own records, and what the kernel tells about devices.
    assert!(read < MIB, "{read} bytes");
    snapshot.release().await.expect("releases");
    println!("frozen without a read");
}

#[tokio::test]
async fn blocks_shared_with_a_snapshot_are_promised_to_it() {
    let folder = Folder::with_reflinks();
    let group = folder.open().await;
    let source = group
        .create(new_volume("source", 64 * MIB))
        .await
        .expect("creates");
    // Every other block, so that there are more extents than one call of the kernel tells.
    for block in (0..512).step_by(2) {
        write_at(&source.path, block * 4096, &[1; 4096]);
    }
    let before = group.free().await.expect("asks").free_bytes;
    group
        .snapshot(new_snapshot("copy", &source, true))
        .await
        .expect("snapshots");
    let with_copy = group.free().await.expect("asks").free_bytes;
    let taken = before - with_copy;
    assert!((64 * MIB..66 * MIB).contains(&taken), "{taken} bytes");

    group.remove(&name("source")).await.expect("removes");
    let alone = group.free().await.expect("asks").free_bytes;
    assert!(alone.abs_diff(before) < 2 * MIB, "{alone} and {before}");
    group.detach_all().await.expect("detaches");
}

#[test]
fn without_the_right_to_attach_volumes_have_no_device() {
    let folder = tempfile::tempdir().expect("a folder in /tmp");
    std::os::unix::fs::chown(folder.path(), Some(NOBODY), Some(NOBODY)).expect("gives it away");
    let mut helper = Helper::start("directory::helper_as_nobody", folder.path(), Some(NOBODY));
    helper.wait_for_line("no device, as expected");
}

#[tokio::test]
#[ignore = "the other process of without_the_right_to_attach_volumes_have_no_device"]
async fn helper_as_nobody() {
    let group = Directory::open(Helper::folder(), Attach::Auto, &Changes::default())
        .await
        .expect("opens");
    let volume = group
        .create(new_volume("data", MIB))
        .await
        .expect("creates");
    assert_eq!(volume.device, (0, 0));
    assert_eq!(volume.attr, "-wi-------");
    group.resize(&name("data"), 2 * MIB).await.expect("grows");
    group.remove(&name("data")).await.expect("removes");
    println!("no device, as expected");
}

#[tokio::test]
async fn a_kill_at_any_moment_leaves_only_whole_volumes() {
    let folder = Folder::on_tmp();
    for round in 0..25_u64 {
        let mut helper = Helper::start("directory::helper_at_work", &folder.path, None);
        helper.wait_for_line("at work");
        thread::sleep(Duration::from_millis(round * 7 % 60));
        drop(helper); // kill -9

        let group = folder.open().await;
        for volume in group.list().await.expect("lists") {
            assert_device_numbers_are_those_of_the_node(&volume);
            let content = fs::read(&volume.path).expect("reads");
            assert_eq!(content.len() as u64, volume.size_bytes, "round {round}");
            let whole = content.iter().all(|byte| *byte == 7);
            assert!(
                whole,
                "round {round}: {} was listed before it was whole",
                volume.name
            );
        }
        let listed = group.list().await.expect("lists").len();
        assert_eq!(
            images_attached_below(&folder.path).len(),
            listed,
            "round {round}"
        );
        for part in ["pending", "trash", "temporary"] {
            let left = fs::read_dir(folder.path.join(part))
                .expect("is there")
                .count();
            assert_eq!(left, 0, "round {round}: {part}");
        }
    }
    folder.open().await.detach_all().await.expect("detaches");
}

#[tokio::test]
#[ignore = "the other process of a_kill_at_any_moment_leaves_only_whole_volumes"]
async fn helper_at_work() {
    let group = Directory::open(Helper::folder(), Attach::Auto, &Changes::default())
        .await
        .expect("opens");
    println!("at work");
    for round in 0.. {
        let text = format!("v{}", round % 3);
        match group.create_pending(new_volume(&text, MIB)).await {
            Ok(pending) => {
                write_at(pending.path(), 0, &vec![7; 1 << 20]);
                pending.publish().await.expect("publishes");
            }
            Err(Error::AlreadyExists(_)) => {
                let volume = group.get(&name(&text)).await.expect("looks");
                let volume = volume.expect("it was published");
                let snapshot = group.freeze_for_backup(&volume).await.expect("freezes");
                snapshot.release().await.expect("releases");
                group.remove(&name(&text)).await.expect("removes");
            }
            Err(error) => panic!("{error}"),
        }
    }
}
