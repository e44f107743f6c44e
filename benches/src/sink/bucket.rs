//! A minimal client of a bucket: signed URLs, and what is done with them.
//!
//! The SDK signs, a blocking client moves the bytes: nothing is hashed, summed or copied for the
//! sake of a layer in between. That is what makes the raw limit a limit.

use std::{io::Read, path::Path, sync::Arc, time::Duration};

use aws_sdk_s3::{
    Client, Config,
    config::{
        BehaviorVersion, Credentials, Region, RequestChecksumCalculation,
        ResponseChecksumValidation,
    },
    presigning::{PresignedRequest, PresigningConfig},
};
use ringback_datapath::store::{
    Authorities, Listed, ObjectStore, SharedCredentials, StoreError,
    location::{self, Endpoint, RepositoryPath, Secret, StoreConfig},
    s3::S3Store,
};
use tokio::runtime::{self, Runtime};
use ureq::Agent;

use super::Address;
use crate::error::{Error, Located};

/// How long a signed URL is good for.
const URL_LIFETIME: Duration = Duration::from_hours(12);
/// How long a listing is tried.
const LIST_PATIENCE: Duration = Duration::from_secs(10);

/// A bucket, seen by a client that does as little as possible. Clones share connections.
#[derive(Clone)]
pub struct Bucket {
    address: Arc<Address>,
    signer: Client,
    agent: Agent,
    /// Signing is a matter of the SDK, which is asynchronous.
    runtime: Arc<Runtime>,
}

impl Bucket {
    /// Prepares to reach the bucket; nothing is sent yet.
    pub fn at(address: &Address) -> Result<Self, Error> {
        let credentials = Credentials::new(
            &address.access_key_id,
            &address.secret_access_key,
            None,
            None,
            "bench",
        );
        let config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(&address.url)
            .force_path_style(true)
            .region(Region::new(address.region.clone()))
            .credentials_provider(credentials)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .build();
        let agent = Agent::config_builder()
            .max_idle_connections_per_host(64)
            .build()
            .new_agent();
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .at("start", Path::new("threads"))?;
        Ok(Self {
            address: Arc::new(address.clone()),
            signer: Client::from_conf(config),
            agent,
            runtime: Arc::new(runtime),
        })
    }

    /// Stores an object.
    pub fn put(&self, key: &str, bytes: &[u8]) -> Result<(), Error> {
        let request = self.signer.put_object().bucket(&self.address.bucket);
        let signed = self.sign(request.key(key).presigned(lifetime()))?;
        let mut call = self.agent.put(signed.uri());
        for (name, value) in signed.headers() {
            call = call.header(name, value);
        }
        call.send(bytes).map_err(failed)?;
        Ok(())
    }

    /// Reads bytes `start..start + buffer.len()` of an object.
    pub fn get(&self, key: &str, start: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let request = self.signer.get_object().bucket(&self.address.bucket);
        let signed = self.sign(request.key(key).presigned(lifetime()))?;
        let last = start + buffer.len() as u64 - 1;
        let call = self.agent.get(signed.uri());
        let answer = call.header("range", format!("bytes={start}-{last}")).call();
        let mut body = answer.map_err(failed)?.into_body().into_reader();
        body.read_exact(buffer).map_err(failed)
    }

    /// What lies below a prefix, or in the whole bucket; names are those behind the prefix.
    pub fn list(&self, prefix: &str) -> Result<Vec<Listed>, Error> {
        self.ask(prefix, async |store| store.list("", None).await)
    }

    /// Aborts the uploads below a prefix that nobody has finished.
    pub fn abandon_uploads(&self, prefix: &str) -> Result<(), Error> {
        let abandoned = self.ask(prefix, async |store| store.abandon_uploads("").await);
        abandoned.map(drop)
    }

    /// Has ringback's own client ask.
    fn ask<T>(
        &self,
        prefix: &str,
        question: impl AsyncFnOnce(S3Store) -> Result<T, StoreError>,
    ) -> Result<T, Error> {
        let Address {
            url,
            bucket,
            region,
            access_key_id,
            secret_access_key,
        } = &*self.address;
        let whole = format!("{bucket}/{prefix}");
        let path = RepositoryPath::parse(whole.trim_end_matches('/')).map_err(failed)?;
        let credentials = location::Credentials::Static {
            access_key_id: Secret::new(access_key_id.clone()),
            secret_access_key: Secret::new(secret_access_key.clone()),
            session_token: None,
        };
        let config = StoreConfig {
            endpoint: Endpoint::parse(url).map_err(failed)?,
            region: Some(region.clone()),
            verify_tls: true,
            authorities: Authorities::default(),
            http_proxy: None,
            https_proxy: None,
            credentials: credentials.clone(),
        };
        let shared = SharedCredentials::new(credentials);
        let answer = async {
            let store = S3Store::connect(path, &config, shared, LIST_PATIENCE, 1).await;
            question(store).await
        };
        self.runtime.block_on(answer).map_err(failed)
    }

    /// Removes an object.
    pub fn delete(&self, key: &str) -> Result<(), Error> {
        let request = self.signer.delete_object().bucket(&self.address.bucket);
        let signed = self.sign(request.key(key).presigned(lifetime()))?;
        self.agent.delete(signed.uri()).call().map_err(failed)?;
        Ok(())
    }

    fn sign<E: std::error::Error>(
        &self,
        presigning: impl Future<Output = Result<PresignedRequest, E>>,
    ) -> Result<PresignedRequest, Error> {
        self.runtime.block_on(presigning).map_err(failed)
    }
}

fn lifetime() -> PresigningConfig {
    PresigningConfig::expires_in(URL_LIFETIME).expect("less than a week")
}

fn failed(error: impl std::error::Error) -> Error {
    // The SDK's own text says only which layer failed.
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        text = format!("{text}: {deeper}");
        cause = deeper.source();
    }
    Error::Store(text)
}
