//! Requests for volumes that cannot be served: each with the contract's code, and a sentence that
//! names the field.

use ringback_proto::lvmd::{
    CreateLvRequest, CreateLvSnapshotRequest, GetFreeBytesRequest, GetLvListRequest,
    RemoveLvRequest, ResizeLvRequest,
};
use tonic::Code;

use crate::{
    client::{assert_refused, ok, sized_bytes, sized_gb},
    harness::{Daemon, MIB, class},
};

/// Names that LVM or ringback does not take, and why.
fn bad_names() -> Vec<(String, &'static str)> {
    let mut names: Vec<(String, &str)> = [
        ("", "is empty"),
        (".", "means a directory"),
        ("..", "means a directory"),
        ("-data", "begins with a hyphen"),
        ("da ta", "has the character ' '"),
        ("../data", "has the character '/'"),
        ("d\u{e4}ta", "has the character '\u{e4}'"),
        ("da\nta", "has the character '\\n'"),
        ("da\0ta", "has the character '\\0'"),
        ("snapshot1", "begins with \"snapshot\""),
        ("pvmove0", "begins with \"pvmove\""),
        ("data_tdata", "contains \"_tdata\""),
        ("data_tmeta", "contains \"_tmeta\""),
        ("data_cdata", "contains \"_cdata\""),
        ("data_cmeta", "contains \"_cmeta\""),
        ("data_mlog", "contains \"_mlog\""),
        ("data_mimage_0", "contains \"_mimage\""),
        ("data_rimage_0", "contains \"_rimage\""),
        ("data_rmeta_0", "contains \"_rmeta\""),
        ("data_vorigin", "contains \"_vorigin\""),
        ("data_pmspare", "contains \"_pmspare\""),
        (".ringback-data", "ringback keeps for itself"),
    ]
    .map(|(name, says)| (name.to_owned(), says))
    .into();
    names.push(("x".repeat(128), "has 128 bytes"));
    names
}

#[tokio::test]
async fn a_name_that_lvm_would_not_take_is_refused_by_every_call() {
    let daemon = Daemon::start();
    let client = daemon.client().await;
    for (name, says) in bad_names() {
        let (mut lv, name_of) = (client.lv.clone(), |name: &String| name.clone());
        let remove = RemoveLvRequest {
            name: name_of(&name),
            ..RemoveLvRequest::default()
        };
        let resize = ResizeLvRequest {
            name: name_of(&name),
            size_gb: 1,
            ..ResizeLvRequest::default()
        };
        let snapshot = CreateLvSnapshotRequest {
            name: name_of(&name),
            source_volume: "data".to_owned(),
            access_type: "ro".to_owned(),
            ..CreateLvSnapshotRequest::default()
        };
        let answers = [
            lv.create_lv(sized_gb(&name, 1)).await.map(drop),
            lv.create_lv(sized_bytes(&name, MIB)).await.map(drop),
            lv.remove_lv(remove).await.map(drop),
            lv.resize_lv(resize).await.map(drop),
            lv.create_lv_snapshot(snapshot).await.map(drop),
        ];
        for answer in answers {
            let sentence = answer
                .as_ref()
                .map_err(|status| status.message().to_owned());
            assert!(
                sentence.is_err_and(|sentence| sentence.starts_with("name ")),
                "{name:?}: {answer:?}"
            );
            assert_refused(answer, Code::InvalidArgument, says);
        }
    }
    assert_eq!(daemon.entries("fast", "volumes"), [""; 0]);
}

#[tokio::test]
async fn a_name_must_fit_into_the_device_mappers_with_its_group_and_hyphens_doubled() {
    let daemon = Daemon::start();
    let client = daemon.client().await;
    for name in ["x".repeat(100), "a-".repeat(35)] {
        let refused = client.clone().lv.create_lv(sized_gb(&name, 1)).await;
        assert_refused(
            refused,
            Code::InvalidArgument,
            "too long in the volume group \"fast\"",
        );
    }
    ok(client
        .clone()
        .lv
        .create_lv(sized_bytes(&"x".repeat(90), MIB))
        .await);
}

#[tokio::test]
async fn a_tag_that_lvm_would_not_take_or_that_is_ours_is_refused() {
    let daemon = Daemon::start();
    let client = daemon.client().await;
    let long = "t".repeat(1025);
    for (tag, says) in [
        ("", "is empty"),
        ("a b", "has the character ' '"),
        ("a,b", "has the character ','"),
        ("-a", "begins with a hyphen"),
        ("ringback", "ringback's own"),
        ("ringback.state=done", "ringback's own"),
        (&long, "has 1025 bytes"),
    ] {
        let request = CreateLvRequest {
            tags: vec!["fine".to_owned(), tag.to_owned()],
            ..sized_gb("data", 1)
        };
        let refused = client.clone().lv.create_lv(request).await;
        assert_refused(refused, Code::InvalidArgument, "tags ");
        let snapshot = CreateLvSnapshotRequest {
            name: "data".to_owned(),
            tags: vec![tag.to_owned()],
            source_volume: "other".to_owned(),
            access_type: "ro".to_owned(),
            ..CreateLvSnapshotRequest::default()
        };
        let refused = client.clone().lv.create_lv_snapshot(snapshot).await;
        assert_refused(refused, Code::InvalidArgument, says);
    }
    assert_eq!(client.list().await, []);
}

