//! Every bad input, its code and its sentence, held against the table that operators read:
//! `docs/operations/errors.md`. Whatever the input, nothing is made of it.
//!
//! A sentence in the table may leave out what differs from host to host, as `…`.

use std::{collections::BTreeMap, fs, path::Path};

use ringback_proto::{
    control::{ListBackupsRequest, ShowBackupRequest},
    lvmd::{
        CreateBackupRequest, CreateLvRequest, CreateLvSnapshotRequest, DataSource,
        GetFreeBytesRequest, GetLvListRequest, RemoveLvRequest, ResizeLvRequest, StateType,
        data_source::S3,
    },
};
use tonic::{Code, Status};

use crate::{
    client::{Client, backup, sized_bytes, synchronous, with_source},
    harness::{Daemon, MIB, class, ringback, run},
    objects::Objects,
    store::{BUCKET, Store, fill},
};

/// The operators' table.
const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations/errors.md");

/// A volume `data` of 2 GiB with a backup `monday`, and a store.
struct Bed {
    daemon: Daemon,
    client: Client,
    store: Store,
    objects: Objects,
}

/// Requests of all kinds.
enum Call {
    Create(CreateLvRequest),
    Snapshot(CreateLvSnapshotRequest),
    Remove(RemoveLvRequest),
    Resize(ResizeLvRequest),
    List(GetLvListRequest),
    Free(GetFreeBytesRequest),
    Backup(CreateBackupRequest),
    ListBackups(ListBackupsRequest),
    ShowBackup(ShowBackupRequest),
}

impl Bed {
    async fn new() -> Self {
        let objects = Objects::new();
        let daemon = Daemon::with(|folder| {
            class("fast", folder, 0, true)
                + &class("slow", folder, 0, false)
                + "lvcreate-option-classes: [{ name: wide, options: [] }]\n"
                + "s3: { region: us-east-1, require-verify-tls: true }\n"
        });
        let (client, store) = (daemon.client().await, objects.store().await);
        let volume = client.create("data", 2 << 30).await;
        fill(&volume.path, MIB, 4 * MIB, "content");
        let state = client
            .end_of(&backup("first", "data", &store.s3("monday")))
            .await;
        assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
        for class in ["", "slow"] {
            let twin = CreateLvRequest {
                device_class: class.to_owned(),
                ..sized_bytes("twin", MIB)
            };
            client.clone().lv.create_lv(twin).await.expect("made");
        }
        Self {
            daemon,
            client,
            store,
            objects,
        }
    }

    /// What is said to the call; of a backup, what it comes to.
    async fn answer(&self, call: Call) -> Result<(), Status> {
        let Client {
            mut lv,
            mut vg,
            mut own,
            ..
        } = self.client.clone();
        match call {
            Call::Create(request) => lv.create_lv(request).await.map(drop),
            Call::Snapshot(request) => lv.create_lv_snapshot(request).await.map(drop),
            Call::Remove(request) => lv.remove_lv(request).await.map(drop),
            Call::Resize(request) => lv.resize_lv(request).await.map(drop),
            Call::List(request) => vg.get_lv_list(request).await.map(drop),
            Call::Free(request) => vg.get_free_bytes(request).await.map(drop),
            Call::ListBackups(request) => own.list_backups(request).await.map(drop),
            Call::ShowBackup(request) => own.show_backup(request).await.map(drop),
            Call::Backup(request) => {
                self.client.poll(&request).await?;
                let state = self.client.end_of(&request).await;
                match state.state() {
                    // Not a gRPC error: the table calls it by the state's name.
                    StateType::Error => Err(Status::unknown(state.msg)),
                    _ => Ok(()),
                }
            }
        }
    }
}

/// Rows of the table's section, by input: code and sentence.
fn rows(section: &str) -> BTreeMap<String, (String, String)> {
    let page = fs::read_to_string(TABLE).expect("the page is there");
    let heading = format!("\n## {section}\n");
    let (_, text) = page.split_once(&heading).expect(&heading);
    let text = text.split("\n## ").next().expect("there is a first part");
    let cells = |line: &str| -> Option<(String, (String, String))> {
        let line = line.strip_prefix("| ")?.strip_suffix(" |")?;
        let [input, code, sentence] = line.split(" | ").collect::<Vec<_>>().try_into().ok()?;
        let sentence = sentence.strip_prefix('`')?.strip_suffix('`')?;
        Some((input.to_owned(), (code.to_owned(), sentence.to_owned())))
    };
    text.lines().filter_map(cells).collect()
}

