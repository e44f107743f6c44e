//! Volumes in both dialects: made, listed, grown, removed, and still there after a restart.

use ringback_proto::lvmd::{
    CreateLvRequest, CreateLvSnapshotRequest, GetFreeBytesRequest, GetLvListRequest, LogicalVolume,
    RemoveLvRequest, ResizeLvRequest,
};
use tonic::Code;

use crate::{
    client::{Client, assert_refused, ok, sized_bytes, sized_gb},
    harness::{Daemon, GIB, MIB, class},
    store::{assert_same_content, fill},
};

/// What other tests may write to the same filesystem meanwhile.
const NOISE: u64 = 1 << 29;

async fn free_bytes(client: &Client, class: &str) -> u64 {
    let request = GetFreeBytesRequest {
        device_class: class.to_owned(),
    };
    ok(client.clone().vg.get_free_bytes(request).await).free_bytes
}

async fn resize_gb(client: &Client, size_gb: u64) -> Result<i64, tonic::Status> {
    let request = ResizeLvRequest {
        name: "data".to_owned(),
        size_gb,
        ..ResizeLvRequest::default()
    };
    let answer = client.clone().lv.resize_lv(request).await?;
    Ok(answer.into_inner().size_bytes)
}

async fn resize_bytes(client: &Client, size_bytes: u64) -> Result<i64, tonic::Status> {
    let request = ResizeLvRequest {
        name: "data".to_owned(),
        size_bytes: i64::try_from(size_bytes).expect("a size"),
        ..ResizeLvRequest::default()
    };
    let answer = client.clone().lv.resize_lv(request).await?;
    Ok(answer.into_inner().size_bytes)
}

fn snapshot(name: &str, source: &str) -> CreateLvSnapshotRequest {
    CreateLvSnapshotRequest {
        name: name.to_owned(),
        source_volume: source.to_owned(),
        access_type: "rw".to_owned(),
        ..CreateLvSnapshotRequest::default()
    }
}

fn assert_near(left: u64, right: u64) {
    assert!(left.abs_diff(right) < NOISE, "{left} is not about {right}");
}

#[tokio::test]
async fn a_size_is_read_in_either_dialect_and_answered_in_both() {
    let daemon = Daemon::start();
    let client = daemon.client().await;
    let both = CreateLvRequest {
        size_gb: 7,
        ..sized_bytes("both", GIB + 4096)
    };
    for (request, size_bytes, size_gb) in [
        (sized_gb("seed", 2), 2 * GIB, 2),
        (sized_bytes("current", GIB + MIB), GIB + MIB, 1),
        (both, GIB + 4096, 1),
        (sized_bytes("odd", 5000), 8192, 0),
    ] {
        let name = request.name.clone();
        let volume = ok(client.clone().lv.create_lv(request).await).volume;
        let volume = volume.expect("the answer has the volume");
        assert_eq!(volume.name, name);
        assert_eq!(volume.size_bytes.unsigned_abs(), size_bytes, "{name}");
        assert_eq!(volume.size_gb, size_gb, "{name}");
        let image = std::fs::metadata(&volume.path).expect("the path is the image's");
        assert_eq!(image.len(), size_bytes, "{name}");
        assert_eq!((volume.dev_major, volume.dev_minor), (0, 0));
        assert_eq!(volume.attr.len(), 10, "{:?}", volume.attr);
        assert_eq!(client.find(&name).await.map(without_tags), Some(volume));
    }
}

/// A listed volume without tags has one empty tag, as the stock lvmd answers.
fn without_tags(listed: LogicalVolume) -> LogicalVolume {
    assert_eq!(listed.tags, [""]);
    LogicalVolume {
        tags: Vec::new(),
        ..listed
    }
}

#[tokio::test]
async fn a_volume_is_in_its_own_class_alone_and_no_class_means_the_default_one() {
    let daemon =
        Daemon::with(|folder| class("fast", folder, 0, true) + &class("slow", folder, 0, false));
    let client = daemon.client().await;
    for device_class in ["", "slow"] {
        let request = CreateLvRequest {
            device_class: device_class.to_owned(),
            ..sized_gb("data", 1)
        };
        ok(client.clone().lv.create_lv(request).await);
    }
    let remove = |device_class: &str| RemoveLvRequest {
        name: "data".to_owned(),
        device_class: device_class.to_owned(),
    };
    ok(client.clone().lv.remove_lv(remove("fast")).await);
    assert_eq!(client.list().await, []);
    let request = GetLvListRequest {
        device_class: "slow".to_owned(),
    };
    let listed = ok(client.clone().vg.get_lv_list(request).await).volumes;
    assert_eq!(listed.len(), 1);
    assert!(
        listed[0]
            .path
            .starts_with(&*daemon.path("slow").to_string_lossy())
    );
}

#[tokio::test]
async fn volumes_keep_their_sizes_tags_and_content_over_a_kill() {
    let mut daemon = Daemon::start();
    let client = daemon.client().await;
    let request = CreateLvRequest {
        tags: vec!["team=a".to_owned(), "tier:1".to_owned()],
        ..sized_bytes("data", 64 * MIB)
    };
    ok(client.clone().lv.create_lv(request).await);
    client.create("gone", MIB).await;
    client.create("other", MIB).await;
    client.remove("gone").await.expect("it is removed");
    resize_bytes(&client, 96 * MIB).await.expect("it grows");
    let before = client.list().await;
    fill(&before[0].path, 0, MIB, "content");
    std::fs::copy(&before[0].path, daemon.path("copy")).expect("copies the volume");

    daemon.restart();
    let after = daemon.client().await.list().await;
    assert_eq!(after, before);
    let names: Vec<&str> = after.iter().map(|volume| &volume.name[..]).collect();
    assert_eq!(names, ["data", "other"]);
    assert_eq!(after[0].tags, ["team=a", "tier:1"]);
    assert_eq!(after[0].size_bytes.unsigned_abs(), 96 * MIB);
    assert_same_content(&daemon.path("copy").to_string_lossy(), &after[0].path);
}

