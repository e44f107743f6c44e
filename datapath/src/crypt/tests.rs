//! Rules that hold over whole repositories: how often a passphrase is stretched, that no nonce seals
//! twice, that `repository` cannot be changed.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use prost::Message;
use ringback_endpoint::{Endpoint, FaultPlan, Options};
use ringback_proto::repository::Repository as RepositoryMessage;

use super::{Passphrase, seal::journal, stretch::stretchings_with};
use crate::{
    backup::{self, Subject},
    chunk::ChunkSize,
    error::{Error, ErrorKind},
    format::{
        domain::KeyEpoch,
        name::{KEYS, ObjectKind, REPOSITORY},
        object::{RepositoryId, decode_clear, encode_clear},
    },
    log::Log,
    repository::Repository,
    restore::{self, Backup},
    settings::Settings,
    store::{
        Authorities, ObjectStore, SharedCredentials,
        fake::FakeStore,
        location::{Credentials, Endpoint as Url, RepositoryPath, Secret, StoreConfig},
        s3::S3Store,
    },
};

fn passphrase(text: &str) -> Passphrase {
    Passphrase::new(Secret::new(text)).expect("valid")
}

fn size() -> ChunkSize {
    ChunkSize::new(64 << 10).expect("valid")
}

/// A store with an encrypted repository; what `repository` says, and its id.
async fn made() -> (Arc<FakeStore>, RepositoryId, RepositoryMessage) {
    let store = Arc::new(FakeStore::new());
    let given = passphrase("right");
    Repository::open_or_create(Arc::clone(&store) as _, size(), Some(&given))
        .await
        .expect("made");
    let bytes = store.get(REPOSITORY).await.expect("there");
    let (header, message) =
        decode_clear::<RepositoryMessage>(ObjectKind::Repository, REPOSITORY, bytes)
            .expect("well formed");
    (store, header.repository, message)
}

async fn open(store: &Arc<FakeStore>, text: &str) -> Result<Repository, Error> {
    Repository::open(Arc::clone(store) as _, Some(&passphrase(text))).await
}

#[tokio::test]
async fn a_try_stretches_once_however_many_slots_there_are_and_the_same_try_not_again() {
    let (store, _, message) = made().await;
    let salt = &message.stretching.expect("is encrypted").salt;
    let repository = open(&store, "right").await.expect("opens");
    let keys = crate::keys::KeySlots::of(&repository).expect("encrypted");
    assert_eq!(stretchings_with(salt), 1, "making and opening");
    for n in 2..5 {
        keys.add(&passphrase(&format!("right {n}")), "")
            .await
            .expect("added");
        assert_eq!(stretchings_with(salt), n);
    }
    for tries in 1..3 {
        let wrong = open(&store, &format!("wrong {tries}")).await.err();
        assert_eq!(wrong.expect("refused").kind(), ErrorKind::Denied);
        assert_eq!(stretchings_with(salt), 4 + tries);
    }
    for text in ["right", "right 4", "wrong 1"] {
        let opened = open(&store, text).await;
        assert_eq!(opened.is_ok(), text.starts_with("right"));
    }
    assert_eq!(stretchings_with(salt), 6);
}

#[tokio::test]
async fn slots_that_cannot_be_read_or_are_of_any_size_lock_nobody_else_out() {
    let (store, ..) = made().await;
    let first = store.list(KEYS, None).await.expect("listed").remove(0).name;
    let repository = open(&store, "right").await.expect("opens");
    let keys = crate::keys::KeySlots::of(&repository).expect("encrypted");
    keys.add(&passphrase("another"), "").await.expect("added");
    *store.unreadable.lock().expect("unpoisoned") = Some((first.clone(), 10..20));
    let large = format!("{KEYS}{}", "0".repeat(32));
    let bytes = Bytes::from(vec![0; 4097]);
    store.put(&large, bytes.into()).await.expect("put");

    let opened = open(&store, "another").await.expect("opens");
    let damaged = crate::keys::damaged(&opened).await.expect("listed");
    let mut damaged: Vec<String> = damaged.iter().map(ToString::to_string).collect();
    damaged.sort();
    assert!(damaged[0].contains(&large) && damaged[0].contains("over 4 KiB"));
    assert!(damaged[1].contains(&first) && damaged[1].contains("cannot be read"));
    let locked_out = open(&store, "right").await.err().expect("locked out");
    assert_eq!(locked_out.kind(), ErrorKind::Denied);
    assert!(locked_out.to_string().contains(&first), "{locked_out}");
    // And they are taken away as any others.
    let keys = crate::keys::KeySlots::of(&opened).expect("encrypted");
    for name in [&large, &first] {
        let slot = name[KEYS.len()..].parse().expect("a slot");
        let removed = keys.remove(slot, &passphrase("another"), false).await;
        removed.expect("removed");
    }
    assert_eq!(keys.list().await.expect("listed").len(), 1);
}