/// Whether the sentence is the wanted one, whose `…` stand for anything.
fn is_like(sentence: &str, wanted: &str) -> bool {
    let mut rest = sentence;
    for (n, part) in wanted.split('…').enumerate() {
        match rest.find(part) {
            Some(0) => rest = &rest[part.len()..],
            Some(at) if n > 0 => rest = &rest[at + part.len()..],
            _ => return false,
        }
    }
    rest.is_empty() || wanted.ends_with('…')
}

/// Collects what does not agree with the table.
struct Judge {
    section: &'static str,
    rows: BTreeMap<String, (String, String)>,
    differing: Vec<String>,
}

impl Judge {
    fn of(section: &'static str) -> Self {
        Self {
            section,
            rows: rows(section),
            differing: Vec::new(),
        }
    }

    fn hear(&mut self, input: &str, code: &str, sentence: &str) {
        let row = self.rows.remove(input);
        let agrees = row
            .is_some_and(|(wanted_code, wanted)| code == wanted_code && is_like(sentence, &wanted));
        if !agrees {
            let row = format!("| {input} | {code} | `{sentence}` |");
            self.differing.push(row);
        }
    }

    fn end(self) {
        assert!(
            self.differing.is_empty() && self.rows.is_empty(),
            "section {:?} of {TABLE} should have these rows:\n{}\nand not: {:?}",
            self.section,
            self.differing.join("\n"),
            self.rows.keys(),
        );
    }
}

/// The code as the table calls it.
fn code_name(status: &Status) -> String {
    match status.code() {
        Code::Unknown => "state ERROR".to_owned(),
        code => {
            // `InvalidArgument` as gRPC writes it.
            let mut name = String::new();
            for letter in format!("{code:?}").chars() {
                if letter.is_uppercase() && !name.is_empty() {
                    name.push('_');
                }
                name.push(letter.to_ascii_uppercase());
            }
            name
        }
    }
}

/// CreateLV, CreateLVSnapshot, RemoveLV, ResizeLV, GetLVList and GetFreeBytes.
fn volume_inputs() -> Vec<(&'static str, Call)> {
    let create = |change: fn(&mut CreateLvRequest)| {
        let mut request = sized_bytes("new", MIB);
        change(&mut request);
        Call::Create(request)
    };
    let snapshot = |change: fn(&mut CreateLvSnapshotRequest)| {
        let mut request = CreateLvSnapshotRequest {
            name: "new".to_owned(),
            source_volume: "data".to_owned(),
            access_type: "rw".to_owned(),
            ..CreateLvSnapshotRequest::default()
        };
        change(&mut request);
        Call::Snapshot(request)
    };
    let resize = |name: &str, size_gb, size_bytes| {
        Call::Resize(ResizeLvRequest {
            name: name.to_owned(),
            size_gb,
            size_bytes,
            ..ResizeLvRequest::default()
        })
    };
    let remove = |name: &str| {
        Call::Remove(RemoveLvRequest {
            name: name.to_owned(),
            ..RemoveLvRequest::default()
        })
    };
    let other_class = || "other".to_owned();
    vec![
        ("CreateLV, name empty", create(|r| r.name.clear())),
        ("CreateLV, name `..`", create(|r| r.name = "..".into())),
        (
            "CreateLV, name `-data`",
            create(|r| r.name = "-data".into()),
        ),
        ("CreateLV, name `a/b`", create(|r| r.name = "a/b".into())),
        (
            "CreateLV, name of 128 bytes",
            create(|r| r.name = "x".repeat(128)),
        ),
        (
            "CreateLV, name of 100 bytes",
            create(|r| r.name = "x".repeat(100)),
        ),
        (
            "CreateLV, name `pvmove0`",
            create(|r| r.name = "pvmove0".into()),
        ),
        (
            "CreateLV, name `data_tmeta`",
            create(|r| r.name = "data_tmeta".into()),
        ),
        (
            "CreateLV, name `.ringback-1`",
            create(|r| r.name = ".ringback-1".into()),
        ),
        ("CreateLV, name taken", create(|r| r.name = "data".into())),
        ("CreateLV, no size", create(|r| r.size_bytes = 0)),
        (
            "CreateLV, size_bytes negative",
            create(|r| r.size_bytes = -1),
        ),
        (
            "CreateLV, size_gb beyond 2^63 bytes",
            create(|r| (r.size_gb, r.size_bytes) = (1 << 34, 0)),
        ),
        (
            "CreateLV, more than there is",
            create(|r| r.size_bytes = 1 << 50),
        ),
        (
            "CreateLV, tag with a space",
            create(|r| r.tags = vec!["a b".into()]),
        ),
        (
            "CreateLV, tag `ringback.x`",
            create(|r| r.tags = vec!["ringback.x".into()]),
        ),
        (
            "CreateLV, unknown class",
            create(|r| r.device_class = "other".into()),
        ),
        (
            "CreateLV, unknown option class",
            create(|r| r.data_source_or_option_class = Some("narrow".into())),
        ),
        (
            "CreateLV, option class not UTF-8",
            create(|r| r.data_source_or_option_class = Some(vec![0xff].into())),
        ),
        (
            "CreateLV, field 5 of an old TopoLVM",
            create(|r| {
                (r.size_gb, r.size_bytes) = (1, 0);
                r.data_source_or_option_class = Some("raid10".into());
            }),
        ),
        (
            "CreateLV, data_source without s3",
            Call::Create(with_source("new", 1, &DataSource::default())),
        ),
        (
            "CreateLVSnapshot, access_type `rx`",
            snapshot(|r| r.access_type = "rx".into()),
        ),
        (
            "CreateLVSnapshot, source missing",
            snapshot(|r| r.source_volume = "gone".into()),
        ),
        (
            "CreateLVSnapshot, source name `a/b`",
            snapshot(|r| r.source_volume = "a/b".into()),
        ),
        (
            "CreateLVSnapshot, smaller than its source",
            snapshot(|r| r.size_bytes = 4096),
        ),
        ("ResizeLV, volume missing", resize("gone", 1, 0)),
        ("ResizeLV, no size", resize("data", 0, 0)),
        (
            "ResizeLV, size_gb under the present size",
            resize("data", 1, 0),
        ),
        ("ResizeLV, more than there is", resize("data", 0, 1 << 50)),
        ("RemoveLV, volume missing", remove("gone")),
        (
            "GetLVList, unknown class",
            Call::List(GetLvListRequest {
                device_class: other_class(),
            }),
        ),
        (
            "GetFreeBytes, unknown class",
            Call::Free(GetFreeBytesRequest {
                device_class: other_class(),
            }),
        ),
    ]
}

