//! CreateLV: sizes, and field 5 in either reading.

use proptest::prelude::*;

use super::*;

#[test]
fn the_seeds_create_carries_gibibytes_and_a_data_source() {
    let seed = &Dialects::get().seed;
    let source = vec![
        field("synchronous_restore", schemas::Value::Bool(true)),
        field(
            "s3",
            s3(vec![
                field("path", text("s3://backups/team/db-1")),
                field("endpoint", text("http://127.0.0.1:9000")),
                field("verify_tls", schemas::Value::Bool(true)),
                field("https_proxy", text("http://proxy:3128")),
                field("access_key_id", text("id")),
                field("secret_access_key", text("hunter2")),
                field("session_token", text("token")),
                field("encryption_key", text("passphrase")),
            ]),
        ),
    ];
    let bytes = schemas::encode(
        seed,
        "proto.CreateLVRequest",
        vec![
            field("name", text("lv")),
            field("size_gb", schemas::Value::U64(3)),
            field("tags", list(["a", "b"])),
            field("device_class", text("ssd")),
            field("data_source", message(seed, "proto.DataSource", source)),
        ],
    );
    let create = create(&bytes).expect("valid");
    assert_eq!(create.name.as_str(), "lv");
    assert_eq!(create.size.bytes(), 3 * GIB);
    assert_eq!(
        create.tags.iter().map(Tag::as_str).collect::<Vec<_>>(),
        ["a", "b"]
    );
    assert_eq!(create.device_class, ClassRef::Named("ssd".into()));
    assert_eq!(create.option_class, None);

    let shown = format!("{create:?}");
    assert!(
        !shown.contains("hunter2") && !shown.contains("passphrase"),
        "{shown}"
    );

    let source = create.source.expect("a data source was sent");
    assert!(source.synchronous && source.store.verify_tls);
    assert_eq!(source.backup.to_string(), "s3://backups/team/db-1");
    assert!(source.store.endpoint.is_some() && source.store.https_proxy.is_some());
    assert!(source.store.http_proxy.is_none() && source.store.region.is_none());
    let passphrase = source.encryption_key.as_ref().expect("was sent");
    assert_eq!(passphrase.reveal(), "passphrase");
    assert_eq!(
        source.store.credentials,
        Credentials::Static {
            access_key_id: Secret::new("id"),
            secret_access_key: Secret::new("hunter2"),
            session_token: Some(Secret::new("token")),
        }
    );
}

#[test]
fn a_create_without_a_data_source_makes_an_empty_volume_of_the_default_class() {
    let create = create(&seed_create(None)).expect("valid");
    assert!(create.source.is_none() && create.option_class.is_none());
    assert_eq!(create.device_class, ClassRef::Default);
}

#[test]
fn topolvms_create_carries_bytes_and_an_option_class() {
    for (class, expected) in [("", None), ("raid1", Some("raid1"))] {
        let bytes = schemas::encode(
            &Dialects::get().topolvm,
            "proto.CreateLVRequest",
            vec![
                field("name", text("lv")),
                field("lvcreate_option_class", text(class)),
                field("size_bytes", schemas::Value::I64(3_000_000_000)),
            ],
        );
        let create = create(&bytes).expect("valid");
        assert_eq!(create.size.bytes(), 3_000_000_000);
        assert_eq!(create.option_class.as_deref(), expected);
        assert!(create.source.is_none());
    }
}

#[test]
fn with_both_sizes_the_bytes_count_and_field_5_is_an_option_class() {
    let create = CreateVolume::try_from(lvmd::CreateLvRequest {
        name: "lv".into(),
        size_gb: 3,
        size_bytes: 5 << 29,
        data_source_or_option_class: Some(Bytes::from_static(b"raid1")),
        ..Default::default()
    })
    .expect("valid");
    assert_eq!(create.size.bytes(), 5 << 29);
    assert_eq!(create.option_class.as_deref(), Some("raid1"));
}

#[test]
fn field_5_is_never_ignored() {
    let source = lvmd::DataSource {
        synchronous_restore: true,
        r#type: Some(data_source::Type::S3(data_source::S3 {
            path: "bucket/name".into(),
            ..Default::default()
        })),
    };
    for (size_gb, size_bytes, field_5, says) in [
        // No s3, one way and the other.
        (1, 0, vec![], "data_source.s3 is absent"),
        (1, 0, vec![0x08, 0x01], "data_source.s3 is absent"),
        // Option classes of TopoLVM before 0.25: undecodable, and decodable by chance.
        (1, 0, b"raid1".to_vec(), "old TopoLVM releases"),
        (1, 0, b"ssd".to_vec(), "old TopoLVM releases"),
        (1, 0, b"x1".to_vec(), "old TopoLVM releases"),
        (1, 0, vec![0x12, 0xff], "old TopoLVM releases"),
        (
            1,
            1 << 30,
            vec![0x12, 0xff],
            "lvcreate_option_class is not UTF-8",
        ),
        (
            1,
            1 << 30,
            source.encode_to_vec(),
            "lvcreate_option_class is not UTF-8",
        ),
    ] {
        let request = lvmd::CreateLvRequest {
            name: "lv".into(),
            size_gb,
            size_bytes,
            data_source_or_option_class: Some(field_5.clone().into()),
            ..Default::default()
        };
        let error = CreateVolume::try_from(request)
            .expect_err("refused")
            .to_string();
        assert!(error.contains(says), "{field_5:?}: {error}");
    }
}

proptest! {
    #[test]
    fn whatever_lies_in_field_5_a_volume_is_empty_only_when_nothing_does(
        size_bytes in prop_oneof![Just(0_i64), Just(1 << 30)],
        field_5 in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let request = lvmd::CreateLvRequest {
            name: "lv".into(),
            size_gb: 1,
            size_bytes,
            data_source_or_option_class: Some(field_5.clone().into()),
            ..Default::default()
        };
        if let Ok(create) = CreateVolume::try_from(request) {
            let empty = create.source.is_none() && create.option_class.is_none();
            prop_assert!(!empty || (size_bytes != 0 && field_5.is_empty()));
        }
    }
}
