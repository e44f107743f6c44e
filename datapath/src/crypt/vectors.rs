//! Known answers of an implementation that was written from docs/formats alone: `tests/vectors`.

use std::{fs, path::PathBuf, sync::Arc};

use serde_json::Value;

use super::{
    Hashing, Key, Keys, Passphrase, Stretching,
    seal::{SealKey, derive},
};
use crate::{
    error::Error,
    log::Log,
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

async fn open(repository: &str, passphrase: Option<&str>) -> Result<Repository, Error> {
    let url = format!("file://{}", folder().join(repository).display());
    let RepositoryUrl::Folder(path) = RepositoryUrl::parse(&url).expect("a URL") else {
        panic!("a folder");
    };
    let store = FolderStore::open(path, 4).await.expect("opens");
    let passphrase = passphrase.map(|it| Passphrase::new(Secret::new(it)).expect("valid"));
    Repository::open(Arc::new(store), passphrase.as_ref()).await
}

/// Restores all backups of a repository, and holds them against what they must be.
async fn restore_all(repository: &Repository, expected: &Value) {
    let target = tempfile::tempdir().expect("a folder");
    let log = Log::replay(repository).await.expect("replays");
    let wanted = expected["backups"].as_object().expect("by name");
    assert_eq!(log.commits().len(), wanted.len());
    for committed in log.commits() {
        let name = &committed.commit.name;
        let found = Log::look_up(repository, name).await.expect("looked up");
        assert_eq!(found.as_ref(), Some(committed));
        let backup = Backup::read(repository, committed).await.expect("read");
        let path = target.path().join(name);
        let file = fs::File::create(&path).expect("made");
        file.set_len(backup.volume_bytes()).expect("set");
        let (progress, stop) = (Arc::default(), crate::stop::Stop::default());
        let settings = Settings {
            buffer_bytes: 4 << 20,
            ..Settings::default()
        };
        restore::run(repository, &backup, &path, &settings, &progress, &stop)
            .await
            .expect("restored");
        let found = blake3::hash(&fs::read(&path).expect("read")).to_string();
        assert_eq!(found, text(&wanted[name], "blake3"), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn repositories_that_others_wrote_and_summed_up_open_with_each_passphrase_and_are_restored() {
    let expected = &json("expected.json")["repositories"];
    for name in ["plain", "encrypted", "summed", "summed-encrypted"] {
        let expected = &expected[name];
        let passphrases = expected["passphrases"].as_array().expect("a list");
        assert_eq!(passphrases.len() > 1, name.contains("encrypted"));
        let mut passphrases: Vec<_> = passphrases.iter().map(Value::as_str).collect();
        if passphrases.is_empty() {
            passphrases.push(None);
        }
        for passphrase in passphrases {
            let repository = open(name, passphrase).await.expect("opens");
            restore_all(&repository, expected).await;
        }
    }
    let wrong = open("encrypted", Some("wrong")).await.err();
    let wrong = wrong.expect("refused");
    assert!(matches!(wrong, Error::WrongPassphrase { .. }), "{wrong}");
}
