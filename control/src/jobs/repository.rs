//! Reaching the repository that a request names.

use std::{sync::Arc, time::Duration};

use ringback_datapath::{
    chunk::ChunkSize,
    crypt::Passphrase,
    error::Error,
    log::{Committed, Log},
    packer::PackSizes,
    repository::Repository,
    settings::Settings,
    store::{
        SharedCredentials,
        location::{RepositoryPath, StoreConfig},
        s3::S3Store,
    },
};
use tonic::Code;

use crate::{
    config::{Config, DatapathSettings},
    failure::Failure,
};

/// Checks what the configuration has to say about a store, and completes it.
pub fn admit(config: &Config, store: &StoreConfig) -> Result<StoreConfig, Failure> {
    if config.s3.require_verify_tls && !store.verify_tls {
        return Err(Failure::new(
            Code::InvalidArgument,
            "verify_tls is false; this server's configuration (s3.require-verify-tls) wants it \
             true",
        ));
    }
    Ok(StoreConfig {
        region: store.region.clone().or_else(|| config.s3.region.clone()),
        authorities: config.s3.authorities.clone(),
        ..store.clone()
    })
}

/// Prepares a store that gives up after `patience`.
pub async fn connect(
    config: &Config,
    path: &RepositoryPath,
    store: &StoreConfig,
    credentials: &SharedCredentials,
    patience: Duration,
) -> S3Store {
    S3Store::connect(
        path.clone(),
        store,
        credentials.clone(),
        patience,
        config.datapath.parts_in_flight as usize,
    )
    .await
}

/// The backup of this name, if the repository is there and has it.
pub async fn find(
    store: S3Store,
    passphrase: Option<&Passphrase>,
    name: &str,
) -> Result<Option<Committed>, Error> {
    match Repository::open(Arc::new(store), passphrase).await {
        Ok(repository) => Ok(Log::look_up(&repository, name).await?),
        Err(Error::NoRepository { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The data path's settings as configured.
pub fn settings(config: &DatapathSettings) -> Settings {
    let bytes = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    Settings {
        engine: config.io_engine,
        direct: config.direct_io,
        queue_depth: config.queue_depth as usize,
        buffer_bytes: usize::try_from(config.buffer_bytes()).unwrap_or(usize::MAX),
        index_bytes: usize::try_from(config.index_bytes()).unwrap_or(usize::MAX),
        index_cache: config.index_cache.clone(),
        packs_min: config.packs_min,
        data_packs: PackSizes {
            pack_bytes: bytes(config.pack_bytes()),
            part_bytes: bytes(config.part_bytes()),
        },
        transfers_max: config.parts_in_flight as usize,
        compression: config.compression,
        ..Settings::default()
    }
}

/// Chunk size of repositories that are made anew.
pub fn chunk_size(settings: &Settings) -> ChunkSize {
    ChunkSize::new(settings.chunk_bytes).expect("the settings' chunk size is valid")
}
