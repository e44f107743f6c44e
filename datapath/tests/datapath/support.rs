//! An endpoint, a store and volumes for the tests of the data path.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ringback_datapath::{
    backup::{self, Subject},
    chunk::ChunkSize,
    crypt::Passphrase,
    error::Error,
    log::{Committed, Log},
    progress::Progress,
    repository::Repository,
    restore::{self, Backup},
    settings::Settings,
    stop::Stop,
    store::{
        Authorities, ObjectStore, SharedCredentials,
        location::{Credentials, Endpoint as Url, RepositoryPath, Secret, StoreConfig},
        s3::S3Store,
    },
};
use ringback_endpoint::{Endpoint, Options};
use tempfile::TempDir;

pub(crate) const BUCKET: &str = "bucket";
const PATIENCE: Duration = Duration::from_secs(20);

/// A store and a folder for volumes.
pub(crate) struct Bed {
    pub(crate) endpoint: Endpoint,
    pub(crate) folder: TempDir,
    pub(crate) settings: Settings,
    /// `None`: the repository is not encrypted.
    pub(crate) passphrase: Option<Passphrase>,
}

impl Bed {
    /// One whose repository is encrypted.
    pub(crate) async fn encrypted() -> Self {
        Self {
            passphrase: Some(passphrase("the passphrase of these tests")),
            ..Self::new().await
        }
    }

    pub(crate) async fn new() -> Self {
        let endpoint = Endpoint::start(Options {
            buckets: vec![BUCKET.to_owned()],
            ..Options::default()
        })
        .await
        .expect("endpoint");
        Self {
            endpoint,
            folder: tempfile::tempdir().expect("tempdir"),
            settings: small_settings(),
            passphrase: None,
        }
    }

    pub(crate) fn config(&self) -> StoreConfig {
        StoreConfig {
            endpoint: Url::parse(&self.endpoint.url()).expect("a URL"),
            region: Some("us-east-1".to_owned()),
            verify_tls: true,
            authorities: Authorities::default(),
            http_proxy: None,
            https_proxy: None,
            credentials: Credentials::Static {
                access_key_id: Secret::new(self.endpoint.access_key_id()),
                secret_access_key: Secret::new(self.endpoint.secret_access_key()),
                session_token: None,
            },
        }
    }

    /// A client of this store that gives up after `patience`.
    pub(crate) fn client(&self, patience: Duration) -> Client {
        Client {
            config: self.config(),
            settings: self.settings.clone(),
            passphrase: self.passphrase.clone(),
            patience,
        }
    }

    /// Waits until the store has taken or dropped what a stopped backup had under way.
    pub(crate) async fn store_is_idle(&self) {
        let waited = async {
            while !self.endpoint.counters().is_idle() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(60), waited);
        waited.await.expect("the store comes to rest");
    }

    /// A sparse volume with these extents of data.
    pub(crate) fn volume(&self, name: &str, bytes: u64, extents: &[(u64, Vec<u8>)]) -> PathBuf {
        let path = self.folder.path().join(name);
        let file = File::create_new(&path).expect("create");
        file.set_len(bytes).expect("set_len");
        for (offset, data) in extents {
            file.write_all_at(data, *offset).expect("write");
        }
        path
    }

    pub(crate) async fn repository(&self) -> Repository {
        self.client(PATIENCE)
            .repository()
            .await
            .expect("repository")
    }

    pub(crate) async fn backup(&self, volume: &Path, name: &str) -> Result<Committed, Error> {
        self.client(PATIENCE).backup(volume, name).await
    }

    pub(crate) async fn restore(&self, name: &str) -> Result<PathBuf, Error> {
        let target = self.folder.path().join(format!("restored-{name}"));
        self.client(PATIENCE).restore(name, &target).await?;
        Ok(target)
    }
}

/// What a job needs to know of a store; outlives it.
pub(crate) struct Client {
    config: StoreConfig,
    settings: Settings,
    passphrase: Option<Passphrase>,
    patience: Duration,
}

impl Client {
    pub(crate) async fn store(&self) -> S3Store {
        S3Store::connect(
            RepositoryPath::parse("bucket/repo").expect("a path"),
            &self.config,
            SharedCredentials::new(self.config.credentials.clone()),
            self.patience,
            self.settings.transfers_max,
        )
        .await
    }

    pub(crate) async fn repository(&self) -> Result<Repository, Error> {
        let store = self.store().await;
        let size = ChunkSize::new(self.settings.chunk_bytes).expect("valid");
        Repository::open_or_create(Arc::new(store), size, self.passphrase.as_ref()).await
    }

    pub(crate) async fn backup(&self, volume: &Path, name: &str) -> Result<Committed, Error> {
        self.stoppable_backup(volume, name, &Stop::default()).await
    }

    pub(crate) async fn stoppable_backup(
        &self,
        volume: &Path,
        name: &str,
        stop: &Stop,
    ) -> Result<Committed, Error> {
        let repository = self.repository().await?;
        let mut log = Log::replay(&repository).await?;
        let subject = Subject {
            name: name.to_owned(),
            request_name: name.to_owned(),
            volume_handle: volume.file_name().expect("named").to_string_lossy().into(),
            volume_identity: volume.display().to_string(),
            created_ms: 0,
        };
        let progress = Arc::new(Progress::default());
        backup::run(
            &repository,
            &mut log,
            volume,
            &subject,
            &self.settings,
            &progress,
            stop,
        )
        .await
    }

    /// Restores into a new file at `target`.
    pub(crate) async fn restore(&self, name: &str, target: &Path) -> Result<(), Error> {
        let store = Arc::new(self.store().await);
        let passphrase = self.passphrase.as_ref();
        restore(store, passphrase, &self.settings, name, target).await
    }
}

/// Restores a backup that lies in `store` into a new file at `target`.
pub(crate) async fn restore(
    store: Arc<dyn ObjectStore>,
    passphrase: Option<&Passphrase>,
    settings: &Settings,
    name: &str,
    target: &Path,
) -> Result<(), Error> {
    let repository = Repository::open(store, passphrase).await?;
    let opened = Backup::open(&repository, name).await?;
    let file = File::create(target).expect("create");
    file.set_len(opened.volume_bytes()).expect("set_len");
    let (progress, stop) = (Arc::new(Progress::default()), Stop::default());
    restore::run(&repository, &opened, target, settings, &progress, &stop).await
}

/// Small chunks, parts and buffers, so that small volumes meet every limit.
fn small_settings() -> Settings {
    let mut settings = Settings {
        chunk_bytes: 64 << 10,
        queue_depth: 8,
        buffer_bytes: 6 << 20,
        packs_min: 1,
        ..Settings::default()
    };
    settings.data_packs.part_bytes = 5 << 20;
    settings.data_packs.pack_bytes = 12 << 20;
    settings
}

pub(crate) fn assert_same(left: &Path, right: &Path) {
    let (left_bytes, right_bytes) = (
        fs::read(left).expect("read"),
        fs::read(right).expect("read"),
    );
    assert_eq!(left_bytes.len(), right_bytes.len());
    let differs = left_bytes
        .iter()
        .zip(&right_bytes)
        .position(|(a, b)| a != b);
    assert_eq!(differs, None, "first different byte");
}

pub(crate) fn passphrase(text: &str) -> Passphrase {
    Passphrase::new(Secret::new(text)).expect("a passphrase")
}

/// Bytes that do not repeat, from a seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}