#[tokio::test]
async fn who_changes_repository_and_makes_its_check_right_is_noticed() {
    let (store, id, message) = made().await;
    let put = async |changed: &RepositoryMessage, epoch| {
        let kind = ObjectKind::Repository;
        let bytes = encode_clear(kind, epoch, id, REPOSITORY, changed);
        store.put(REPOSITORY, bytes.into()).await.expect("put");
        open(&store, "right").await
    };
    assert!(put(&message, KeyEpoch::First).await.is_ok());

    let changes: [fn(&mut RepositoryMessage); 8] = [
        |it| it.chunk_bytes *= 2,
        |it| it.created_ms += 1,
        |it| it.id = Bytes::from_static(&[1; 16]),
        |it| it.key_check = Bytes::from_static(&[1; 32]),
        |it| it.key_check = Bytes::new(),
        |it| it.stretching = None,
        |it| it.stretching.as_mut().expect("there").memory_kib = 8 << 10,
        |it| it.stretching.as_mut().expect("there").salt = Bytes::from_static(&[1; 16]),
    ];
    for (n, change) in changes.iter().enumerate() {
        let mut changed = message.clone();
        change(&mut changed);
        assert!(put(&changed, KeyEpoch::First).await.is_err(), "{n}");
    }
    assert!(put(&message, KeyEpoch::None).await.is_err());
    // Not even as one that never was encrypted.
    let plain = RepositoryMessage {
        stretching: None,
        key_check: Bytes::new(),
        ..message
    };
    let refused = put(&plain, KeyEpoch::None).await.err().expect("refused");
    assert!(matches!(refused, Error::NotEncrypted { .. }), "{refused}");
    assert!(plain.encoded_len() > 0 && !store.list(KEYS, None).await.expect("listed").is_empty());
}

async fn s3(endpoint: &Endpoint) -> Arc<dyn ObjectStore> {
    let credentials = Credentials::Static {
        access_key_id: Secret::new(endpoint.access_key_id()),
        secret_access_key: Secret::new(endpoint.secret_access_key()),
        session_token: None,
    };
    let config = StoreConfig {
        endpoint: Url::parse(&endpoint.url()).expect("a URL"),
        region: Some("us-east-1".to_owned()),
        verify_tls: true,
        authorities: Authorities::default(),
        http_proxy: None,
        https_proxy: None,
        credentials: credentials.clone(),
    };
    let path = RepositoryPath::parse("bucket/repo").expect("a path");
    let credentials = SharedCredentials::new(credentials);
    Arc::new(S3Store::connect(path, &config, credentials, Duration::from_secs(60), 4).await)
}

async fn back_up(repository: &Repository, volume: &Path, name: &str, settings: &Settings) {
    let mut log = Log::replay(repository).await.expect("replayed");
    let subject = Subject {
        name: name.to_owned(),
        request_name: name.to_owned(),
        volume_handle: "volume".to_owned(),
        volume_identity: "volume".to_owned(),
        created_ms: 0,
    };
    let (progress, stop) = (Arc::default(), crate::stop::Stop::default());
    backup::run(
        repository, &mut log, volume, &subject, settings, &progress, &stop,
    )
    .await
    .expect("backed up");
}

#[tokio::test(flavor = "multi_thread")]
async fn under_seeded_faults_no_nonce_seals_a_second_text() {
    let endpoint = Endpoint::start(Options {
        buckets: vec!["bucket".to_owned()],
        ..Options::default()
    })
    .await
    .expect("endpoint");
    let folder = tempfile::tempdir().expect("a folder");
    let volume = folder.path().join("volume");
    let settings = Settings {
        buffer_bytes: 2 << 20,
        queue_depth: 4,
        ..Settings::default()
    };
    let mut content = vec![0; 3 << 20];
    for seed in 0..3u8 {
        blake3::Hasher::new()
            .update(&[seed])
            .finalize_xof()
            .fill(&mut content);
        std::fs::write(&volume, &content).expect("written");
        endpoint.set_faults(Some(FaultPlan::mixed(seed.into(), 200)));
        let given = passphrase("right");
        let store = s3(&endpoint).await;
        let repository = Repository::open_or_create(store, size(), Some(&given)).await;
        let repository = repository.expect("opened");
        let before = journal::len();
        // A nonce that seals twice panics in the journal.
        back_up(&repository, &volume, &format!("backup {seed}"), &settings).await;
        assert!(journal::len() >= before + (3 << 20) / (64 << 10));

        let name = format!("backup {seed}");
        let backup = Backup::open(&repository, &name).await.expect("opened");
        let target = folder.path().join(&name);
        let file = std::fs::File::create(&target).expect("made");
        file.set_len(backup.volume_bytes()).expect("set");
        let (progress, stop) = (Arc::default(), crate::stop::Stop::default());
        restore::run(&repository, &backup, &target, &settings, &progress, &stop)
            .await
            .expect("restored");
        assert!(std::fs::read(&target).expect("read") == content);
    }
}