#[tokio::test]
async fn a_resize_grows_and_shrinks_in_neither_dialect() {
    let daemon = Daemon::start();
    let client = daemon.client().await;
    assert_refused(resize_gb(&client, 1).await, Code::NotFound, "data");
    assert_refused(resize_bytes(&client, MIB).await, Code::NotFound, "data");
    client.create("data", GIB).await;

    assert_eq!(resize_gb(&client, 3).await.ok(), Some(3 << 30));
    assert_eq!(resize_gb(&client, 3).await.ok(), Some(3 << 30));
    assert_refused(
        resize_gb(&client, 2).await,
        Code::OutOfRange,
        "volumes only grow",
    );
    // Nodes of the current dialect ask again for what they have, and want to be told it.
    assert_eq!(resize_bytes(&client, 1).await.ok(), Some(3 << 30));
    assert_eq!(
        resize_bytes(&client, 3 * GIB + MIB).await.ok(),
        Some((3 << 30) + (1 << 20))
    );
    for refused in [
        resize_gb(&client, 1 << 20).await,
        resize_bytes(&client, GIB << 20).await,
    ] {
        assert_refused(refused, Code::ResourceExhausted, "bytes are needed");
    }
    let volume = client.find("data").await.expect("it is still there");
    assert_eq!(volume.size_bytes.unsigned_abs(), 3 * GIB + MIB);
}

#[tokio::test]
async fn free_bytes_are_what_volumes_were_not_promised_less_each_classs_spare() {
    let daemon = Daemon::with(|folder| {
        let shared = |name: &str, spare_gib, default| {
            class(name, folder, spare_gib, default)
                .replace(
                    &format!("directory: {}/{name}", folder.display()),
                    "DIRECTORY",
                )
                .replace("DIRECTORY", &format!("directory: {}/all", folder.display()))
                + "  volume-group: all\n"
        };
        shared("none", 0, true) + &shared("some", 2, false) + &shared("most", 1 << 30, false)
    });
    let client = daemon.client().await;
    let all = free_bytes(&client, "").await;
    assert!(
        all > 6 * GIB,
        "these tests want 6 GiB of disk space; there are {all} bytes"
    );
    assert_near(free_bytes(&client, "some").await, all - 2 * GIB);
    assert_eq!(free_bytes(&client, "most").await, 0);

    // The room of a sparse volume is given away at once, and given back.
    client.create("data", 3 * GIB).await;
    assert_near(free_bytes(&client, "none").await, all - 3 * GIB);
    resize_bytes(&client, 4 * GIB).await.expect("it grows");
    assert_near(free_bytes(&client, "none").await, all - 4 * GIB);
    client.remove("data").await.expect("it is removed");
    assert_near(free_bytes(&client, "none").await, all);

    // The spare is for those who ask; it does not keep a volume from being made.
    let request = CreateLvRequest {
        device_class: "most".to_owned(),
        ..sized_gb("data", 1)
    };
    ok(client.clone().lv.create_lv(request).await);
}

#[tokio::test]
async fn a_snapshot_begins_as_its_source_where_the_filesystem_can_share_blocks() {
    let daemon = Daemon::start();
    let client = daemon.client().await;
    let source = client.create("data", 8 * MIB).await;
    fill(&source.path, MIB, MIB, "content");
    match client
        .clone()
        .lv
        .create_lv_snapshot(snapshot("copy", "data"))
        .await
    {
        Ok(made) => {
            let made = made.into_inner().snapshot.expect("the answer has it");
            assert_eq!(made.size_bytes, source.size_bytes);
            assert_same_content(&source.path, &made.path);
        }
        Err(refused) => {
            assert_refused::<()>(Err(refused), Code::Unimplemented, "has no reflinks");
            daemon.assert_nothing_is_left_of("copy");
        }
    }
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_is_refused() {
    let daemon = Daemon::start();
    let client = daemon.client().await;
    client.create("data", 8 * MIB).await;
    let sized = |size_bytes| CreateLvSnapshotRequest {
        size_bytes,
        ..snapshot("copy", "data")
    };
    let odd_access = CreateLvSnapshotRequest {
        access_type: "rx".to_owned(),
        ..snapshot("copy", "data")
    };
    for (request, code, says) in [
        (snapshot("copy", "absent"), Code::NotFound, "absent"),
        (
            snapshot("copy", ".."),
            Code::InvalidArgument,
            "source_volume",
        ),
        (snapshot("a b", "data"), Code::InvalidArgument, "name"),
        (snapshot("data", "data"), Code::AlreadyExists, "data"),
        (sized(4 << 20), Code::OutOfRange, "at least as large"),
        (sized(1 << 50), Code::ResourceExhausted, "bytes are needed"),
        (sized(-1), Code::InvalidArgument, "size_bytes"),
        (odd_access, Code::InvalidArgument, "access_type"),
    ] {
        assert_refused(
            client.clone().lv.create_lv_snapshot(request).await,
            code,
            says,
        );
    }
    assert_eq!(client.list().await.len(), 1);
    daemon.assert_nothing_is_left_of("copy");
}