#[tokio::test]
async fn a_size_that_is_none_is_refused() {
    let daemon = Daemon::start();
    let client = daemon.client().await;
    let negative = CreateLvRequest {
        size_bytes: -1,
        ..sized_gb("data", 1)
    };
    for (request, says) in [
        (sized_gb("data", 0), "size_gb and size_bytes are both 0"),
        (sized_gb("data", u64::MAX), "size_gb"),
        (sized_gb("data", 1 << 34), "size_gb"),
        (negative, "size_bytes"),
    ] {
        assert_refused(
            client.clone().lv.create_lv(request).await,
            Code::InvalidArgument,
            says,
        );
    }
    let resize = ResizeLvRequest {
        name: "data".to_owned(),
        ..ResizeLvRequest::default()
    };
    assert_refused(
        client.clone().lv.resize_lv(resize).await,
        Code::InvalidArgument,
        "size_gb",
    );
}

#[tokio::test]
async fn a_volume_that_cannot_be_made_gets_the_contracts_code() {
    let daemon = Daemon::with(|folder| {
        class("fast", folder, 0, true) + "lvcreate-option-classes:\n- { name: wide, options: [] }\n"
    });
    let client = daemon.client().await;
    let with_options = |class: &'static str| CreateLvRequest {
        data_source_or_option_class: Some(class.into()),
        ..sized_bytes("data", MIB)
    };
    let created = client.clone().lv.create_lv(with_options("wide")).await;
    assert_eq!(ok(created).volume.expect("the answer has it").name, "data");
    for (request, code, says) in [
        (sized_gb("data", 1), Code::AlreadyExists, "data"),
        (sized_bytes("data", MIB), Code::AlreadyExists, "data"),
        (
            sized_gb("huge", 1 << 20),
            Code::ResourceExhausted,
            "bytes are needed",
        ),
        (
            sized_bytes("huge", 1 << 50),
            Code::ResourceExhausted,
            "bytes are needed",
        ),
        (with_options("narrow"), Code::Internal, "narrow"),
    ] {
        assert_refused(client.clone().lv.create_lv(request).await, code, says);
    }
    assert_refused(client.remove("absent").await, Code::NotFound, "absent");
    assert_eq!(daemon.entries("fast", "volumes"), ["data"]);
    daemon.assert_nothing_is_left_of("huge");
}

#[tokio::test]
async fn field_5_that_fits_neither_dialect_makes_no_blank_volume() {
    let daemon = Daemon::start();
    let client = daemon.client().await;
    let with_field = |request: CreateLvRequest, field_5: &'static [u8]| CreateLvRequest {
        data_source_or_option_class: Some(field_5.into()),
        ..request
    };
    for (request, says) in [
        // A DataSource that says nothing, or not where.
        (
            with_field(sized_gb("data", 1), b""),
            "data_source.s3 is absent",
        ),
        (
            with_field(sized_gb("data", 1), b"\x08\x01"),
            "data_source.s3 is absent",
        ),
        // An option class in the dialect that has none.
        (
            with_field(sized_gb("data", 1), b"raid10"),
            "old TopoLVM releases",
        ),
        (
            with_field(sized_gb("data", 1), b"\xff\xff"),
            "old TopoLVM releases",
        ),
        // A DataSource in the dialect that has none.
        (
            with_field(sized_bytes("data", MIB), b"\x12\x02\xff\xff"),
            "lvcreate_option_class",
        ),
    ] {
        assert_refused(
            client.clone().lv.create_lv(request).await,
            Code::InvalidArgument,
            says,
        );
    }
    assert_eq!(client.list().await, []);
}

#[tokio::test]
async fn a_class_that_is_not_configured_is_not_found_by_any_call() {
    let daemon = Daemon::start();
    let client = daemon.client().await;
    let device_class = "slow".to_owned();
    let (mut lv, mut vg) = (client.lv.clone(), client.vg.clone());
    let create = CreateLvRequest {
        device_class: device_class.clone(),
        ..sized_gb("data", 1)
    };
    let remove = RemoveLvRequest {
        name: "data".to_owned(),
        device_class: device_class.clone(),
    };
    let resize = ResizeLvRequest {
        name: "data".to_owned(),
        size_gb: 1,
        device_class: device_class.clone(),
        ..ResizeLvRequest::default()
    };
    let snapshot = CreateLvSnapshotRequest {
        name: "copy".to_owned(),
        source_volume: "data".to_owned(),
        access_type: "ro".to_owned(),
        device_class: device_class.clone(),
        ..CreateLvSnapshotRequest::default()
    };
    let list = GetLvListRequest {
        device_class: device_class.clone(),
    };
    let free = GetFreeBytesRequest { device_class };
    for answer in [
        lv.create_lv(create).await.map(drop),
        lv.remove_lv(remove).await.map(drop),
        lv.resize_lv(resize).await.map(drop),
        lv.create_lv_snapshot(snapshot).await.map(drop),
        vg.get_lv_list(list).await.map(drop),
        vg.get_free_bytes(free).await.map(drop),
    ] {
        assert_refused(
            answer,
            Code::NotFound,
            "\"slow\" is not configured; there are: fast",
        );
    }
}
