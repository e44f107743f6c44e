//! What the other tests take for granted of the guest.

use std::{
    io::{Read, Write},
    mem::forget,
    net::{TcpListener, TcpStream},
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::{
    bed::{Bed, Group, Lv, Mapping, lines, remains, text},
    tools::{MIB, noise, output, read_at, run, write_at},
};

#[test]
fn snapshots_of_thick_and_thin_volumes_hold_what_their_origins_held() {
    let bed = Bed::new();
    let group = bed.group();
    let pool = group.pool("pool", 64);
    let thick = group.thick("thick", 32);
    let thin = group.thin("thin", 512, &pool);
    let (before, after) = (noise("before", 2 * MIB), noise("after", 2 * MIB));
    for origin in [&thick, &thin] {
        write_at(&origin.path, 8 * MIB, &before);
    }
    let cow = group.cow_snapshot("cow", 16, &thick);
    let thin_snapshot = group.thin_snapshot("thin-snapshot", &thin);
    for (origin, snapshot) in [(&thick, &cow), (&thin, &thin_snapshot)] {
        write_at(&origin.path, 8 * MIB, &after);
        assert!(read_at(&snapshot.path, 8 * MIB, 2 * MIB) == before);
        assert!(read_at(&origin.path, 8 * MIB, 2 * MIB) == after);
        assert_eq!(snapshot.field("origin"), origin.name.replace("vg/", ""));
    }
    assert_eq!(
        thin.mapped_bytes(),
        2 * MIB,
        "a thin volume takes what it holds"
    );
}

#[test]
fn thin_delta_tells_what_became_of_a_volume_between_two_snapshots() {
    let bed = Bed::new();
    let group = bed.group();
    let pool = group.pool("pool", 64);
    let thin = group.thin("thin", 512, &pool);
    write_at(&thin.path, 0, &noise("first", 4 * MIB));
    let one = group.thin_snapshot("one", &thin);
    write_at(&thin.path, MIB, &noise("second", MIB));
    run(
        "blkdiscard",
        &["--offset", "3MiB", "--length", "1MiB", thin.text()],
    );
    let two = group.thin_snapshot("two", &thin);

    let target = "vg-pool-tpool";
    run(
        "dmsetup",
        &["message", target, "0", "reserve_metadata_snap"],
    );
    let id = |volume: &Lv| volume.field("thin_id");
    let delta = [
        "--metadata-snap",
        "--snap1",
        &id(&one),
        "--snap2",
        &id(&two),
        "/dev/mapper/vg-pool_tmeta",
    ];
    let delta = lines("thin_delta", &delta);
    run(
        "dmsetup",
        &["message", target, "0", "release_metadata_snap"],
    );
    // In blocks of 64 KiB.
    let tells = |line: &str| delta.iter().any(|it| it == line);
    assert!(tells(r#"<different begin="16" length="16"/>"#), "{delta:?}");
    assert!(tells(r#"<left_only begin="48" length="16"/>"#), "{delta:?}");
}

#[test]
fn a_flaky_disk_fails_when_it_is_told_to_and_then_works_again() {
    let bed = Bed::new();
    let flaky = Mapping::of("flaky", bed.disk(2), 64);
    let group = Group::make("worn", &[&flaky.path]);
    let volume = group.thick("data", 32);
    write_at(&volume.path, 0, &noise("kept", MIB));
    flaky.fail();
    let read = [
        "if=/dev/worn/data",
        "of=/dev/null",
        "bs=4k",
        "count=1",
        "iflag=direct",
    ];
    let failed = output("dd", &read);
    let said = String::from_utf8_lossy(&failed.stderr);
    assert!(said.contains("Input/output error"), "{said}");
    flaky.mend();
    assert!(read_at(&volume.path, 0, MIB) == noise("kept", MIB));
}

#[test]
fn io_uring_with_o_direct_moves_bytes_on_volumes_and_on_filesystems_on_them() {
    let bed = Bed::new();
    let group = bed.group();
    let pool = group.pool("pool", 256);
    let thick = group.thick("thick", 64);
    let thin = group.thin("thin", 512, &pool);
    let ext4 = group.thick("ext4", 96);
    let xfs = group.thin("xfs", 512, &pool);
    let (on_ext4, on_xfs) = (
        bed.mount_new("ext4", &ext4.path),
        bed.mount_new("xfs", &xfs.path),
    );
    for place in [
        thick.path.clone(),
        thin.path.clone(),
        on_ext4.0.join("file"),
        on_xfs.0.join("file"),
    ] {
        let file = format!("--filename={}", place.display());
        let fio = "--name=verify --ioengine=io_uring --direct=1 --fixedbufs=1 --rw=randwrite \
                   --bs=64k --iodepth=8 --size=16m --verify=crc32c --verify_state_save=0";
        let mut arguments: Vec<&str> = fio.split_whitespace().collect();
        arguments.push(&file);
        run("fio", &arguments);
    }
}

#[test]
fn there_is_a_loopback_network() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = listener.local_addr().expect("has one");
    let mut client = TcpStream::connect(address).expect("connects");
    client.write_all(b"here").expect("sends");
    let (mut server, _) = listener.accept().expect("accepts");
    let mut received = [0; 4];
    server.read_exact(&mut received).expect("receives");
    assert_eq!(&received, b"here");
}

#[test]
fn what_a_test_leaves_behind_fails_it_and_is_gone_for_the_next_one() {
    let bed = Bed::new();
    let group = bed.group();
    forget(group.thick("forgotten", 16));
    forget(group);
    let dropped = catch_unwind(AssertUnwindSafe(|| drop(bed)));
    let said = dropped.expect_err("it is noticed");
    let said = said.downcast_ref::<String>().expect("a sentence");
    for left in ["vg/forgotten", "vg-forgotten", "vg"] {
        assert!(said.contains(left), "{said}");
    }
    let bed = Bed::new();
    assert_eq!(remains(), [""; 0]);
    let signs = run("wipefs", &[text(bed.disk(0))]);
    assert_eq!(signs, "");
}
