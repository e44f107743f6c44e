//! The store of a command: first contact is to be quick, work is to be patient.

use std::{sync::Arc, time::Duration};

use ringback_datapath::{
    error::Error,
    log::Log,
    repository::Repository,
    stages::Occupancy,
    store::{
        ObjectStore, SharedCredentials,
        location::{RepositoryPath, StoreConfig},
        s3::S3Store,
    },
};

use crate::{
    config::DatapathSettings,
    jobs::{JOB_PATIENCE, OPEN_PATIENCE, repository},
};

/// One repository's place in a store, and how work on it is bounded.
#[derive(Clone)]
pub struct Store {
    s3: S3Store,
    settings: DatapathSettings,
}

impl Store {
    /// Prepares to reach a repository.
    pub async fn connect(
        path: &RepositoryPath,
        config: &StoreConfig,
        settings: DatapathSettings,
    ) -> Self {
        let credentials = SharedCredentials::new(config.credentials.clone());
        let transfers = settings.parts_in_flight as usize;
        let patience = OPEN_PATIENCE;
        let s3 = S3Store::connect(path.clone(), config, credentials, patience, transfers).await;
        Self { s3, settings }
    }

    /// Opens the repository and reads its log.
    pub async fn open(&self) -> Result<(Repository, Log), Error> {
        let repository = Repository::open(self.with_patience(OPEN_PATIENCE)).await?;
        self.replay(repository).await
    }

    /// The same; a repository that is not there is made.
    pub(super) async fn open_or_create(&self) -> Result<(Repository, Log), Error> {
        let size = repository::chunk_size(&repository::settings(&self.settings));
        let store = self.with_patience(OPEN_PATIENCE);
        let repository = Repository::open_or_create(store, size).await?;
        self.replay(repository).await
    }

    /// From here on trouble with the store is waited out.
    async fn replay(&self, repository: Repository) -> Result<(Repository, Log), Error> {
        let repository = repository.through(self.with_patience(JOB_PATIENCE));
        let log = Log::replay(&repository).await?;
        Ok((repository, log))
    }

    fn with_patience(&self, patience: Duration) -> Arc<dyn ObjectStore> {
        Arc::new(self.s3.with_patience(patience))
    }

    pub(super) fn settings(&self) -> ringback_datapath::settings::Settings {
        repository::settings(&self.settings)
    }

    /// Payload bytes sent and received.
    pub fn wire_bytes(&self) -> u64 {
        let meter = self.s3.meter();
        meter.sent() + meter.received()
    }

    /// How many transfers are under way, over time.
    pub fn transfers(&self) -> &Occupancy {
        self.s3.throttle().under_way()
    }

    /// What has kept requests from success for some seconds.
    pub fn trouble(&self) -> Option<String> {
        self.s3.trouble()
    }

    /// Waits until what was given up has been cleared away.
    pub async fn settle(&self) {
        self.s3.settle().await;
    }
}
