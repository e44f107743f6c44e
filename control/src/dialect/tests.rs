//! Requests here are encoded by each dialect's own schema (`tests/protos`), then decoded as the
//! server decodes them.

use self::schemas::{Dialects, field, list, message, text};
use super::*;

mod create;
mod schemas;

const GIB: u64 = 1 << 30;

/// What the server makes of the bytes.
fn received<Request: Message + Default, Ours>(bytes: &[u8]) -> Result<Ours, Invalid>
where
    Ours: TryFrom<Request, Error = Invalid>,
{
    Request::decode(bytes)
        .expect("the superset schema takes both dialects")
        .try_into()
}

fn create(bytes: &[u8]) -> Result<CreateVolume, Invalid> {
    received::<lvmd::CreateLvRequest, _>(bytes)
}

/// A CreateLVRequest of the seed's dialect with this data source.
fn seed_create(source: Option<Vec<(&str, schemas::Value)>>) -> Vec<u8> {
    let seed = &Dialects::get().seed;
    let mut fields = vec![
        field("name", text("lv")),
        field("size_gb", schemas::Value::U64(3)),
    ];
    if let Some(source) = source {
        fields.push(field(
            "data_source",
            message(seed, "proto.DataSource", source),
        ));
    }
    schemas::encode(seed, "proto.CreateLVRequest", fields)
}

