//! Known answers of an implementation that was written from docs/formats alone: `tests/vectors`.

use std::{fs, path::PathBuf, sync::Arc};

use ringback_proto::repository::{LogEntry, log_entry::Kind};
use serde_json::Value;

use super::{
    Hashing, Key, Keys, Passphrase, Stretching,
    seal::{SealKey, derive},
};
use crate::{
    error::Error,
    format::name::{ObjectKind, Slot},
    log::Committed,
    repository::Repository,
    restore::{self, Backup},
    settings::Settings,
    store::{folder::FolderStore, location::Secret, url::RepositoryUrl},
};

fn folder() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors");
    folder.canonicalize().expect("the vectors are there")
}

fn json(name: &str) -> Value {
    let text = fs::read_to_string(folder().join(name)).expect("the file is there");
    serde_json::from_str(&text).expect("it is JSON")
}

/// The cases of one primitive.
fn cases(primitive: &str) -> Vec<Value> {
    let all = json("primitives.json");
    let cases = all[primitive].as_array().expect("a list").clone();
    assert!(!cases.is_empty());
    cases
}

fn bytes(case: &Value, field: &str) -> Vec<u8> {
    hex::decode(text(case, field)).expect("hexadecimal")
}

fn text<'a>(case: &'a Value, field: &str) -> &'a str {
    case[field].as_str().expect(field)
}

fn number(case: &Value, field: &str) -> u32 {
    case[field]
        .as_u64()
        .expect(field)
        .try_into()
        .expect("small")
}

fn key(bytes: &[u8]) -> Key {
    Key::from_slice(bytes).expect("32 bytes")
}

#[test]
fn passphrases_are_stretched_as_others_stretch_them() {
    for case in cases("argon2id") {
        let stretching = ringback_proto::repository::Stretching {
            salt: bytes(&case, "salt").into(),
            memory_kib: number(&case, "memory_kib"),
            iterations: number(&case, "iterations"),
            lanes: number(&case, "lanes"),
        };
        let stretching = Stretching::from_message(&stretching).expect("in range");
        let passphrase = String::from_utf8(bytes(&case, "passphrase")).expect("text");
        let passphrase = Passphrase::new(Secret::new(passphrase)).expect("valid");
        let stretched = stretching.compute(&passphrase);
        assert_eq!(stretched.reveal()[..], bytes(&case, "output"), "{case}");
    }
}

#[test]
fn keys_are_derived_as_others_derive_them() {
    for case in cases("hkdf_sha256") {
        let (secret, salt) = (bytes(&case, "key"), bytes(&case, "salt"));
        let derived = derive(&secret, &salt, &[&bytes(&case, "info")]);
        assert_eq!(derived.reveal()[..], bytes(&case, "output"), "{case}");
    }
}

#[test]
fn texts_are_sealed_as_others_seal_them() {
    for case in cases("aes_256_gcm") {
        let sealing = SealKey::new(&key(&bytes(&case, "key")));
        let nonce = bytes(&case, "nonce").try_into().expect("12 bytes");
        let (associated, text) = (bytes(&case, "associated"), bytes(&case, "text"));
        let mut sealed = text.clone();
        let tag = sealing.seal(nonce, &associated, &mut sealed, &[]);
        sealed.extend(tag);
        assert_eq!(sealed, bytes(&case, "sealed"), "{case}");
        let opened = sealing.open(nonce, &associated, &mut sealed);
        assert_eq!(opened.map(|text| text.to_vec()), Ok(text));
    }
}

#[test]
fn ids_and_checks_are_hashed_as_others_hash_them() {
    for case in cases("blake3") {
        let (input, output) = (bytes(&case, "input"), bytes(&case, "output"));
        let is_id = text(&case, "for").starts_with("id of");
        let found = match (case.get("key"), case.get("context")) {
            (Some(_), _) if is_id => {
                let keys = Keys::new(Key::random(), key(&bytes(&case, "key")));
                Hashing::with(Some(&Arc::new(keys))).node_id(&input)
            }
            (Some(_), _) => {
                let key = key(&bytes(&case, "key"));
                *blake3::keyed_hash(key.reveal(), &input).as_bytes()
            }
            (None, Some(context)) => {
                let context = context.as_str().expect("text");
                blake3::derive_key(context, &input)
            }
            (None, None) => Hashing::PLAIN.node_id(&input),
        };
        assert_eq!(found[..output.len()], output, "{case}");
    }
}

async fn open(passphrase: &str) -> Result<Repository, Error> {
    let url = format!("file://{}", folder().join("encrypted").display());
    let RepositoryUrl::Folder(path) = RepositoryUrl::parse(&url).expect("a URL") else {
        panic!("a folder");
    };
    let store = FolderStore::open(path, 4).await.expect("opens");
    let passphrase = Passphrase::new(Secret::new(passphrase)).expect("valid");
    Repository::open(Arc::new(store), Some(&passphrase)).await
}

/// The backups in it, whatever else the log says.
async fn backups(repository: &Repository) -> Vec<Committed> {
    let listed = repository.store().list("log/", None).await.expect("listed");
    let mut backups = Vec::new();
    for slot in (1..=listed.len() as u64).map(Slot) {
        let object = slot.object();
        let bytes = repository.store().get(&object).await.expect("got");
        let entry: LogEntry = repository
            .decode(ObjectKind::LogEntry, &object, bytes)
            .expect("opens");
        if let Some(Kind::Commit(commit)) = entry.kind {
            backups.push(Committed { slot, commit });
        }
    }
    backups
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_repository_that_others_wrote_opens_with_each_passphrase_and_is_restored() {
    let expected = &json("expected.json")["repositories"]["encrypted"];
    let passphrases = expected["passphrases"].as_array().expect("a list");
    assert!(passphrases.len() > 1);
    let target = tempfile::tempdir().expect("a folder");
    for (n, passphrase) in passphrases.iter().enumerate() {
        let repository = open(passphrase.as_str().expect("text")).await;
        let repository = repository.expect("opens");
        let backups = backups(&repository).await;
        assert_eq!(
            backups.len(),
            expected["backups"].as_object().expect("by name").len()
        );
        for committed in backups {
            let wanted = &expected["backups"][&committed.commit.name];
            let backup = Backup::read(&repository, &committed).await.expect("read");
            let path = target.path().join(format!("{n} {}", committed.commit.name));
            let file = fs::File::create(&path).expect("made");
            file.set_len(backup.volume_bytes()).expect("set");
            let (progress, stop) = (Arc::default(), crate::stop::Stop::default());
            let settings = Settings {
                buffer_bytes: 4 << 20,
                ..Settings::default()
            };
            restore::run(&repository, &backup, &path, &settings, &progress, &stop)
                .await
                .expect("restored");
            let found = blake3::hash(&fs::read(&path).expect("read")).to_string();
            assert_eq!(found, text(wanted, "blake3"), "{}", committed.commit.name);
        }
    }
    let wrong = open("wrong").await.err().expect("refused");
    assert!(matches!(wrong, Error::WrongPassphrase { .. }), "{wrong}");
}