/// CreateBackup, CreateLV with a data source, ListBackups and ShowBackup.
fn backup_inputs(store: &Store) -> Vec<(&'static str, Call)> {
    let at = |change: fn(&mut S3)| {
        let mut s3 = store.s3("tuesday");
        change(&mut s3);
        s3
    };
    let of = |name: &str, handle: &str| Call::Backup(backup(name, handle, &store.s3("tuesday")));
    let to = |change: fn(&mut S3)| Call::Backup(backup("second", "data", &at(change)));
    let from = |change: fn(&mut S3)| {
        let mut s3 = store.s3("monday");
        change(&mut s3);
        Call::Create(with_source("new", 2, &synchronous(&s3)))
    };
    let without_source = {
        let mut request = backup("second", "data", &store.s3("tuesday"));
        request.backup.as_mut().expect("it has one").data_source = None;
        Call::Backup(request)
    };
    let in_the_chain = |s3: &mut S3| {
        s3.access_key_id.clear();
        s3.secret_access_key.clear();
    };
    vec![
        (
            "CreateBackup, no backup",
            Call::Backup(CreateBackupRequest { backup: None }),
        ),
        ("CreateBackup, no data_source", without_source),
        ("CreateBackup, name empty", of("", "data")),
        (
            "CreateBackup, names too long together",
            of(&"x".repeat(1020), "data"),
        ),
        ("CreateBackup, handle empty", of("second", "")),
        ("CreateBackup, handle `a/b/c`", of("second", "a/b/c")),
        (
            "CreateBackup, handle in several groups",
            of("second", "twin"),
        ),
        ("CreateBackup, volume missing", of("second", "gone")),
        (
            "CreateBackup, path taken by another backup",
            to(|s3| s3.path = format!("{BUCKET}/team/monday")),
        ),
        ("path empty", to(|s3| s3.path.clear())),
        (
            "path without a name",
            to(|s3| s3.path = "s3://backups".into()),
        ),
        (
            "path without a bucket",
            to(|s3| s3.path = "s3:///team/monday".into()),
        ),
        (
            "path with an empty component",
            to(|s3| s3.path = "backups//monday".into()),
        ),
        (
            "path with `..`",
            to(|s3| s3.path = "backups/../monday".into()),
        ),
        (
            "path with a component of the format",
            to(|s3| s3.path = "backups/log/monday".into()),
        ),
        (
            "path with a query",
            to(|s3| s3.path = "backups/team/monday?a=b".into()),
        ),
        (
            "path with credentials",
            to(|s3| s3.path = "s3://id:hush@backups/team/monday".into()),
        ),
        (
            "path of another scheme",
            to(|s3| s3.path = "http://backups/team/monday".into()),
        ),
        (
            "endpoint without a scheme",
            to(|s3| s3.endpoint = "store:9000".into()),
        ),
        (
            "endpoint of another scheme",
            to(|s3| s3.endpoint = "ftp://store".into()),
        ),
        (
            "endpoint with a path",
            to(|s3| s3.endpoint = "http://store/minio".into()),
        ),
        (
            "endpoint with credentials",
            to(|s3| s3.endpoint = "http://id:hush@store".into()),
        ),
        (
            "http_proxy without a scheme",
            to(|s3| s3.http_proxy = "proxy:3128".into()),
        ),
        (
            "access_key_id without a secret",
            to(|s3| s3.secret_access_key.clear()),
        ),
        (
            "session_token without a key",
            to(|s3| {
                s3.access_key_id.clear();
                s3.secret_access_key.clear();
                s3.session_token = "hush".into();
            }),
        ),
        ("encryption_key", to(|s3| s3.encryption_key = "hush".into())),
        (
            "verify_tls false where it is required",
            to(|s3| s3.verify_tls = false),
        ),
        (
            "bucket missing",
            to(|s3| s3.path = "no-such-bucket/team/tuesday".into()),
        ),
        (
            "secret wrong",
            to(|s3| s3.secret_access_key = "wrong".into()),
        ),
        ("no credentials anywhere", to(in_the_chain)),
        (
            "endpoint that nobody serves, restore",
            from(|s3| s3.endpoint = "http://127.0.0.1:1".into()),
        ),
        (
            "bucket missing, restore",
            from(|s3| s3.path = "no-such-bucket/team/monday".into()),
        ),
        (
            "secret wrong, restore",
            from(|s3| s3.secret_access_key = "wrong".into()),
        ),
        ("no credentials anywhere, restore", from(in_the_chain)),
        (
            "backup missing",
            from(|s3| s3.path = format!("{BUCKET}/team/sunday")),
        ),
        (
            "repository missing",
            from(|s3| s3.path = format!("{BUCKET}/other/monday")),
        ),
        (
            "volume smaller than the backup",
            Call::Create(with_source("new", 1, &synchronous(&store.s3("monday")))),
        ),
        (
            "ListBackups, no repository",
            Call::ListBackups(ListBackupsRequest::default()),
        ),
        (
            "ListBackups, repository missing",
            Call::ListBackups(ListBackupsRequest {
                repository: Some(store.at("s3://backups/other")),
            }),
        ),
        (
            "ShowBackup, no backup",
            Call::ShowBackup(ShowBackupRequest::default()),
        ),
        (
            "ShowBackup, backup missing",
            Call::ShowBackup(ShowBackupRequest {
                backup: Some(store.s3("sunday")),
            }),
        ),
    ]
}