fn s3(fields: Vec<(&'static str, schemas::Value)>) -> schemas::Value {
    message(&Dialects::get().seed, "proto.DataSource.S3", fields)
}

#[test]
fn a_size_is_needed_and_must_fit() {
    for (size_gb, size_bytes, says) in [
        (0, 0, "size_gb and size_bytes are both 0"),
        (u64::MAX, 0, "size_gb \"18446744073709551615\" is too large"),
        (1 << 33, 0, "size_gb \"8589934592\" is too large"),
        (1, -1, "size_bytes \"-1\" is negative"),
        (0, i64::MIN, "is negative"),
    ] {
        let create = lvmd::CreateLvRequest {
            name: "lv".into(),
            size_gb,
            size_bytes,
            ..Default::default()
        };
        let error = CreateVolume::try_from(create)
            .expect_err("no size")
            .to_string();
        assert!(error.contains(says), "{error}");
        let resize = lvmd::ResizeLvRequest {
            name: "lv".into(),
            size_gb,
            size_bytes,
            ..Default::default()
        };
        let error = ResizeVolume::try_from(resize)
            .expect_err("no size")
            .to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn a_resize_shrinks_in_neither_dialect_but_only_the_seeds_calls_it_an_error() {
    let dialects = Dialects::get();
    for (pool, size, rule) in [
        (
            &dialects.seed,
            field("size_gb", schemas::Value::U64(2)),
            ShrinkRule::Refuse,
        ),
        (
            &dialects.topolvm,
            field("size_bytes", schemas::Value::I64(2 << 30)),
            ShrinkRule::Keep,
        ),
    ] {
        let fields = vec![
            field("name", text("lv")),
            field("device_class", text("ssd")),
            size,
        ];
        let bytes = schemas::encode(pool, "proto.ResizeLVRequest", fields);
        let resize: ResizeVolume = received::<lvmd::ResizeLvRequest, _>(&bytes).expect("valid");
        assert_eq!((resize.size.bytes(), resize.shrink), (2 * GIB, rule));
        assert_eq!(resize.device_class, ClassRef::Named("ssd".into()));
    }
}

#[test]
fn both_dialects_remove_by_name_and_class() {
    let dialects = Dialects::get();
    for pool in [&dialects.seed, &dialects.topolvm] {
        let fields = vec![
            field("name", text("lv")),
            field("device_class", text("ssd")),
        ];
        let bytes = schemas::encode(pool, "proto.RemoveLVRequest", fields);
        let remove: RemoveVolume = received::<lvmd::RemoveLvRequest, _>(&bytes).expect("valid");
        assert_eq!(remove.name.as_str(), "lv");
        assert_eq!(remove.device_class, ClassRef::Named("ssd".into()));
    }
}

fn snapshot(access: &str, size: i64, source: &str) -> Result<CreateSnapshot, Invalid> {
    let bytes = schemas::encode(
        &Dialects::get().topolvm,
        "proto.CreateLVSnapshotRequest",
        vec![
            field("name", text("snap")),
            field("tags", list(["t"])),
            field("source_volume", text(source)),
            field("access_type", text(access)),
            field("size_bytes", schemas::Value::I64(size)),
        ],
    );
    received::<lvmd::CreateLvSnapshotRequest, _>(&bytes)
}

#[test]
fn a_snapshot_has_its_sources_size_unless_it_asks_for_more() {
    let plain = snapshot("ro", 0, "lv").expect("valid");
    assert_eq!(
        (plain.writable, plain.size, plain.source.as_str()),
        (false, None, "lv")
    );
    let sized = snapshot("rw", 1 << 30, "lv").expect("valid");
    assert!(sized.writable);
    assert_eq!(sized.size.map(VolumeSize::bytes), Some(GIB));
    for (access, size, source, says) in [
        ("", 0, "lv", "access_type \"\" is unknown"),
        ("rx", 0, "lv", "should be \"ro\" or \"rw\""),
        ("ro", -1, "lv", "size_bytes \"-1\" is negative"),
        ("ro", 0, "", "source_volume \"\" is empty"),
    ] {
        let error = snapshot(access, size, source)
            .expect_err("refused")
            .to_string();
        assert!(error.contains(says), "{error}");
    }
}

fn backup(fields: Vec<(&'static str, schemas::Value)>) -> Result<CreateBackup, Invalid> {
    let seed = &Dialects::get().seed;
    let backup = message(seed, "proto.Backup", fields);
    let bytes = schemas::encode(
        seed,
        "proto.CreateBackupRequest",
        vec![field("backup", backup)],
    );
    received::<lvmd::CreateBackupRequest, _>(&bytes)
}

fn backup_to(s3_fields: Vec<(&'static str, schemas::Value)>) -> Result<CreateBackup, Invalid> {
    let seed = &Dialects::get().seed;
    let source = message(seed, "proto.DataSource", vec![field("s3", s3(s3_fields))]);
    backup(vec![
        field("name", text("b1")),
        field("volume_handle", text("vg/lv")),
        field("data_source", source),
    ])
}

#[test]
fn a_backup_names_a_volume_and_a_place() {
    let backup = backup_to(vec![field("path", text("bucket/b1"))]).expect("valid");
    assert_eq!(backup.name, "b1");
    assert_eq!(backup.volume_handle.as_str(), "vg/lv");
    assert_eq!(backup.source.backup.name(), "b1");
    assert_eq!(backup.source.store.credentials, Credentials::Chain);
    assert!(backup.source.encryption_key.is_none() && !backup.source.store.verify_tls);
}

#[test]
fn an_absent_message_is_named_by_its_path() {
    let empty = lvmd::CreateBackupRequest::default();
    let error = CreateBackup::try_from(empty)
        .expect_err("absent")
        .to_string();
    assert!(error.starts_with("backup is absent"), "{error}");

    let seed = &Dialects::get().seed;
    let without_s3 = message(seed, "proto.DataSource", vec![]);
    let (name, handle) = (
        field("name", text("b1")),
        field("volume_handle", text("lv")),
    );
    for (fields, says) in [
        (
            vec![name.clone(), handle.clone()],
            "backup.data_source is absent",
        ),
        (
            vec![
                name.clone(),
                handle,
                field("data_source", without_s3.clone()),
            ],
            "backup.data_source.s3 is absent",
        ),
        (vec![], "backup.name \"\" is empty"),
        (
            vec![
                name,
                field("volume_handle", text("a/b/c")),
                field("data_source", without_s3),
            ],
            "backup.volume_handle \"a/b/c\" has more than one slash",
        ),
    ] {
        let error = backup(fields).expect_err(says).to_string();
        assert!(error.starts_with(says), "{error}");
    }
}

#[test]
fn a_malformed_s3_field_is_named_by_its_path() {
    for (more, says) in [
        (vec![field("path", text(""))], "s3.path \"\" is empty"),
        (
            vec![field("endpoint", text("s3.example"))],
            "s3.endpoint \"s3.example\" should be",
        ),
        (
            vec![field("http_proxy", text("proxy"))],
            "s3.http_proxy \"proxy\"",
        ),
        (
            vec![field("https_proxy", text("proxy"))],
            "s3.https_proxy \"proxy\"",
        ),
        (
            vec![field("access_key_id", text("AKIA"))],
            "s3.secret_access_key is empty",
        ),
        (
            vec![field("secret_access_key", text("hunter2"))],
            "s3.access_key_id is empty",
        ),
        (
            vec![field("session_token", text("hunter2"))],
            "s3.access_key_id is empty",
        ),
    ] {
        let mut fields = vec![field("path", text("bucket/b1"))];
        fields.extend(more);
        let error = backup_to(fields.clone()).expect_err(says).to_string();
        assert!(
            error.starts_with(&format!("backup.data_source.{says}")),
            "{error}"
        );
        assert!(!error.contains("hunter2"), "{error}");

        let create_bytes = seed_create(Some(vec![field("s3", s3(fields))]));
        let error = create(&create_bytes).expect_err(says).to_string();
        assert!(error.starts_with(&format!("data_source.{says}")), "{error}");
    }
}

#[test]
fn a_reply_can_be_read_in_both_dialects() {
    let info = VolumeInfo {
        name: "lv".into(),
        size_bytes: (5 << 30) - 512,
        dev: (253, 7),
        tags: vec!["t".into()],
        path: "/dev/vg/lv".into(),
        attr: "-wi-a-----".into(),
    };
    let bytes = volume_reply(&info).encode_to_vec();
    let dialects = Dialects::get();
    let seed = schemas::decode(&dialects.seed, "proto.LogicalVolume", &bytes);
    assert_eq!(schemas::get(&seed, "name"), text("lv"));
    assert_eq!(schemas::get(&seed, "size_gb"), schemas::Value::U64(4));
    assert_eq!(schemas::get(&seed, "dev_major"), schemas::Value::U32(253));
    assert_eq!(schemas::get(&seed, "dev_minor"), schemas::Value::U32(7));
    assert_eq!(schemas::get(&seed, "tags"), list(["t"]));
    let topolvm = schemas::decode(&dialects.topolvm, "proto.LogicalVolume", &bytes);
    assert_eq!(
        schemas::get(&topolvm, "size_bytes"),
        schemas::Value::I64((5 << 30) - 512)
    );
    assert_eq!(schemas::get(&topolvm, "path"), text("/dev/vg/lv"));
    assert_eq!(schemas::get(&topolvm, "attr"), text("-wi-a-----"));

    let resized = resize_reply(info.size_bytes).encode_to_vec();
    let topolvm = schemas::decode(&dialects.topolvm, "proto.ResizeLVResponse", &resized);
    assert_eq!(
        schemas::get(&topolvm, "size_bytes"),
        schemas::Value::I64((5 << 30) - 512)
    );
    schemas::decode(&dialects.seed, "proto.Empty", &resized);
}

#[test]
fn a_listed_volume_without_tags_has_one_empty_tag_as_with_stock_lvmd() {
    let tagged = VolumeInfo {
        tags: vec!["a".into(), "b".into()],
        ..Default::default()
    };
    assert_eq!(listed_volume(&tagged).tags, ["a", "b"]);
    assert_eq!(listed_volume(&VolumeInfo::default()).tags, [""]);
    assert!(volume_reply(&VolumeInfo::default()).tags.is_empty());
}
