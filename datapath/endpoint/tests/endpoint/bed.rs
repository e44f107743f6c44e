//! An endpoint with a client and a bucket, on either backing.

use std::path::Path;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, RequestChecksumCalculation};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectError;
use ringback_endpoint::{Backing, Endpoint, Options};
use tempfile::TempDir;

/// The bucket that every bed has.
pub(crate) const BUCKET: &str = "bucket";

/// The least length of a part that is not the last.
pub(crate) const PART_LEN: usize = 5 * 1024 * 1024;

pub(crate) struct Bed {
    pub(crate) endpoint: Endpoint,
    pub(crate) client: Client,
    folder: Option<TempDir>,
}

impl Bed {
    pub(crate) async fn memory() -> Self {
        Self::new(None).await
    }

    pub(crate) async fn folder() -> Self {
        Self::new(Some(tempfile::tempdir().unwrap())).await
    }

    async fn new(folder: Option<TempDir>) -> Self {
        let endpoint = match &folder {
            None => start(Backing::Memory).await,
            Some(folder) => start(Backing::Folder(folder.path().to_owned())).await,
        };
        Self {
            client: client(&endpoint),
            endpoint,
            folder,
        }
    }

    /// How many bodies and parts the folder backing has lying about.
    pub(crate) fn partial_count(&self) -> usize {
        self.folder
            .as_ref()
            .map_or(0, |folder| partial_count(folder.path()))
    }

    pub(crate) async fn put(&self, key: &str, bytes: impl Into<Vec<u8>>) {
        self.client
            .put_object()
            .bucket(BUCKET)
            .key(key)
            .body(bytes.into().into())
            .send()
            .await
            .unwrap();
    }

    pub(crate) async fn get(&self, key: &str) -> Option<Vec<u8>> {
        get(&self.client, key).await
    }
}

pub(crate) async fn start(backing: Backing) -> Endpoint {
    Endpoint::start(Options {
        buckets: vec![BUCKET.to_owned()],
        backing,
        ..Options::default()
    })
    .await
    .unwrap()
}

/// The object's bytes, or `None` if there is no such object.
pub(crate) async fn get(client: &Client, key: &str) -> Option<Vec<u8>> {
    match client.get_object().bucket(BUCKET).key(key).send().await {
        Ok(reply) => Some(reply.body.collect().await.unwrap().to_vec()),
        Err(error) => {
            assert!(
                matches!(error.as_service_error(), Some(GetObjectError::NoSuchKey(_))),
                "{error:?}"
            );
            None
        }
    }
}

pub(crate) fn partial_count(folder: &Path) -> usize {
    folder.join(".partial").read_dir().unwrap().count()
}

pub(crate) fn client(endpoint: &Endpoint) -> Client {
    client_with(
        endpoint,
        endpoint.secret_access_key(),
        RequestChecksumCalculation::WhenRequired,
    )
}

/// A client that computes digests by itself, as the SDK does unless told otherwise.
pub(crate) fn digesting_client(endpoint: &Endpoint) -> Client {
    client_with(
        endpoint,
        endpoint.secret_access_key(),
        RequestChecksumCalculation::WhenSupported,
    )
}

/// A client that tries everything once.
pub(crate) fn client_with(
    endpoint: &Endpoint,
    secret: &str,
    checksums: RequestChecksumCalculation,
) -> Client {
    let credentials = Credentials::new(endpoint.access_key_id(), secret, None, None, "test");
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .endpoint_url(endpoint.url())
        .force_path_style(true)
        .region(Region::new("us-east-1"))
        .credentials_provider(credentials)
        .request_checksum_calculation(checksums)
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::disabled())
        .build();
    Client::from_conf(config)
}

/// Status and error code of a request that must fail.
pub(crate) fn refusal<T, E>(outcome: Result<T, SdkError<E>>) -> (u16, String)
where
    T: std::fmt::Debug,
    E: ProvideErrorMetadata + std::fmt::Debug,
{
    let error = outcome.expect_err("the request must be refused");
    let status = error
        .raw_response()
        .map_or(0, |reply| reply.status().as_u16());
    let code = error
        .as_service_error()
        .and_then(ProvideErrorMetadata::code)
        .unwrap_or_default();
    (status, code.to_owned())
}

/// The status and code that a test expects.
pub(crate) fn reply(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

/// Bytes that differ from place to place.
pub(crate) fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..=250)
        .cycle()
        .map(|byte| byte ^ seed)
        .take(len)
        .collect()
}

/// Waits until that many requests have come in.
pub(crate) async fn wait_for(endpoint: &Endpoint, operation: &str, requests: u64) {
    while endpoint.counters().requests(operation) < requests {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Waits until no request of that kind is under way, when there has been one.
pub(crate) async fn wait_until_idle(endpoint: &Endpoint, operation: &str) {
    while endpoint.counters().operations[operation].active > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Makes of each function a test on memory and a test on a folder.
macro_rules! on_both_backings {
    ($(async fn $name:ident($bed:ident: &Bed) $body:block)*) => {$(
        async fn $name($bed: &$crate::bed::Bed) $body

        mod $name {
            use crate::bed::Bed;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn in_memory() {
                super::$name(&Bed::memory().await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn in_a_folder() {
                super::$name(&Bed::folder().await).await;
            }
        }
    )*};
}
pub(crate) use on_both_backings;
