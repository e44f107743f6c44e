//! The store of a command: first contact is to be quick, work is to be patient.
//!
//! A folder of this host is not asked twice, and so takes no patience.

use std::{sync::Arc, time::Duration};

use ringback_datapath::{
    crypt::Passphrase,
    error::Error,
    log::Log,
    repository::Repository,
    store::{
        ObjectStore, SharedCredentials,
        folder::FolderStore,
        location::{RepositoryPath, StoreConfig},
        s3::S3Store,
        url::FolderPath,
    },
};

use crate::{
    config::DatapathSettings,
    jobs::{JOB_PATIENCE, OPEN_PATIENCE, repository},
};

/// Where a repository lies, the way there, and what opens it.
#[derive(Debug, Clone)]
pub struct Way {
    /// Where it lies.
    pub place: Place,
    /// With one the repository is encrypted, or is made so; without one it is not.
    pub passphrase: Option<Passphrase>,
}

/// Where a repository lies, and the way there.
#[derive(Debug, Clone)]
pub enum Place {
    /// A place in S3.
    S3(RepositoryPath, Box<StoreConfig>),
    /// A folder of this host.
    Folder(FolderPath),
}

/// One repository's place in a store, and how work on it is bounded.
#[derive(Clone)]
pub struct Store {
    kind: Kind,
    passphrase: Option<Passphrase>,
    settings: DatapathSettings,
}

#[derive(Clone)]
enum Kind {
    S3(Box<S3Store>),
    Folder(FolderStore),
}

impl Store {
    /// Prepares to reach a repository. Of a store in S3 nothing is asked yet; a folder is opened.
    pub async fn connect(way: &Way, settings: DatapathSettings) -> Result<Self, Error> {
        let transfers = settings.parts_in_flight as usize;
        let kind = match &way.place {
            Place::S3(path, config) => {
                let credentials = SharedCredentials::new(config.credentials.clone());
                let (path, patience) = (path.clone(), OPEN_PATIENCE);
                let s3 = S3Store::connect(path, config, credentials, patience, transfers).await;
                Kind::S3(Box::new(s3))
            }
            Place::Folder(path) => Kind::Folder(FolderStore::open(path.clone(), transfers).await?),
        };
        Ok(Self {
            kind,
            passphrase: way.passphrase.clone(),
            settings,
        })
    }

    /// Opens the repository and reads its log.
    pub async fn open(&self) -> Result<(Repository, Log), Error> {
        let repository = self.open_alone().await?;
        self.replay(repository).await
    }

    /// Opens the repository, whatever its log says.
    pub async fn open_alone(&self) -> Result<Repository, Error> {
        let store = self.with_patience(OPEN_PATIENCE);
        Repository::open(store, self.passphrase.as_ref()).await
    }

    /// The same; a repository that is not there is made.
    pub(super) async fn open_or_create(&self) -> Result<(Repository, Log), Error> {
        let size = repository::chunk_size(&repository::settings(&self.settings));
        let store = self.with_patience(OPEN_PATIENCE);
        let passphrase = self.passphrase.as_ref();
        let repository = Repository::open_or_create(store, size, passphrase).await?;
        self.replay(repository).await
    }

    /// From here on trouble with the store is waited out.
    async fn replay(&self, repository: Repository) -> Result<(Repository, Log), Error> {
        let repository = repository.through(self.with_patience(JOB_PATIENCE));
        let log = Log::replay(&repository).await?;
        Ok((repository, log))
    }

    fn with_patience(&self, patience: Duration) -> Arc<dyn ObjectStore> {
        match &self.kind {
            Kind::S3(s3) => Arc::new(s3.with_patience(patience)),
            Kind::Folder(folder) => Arc::new(folder.clone()),
        }
    }

    fn objects(&self) -> &dyn ObjectStore {
        match &self.kind {
            Kind::S3(s3) => s3.as_ref(),
            Kind::Folder(folder) => folder,
        }
    }

    pub(super) fn settings(&self) -> ringback_datapath::settings::Settings {
        repository::settings(&self.settings)
    }

    /// Payload bytes sent and received.
    pub fn wire_bytes(&self) -> u64 {
        let meter = self.objects().meter();
        meter.sent() + meter.received()
    }

    /// What has kept requests from success for some seconds.
    pub fn trouble(&self) -> Option<String> {
        self.objects().trouble()
    }

    /// Waits until what was given up has been cleared away.
    pub async fn settle(&self) {
        self.objects().settle().await;
    }
}