async fn judge(section: &'static str, bed: &Bed, inputs: Vec<(&'static str, Call)>) {
    let mut judge = Judge::of(section);
    let objects = bed.objects.names();
    for (input, call) in inputs {
        match bed.answer(call).await {
            Ok(()) => panic!("{input}: it was not refused"),
            Err(status) => judge.hear(input, &code_name(&status), status.message()),
        }
        assert_eq!(bed.client.find("new").await, None, "{input}");
        bed.daemon.assert_nothing_is_left_of("new");
    }
    assert_eq!(bed.objects.names(), objects, "nothing was stored");
    judge.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_request_for_a_volume_has_its_code_and_sentence_and_makes_nothing() {
    let bed = Bed::new().await;
    judge("Volumes", &bed, volume_inputs()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_request_for_a_backup_or_restore_has_its_code_and_sentence_and_makes_nothing() {
    let bed = Bed::new().await;
    let inputs = backup_inputs(&bed.store);
    judge("Backups and restores", &bed, inputs).await;
}

/// What is wrong with an object, and what a restore of the backup says then.
type Damage = (&'static str, &'static str, fn(&mut Vec<u8>));

/// Offset of the format's version in an object's header.
const VERSION: usize = 9;

const DAMAGES: [Damage; 9] = [
    ("`repository`, not one of ours", "repository", |object| {
        *object = b"<html>hello</html>, and some more of that".to_vec();
    }),
    ("`repository`, empty", "repository", Vec::clear),
    ("`repository`, of a newer version", "repository", |object| {
        object[VERSION] = 9;
    }),
    ("`repository`, a flipped bit", "repository", |object| {
        object[40] ^= 1;
    }),
    ("log entry, of a newer version", "log/", |object| {
        object[VERSION] = 9;
    }),
    ("log entry, cut off", "log/", |object| object.truncate(50)),
    ("tree, a flipped bit", "tree/", |object| object[40] ^= 1),
    ("chunk, a flipped bit", "data/", |object| object[40] ^= 1),
    ("pack, cut off", "data/", |object| object.truncate(1000)),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_object_that_is_not_what_it_should_be_is_named_with_what_is_wrong() {
    let mut bed = Bed::new().await;
    let mut judge = Judge::of("Objects");
    for (input, kind, damage) in DAMAGES {
        let whole = bed.objects.change(kind, damage);
        bed.store = bed.objects.reopened(bed.store).await;
        let restore = with_source("new", 2, &synchronous(&bed.store.s3("monday")));
        let status = bed.answer(Call::Create(restore)).await.expect_err(input);
        judge.hear(input, &code_name(&status), status.message());
        assert_eq!(bed.client.find("new").await, None, "{input}");
        bed.daemon.assert_nothing_is_left_of("new");
        whole.put_back();
    }
    bed.store = bed.objects.reopened(bed.store).await;
    let restore = with_source("new", 2, &synchronous(&bed.store.s3("monday")));
    bed.answer(Call::Create(restore))
        .await
        .expect("it is whole again");
    judge.end();
}

/// A class that is all right, for what comes before or behind it.
const CLASS: &str = "device-classes: [{ name: fast, default: true, directory: /nowhere/fast }]\n";

fn config_inputs() -> Vec<(&'static str, String)> {
    let with = |text: &str| format!("{CLASS}{text}");
    vec![
        ("unknown key", with("device-clases: []\n")),
        (
            "unknown key of a section",
            with("datapath:\n  io-depth: 3\n"),
        ),
        (
            "a text where a number should be",
            with("datapath: { memory-mib: much }\n"),
        ),
        (
            "a number out of range",
            with("datapath: { queue-depth: 0 }\n"),
        ),
        (
            "no device classes",
            "socket-name: /nowhere/lvmd.sock\n".to_owned(),
        ),
        ("no default class", CLASS.replace("true", "false")),
        (
            "two default classes",
            "device-classes:\n- { name: a, default: true, directory: /nowhere/a }\n\
             - { name: b, default: true, directory: /nowhere/b }\n"
                .to_owned(),
        ),
        (
            "two classes of one name",
            "device-classes:\n- { name: a, default: true, directory: /nowhere/a }\n\
             - { name: a, directory: /nowhere/b }\n"
                .to_owned(),
        ),
        (
            "a class without a group",
            "device-classes:\n- { name: a, default: true }\n".to_owned(),
        ),
        (
            "a relative directory",
            "device-classes:\n- { name: a, default: true, directory: here }\n".to_owned(),
        ),
        (
            "memory too small for its jobs",
            with("datapath: { memory-mib: 64 }\n"),
        ),
        (
            "a relative cache directory",
            with("datapath: { cache-directory: here }\n"),
        ),
        ("not YAML", with("datapath: [\n")),
        ("an empty file", String::new()),
    ]
}

#[test]
fn every_bad_configuration_ends_the_start_with_its_sentence() {
    let mut judge = Judge::of("Configuration");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("lvmd.yaml");
    let mut hear = |input: &str, file: &Path| {
        let output = run(ringback().args(["serve", "--config"]).arg(file));
        assert!(!output.status.success(), "{input}");
        let said = String::from_utf8(output.stderr).expect("text");
        let said = said.trim_end().replace(&*file.to_string_lossy(), "FILE");
        let code = output.status.code().expect("it ends by itself");
        judge.hear(input, &format!("exit {code}"), &said);
    };
    hear("no such file", &file);
    for (input, text) in config_inputs() {
        fs::write(&file, text).expect("writes the configuration");
        hear(input, &file);
    }
    judge.end();
}
