//! S3 through the AWS SDK.
//!
//! Bodies are signed UNSIGNED-PAYLOAD and carry a CRC32C of our own, so that no byte is hashed
//! twice and every part is still checked end to end. The SDK's standard retries run without its
//! token bucket; what bounds them is the operation's time limit, the store's *patience*.

use std::{
    error::Error,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::{
    Client,
    config::{
        BehaviorVersion, IdentityCache, Region, RequestChecksumCalculation,
        ResponseChecksumValidation, StalledStreamProtectionConfig, retry::RetryConfig,
        timeout::TimeoutConfig,
    },
    error::{ProvideErrorMetadata, SdkError},
    operation::abort_multipart_upload::AbortMultipartUploadError,
    primitives::ByteStream,
    types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart},
};
use aws_smithy_runtime::client::retries::{
    RetryPartition, TokenBucket, classifiers::HttpStatusCodeClassifier,
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use tokio_util::task::TaskTracker;

use super::{
    Download, Listed, Meter, ObjectStore, Payload, PutNew, StoreError, Throttle, Upload, connector,
    credentials::SharedCredentials,
    location::{Endpoint, RepositoryPath, StoreConfig},
    region,
    throttle::Observer,
};

/// Time for one attempt: an 8 MiB part over 64 KiB/s, with room.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(180);
/// How long the abort of an upload is tried: what it saves is room, and a lifecycle rule saves it too.
const ABORT_PATIENCE: Duration = Duration::from_secs(30);
/// A download that brings nothing for so long is begun again where it stands.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// So many breaks of one download without progress are too many.
const BREAKS_MAX: u32 = 8;
/// Before a download that broke again without progress is taken up; doubled each time.
const BREAK_WAIT: Duration = Duration::from_millis(100);
/// Objects fetched whole are far smaller. What is not, is none of ours and shall not fill the memory.
const WHOLE_BYTES_MAX: usize = 256 << 20;

type AbortError = SdkError<AbortMultipartUploadError, HttpResponse>;

/// An S3 bucket and prefix.
#[derive(Clone)]
pub struct S3Store {
    client: Client,
    path: RepositoryPath,
    endpoint: String,
    meter: Arc<Meter>,
    throttle: Arc<Throttle>,
    /// Closed from the start: it can be waited for at any time, and takes tasks all the same.
    background: TaskTracker,
}

impl S3Store {
    /// Prepares to reach the repository; nothing is sent yet, except what finding credentials
    /// and region takes.
    ///
    /// `patience` bounds how long one operation is retried, `transfers_max` how many large
    /// transfers run at once.
    pub async fn connect(
        path: RepositoryPath,
        config: &StoreConfig,
        credentials: SharedCredentials,
        patience: Duration,
        transfers_max: usize,
    ) -> Self {
        let connector = connector::connector(config);
        let throttle = Throttle::new(transfers_max);
        let region = match &config.region {
            Some(region) => region.clone(),
            None => region::find(&path, config, &connector).await,
        };
        let http_client = connector::http_client(connector);
        let mut builder = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(http_client.clone())
            .region(Region::new(region.clone()))
            .credentials_provider(credentials.provider(&http_client, &region).await)
            .identity_cache(IdentityCache::no_cache())
            .force_path_style(config.endpoint.is_some())
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .retry_config(
                RetryConfig::standard()
                    .with_max_attempts(u32::MAX)
                    .with_initial_backoff(Duration::from_millis(100))
                    .with_max_backoff(Duration::from_secs(10)),
            )
            .retry_partition(
                RetryPartition::custom("ringback")
                    .token_bucket(TokenBucket::unlimited())
                    .build(),
            )
            .retry_classifier(HttpStatusCodeClassifier::new_from_codes(
                transient_statuses(),
            ))
            .timeout_config(timeouts(patience))
            .interceptor(Observer(Arc::clone(&throttle)));
        if let Some(endpoint) = &config.endpoint {
            builder = builder.endpoint_url(endpoint.as_url());
        }
        let background = TaskTracker::new();
        background.close();
        Self {
            client: Client::from_conf(builder.build()),
            endpoint: config
                .endpoint
                .as_ref()
                .map_or_else(|| format!("AWS in {region}"), Endpoint::as_url),
            path,
            meter: Arc::default(),
            throttle,
            background,
        }
    }

    /// The same store with another patience.
    pub fn with_patience(&self, patience: Duration) -> Self {
        let config = self
            .client
            .config()
            .to_builder()
            .timeout_config(timeouts(patience))
            .build();
        Self {
            client: Client::from_conf(config),
            ..self.clone()
        }
    }

    fn key(&self, object: &str) -> String {
        self.path.key(object)
    }

    fn bucket(&self) -> &str {
        self.path.bucket()
    }

    /// Keys and ids of the multipart uploads under way below `prefix`.
    async fn list_uploads(&self, prefix: &str) -> Result<Vec<(String, String)>, StoreError> {
        let mut uploads = Vec::new();
        let (mut after_key, mut after_id) = (None, None);
        loop {
            let page = self
                .client
                .list_multipart_uploads()
                .bucket(self.bucket())
                .prefix(self.key(prefix))
                .set_key_marker(after_key)
                .set_upload_id_marker(after_id)
                .send()
                .await
                .map_err(|error| self.error(prefix, &error))?;
            let found = page.uploads.into_iter().flatten();
            uploads.extend(found.filter_map(|upload| Some((upload.key?, upload.upload_id?))));
            // A page that names no next one is the last, whatever else it says.
            if !page.is_truncated.unwrap_or(false) || page.next_key_marker.is_none() {
                return Ok(uploads);
            }
            (after_key, after_id) = (page.next_key_marker, page.next_upload_id_marker);
        }
    }

    async fn abort(&self, key: &str, upload_id: &str) -> Result<(), AbortError> {
        let patience = aws_sdk_s3::Config::builder().timeout_config(timeouts(ABORT_PATIENCE));
        self.client
            .abort_multipart_upload()
            .bucket(self.bucket())
            .key(key)
            .upload_id(upload_id)
            .customize()
            .config_override(patience)
            .send()
            .await
            .map(drop)
    }

    fn error<E>(&self, object: &str, error: &SdkError<E, HttpResponse>) -> StoreError
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        let endpoint = self.endpoint.clone();
        let object = self.key(object);
        let status = error.raw_response().map(|raw| raw.status().as_u16());
        let (code, message) = (
            error.code().unwrap_or_default().to_owned(),
            error.message().unwrap_or_default().to_owned(),
        );
        if let Some(reason) = missing_credentials(error) {
            return StoreError::NoCredentials { endpoint, reason };
        }
        let Some(status) = status else {
            return StoreError::Unreachable {
                endpoint,
                reason: chain(error),
            };
        };
        match (status, code.as_str()) {
            (_, "NoSuchBucket") => StoreError::NoBucket {
                bucket: self.bucket().to_owned(),
                endpoint,
            },
            // An upload that somebody else has aborted, a lifecycle rule perhaps, is no lost object.
            (404, code) if code != "NoSuchUpload" => StoreError::NotFound { object },
            (401 | 403, _) | (_, "ExpiredToken" | "InvalidToken" | "InvalidAccessKeyId") => {
                StoreError::Denied {
                    object,
                    endpoint,
                    code: if code.is_empty() {
                        status.to_string()
                    } else {
                        code
                    },
                }
            }
            (416, _) => StoreError::TooShort { object },
            _ if is_transient(status) => StoreError::Unreachable {
                endpoint,
                reason: format!("status {status} {code} {message}")
                    .trim_end()
                    .to_owned(),
            },
            _ => StoreError::Refused {
                object,
                endpoint,
                reason: format!("status {status} {code} {message}")
                    .trim_end()
                    .to_owned(),
            },
        }
    }
}

/// Answers that may be others the next time. The SDK by itself retries only the commonest.
fn is_transient(status: u16) -> bool {
    // 501 and 505: the server lacks something.
    matches!(status, 408 | 429 | 500..=599) && !matches!(status, 501 | 505)
}

fn transient_statuses() -> Vec<u16> {
    (400..600).filter(|&status| is_transient(status)).collect()
}

fn timeouts(patience: Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .operation_timeout(patience)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT.min(patience))
        .build()
}

/// Why there are no credentials, if it is that; in one line.
fn missing_credentials(error: &(dyn Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        match error.downcast_ref::<CredentialsError>() {
            Some(
                CredentialsError::CredentialsNotLoaded(_)
                | CredentialsError::InvalidConfiguration(_),
            ) => {
                let reason = chain(error);
                return reason.lines().next().map(str::to_owned);
            }
            _ => cause = error.source(),
        }
    }
    None
}

/// An error and its causes, each once.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[async_trait]
impl ObjectStore for S3Store {
    async fn get(&self, object: &str) -> Result<Bytes, StoreError> {
        let mut download = RangeDownload::new(self, object, None);
        let mut whole = BytesMut::new();
        while let Some(piece) = download.next().await? {
            if whole.len() + piece.len() > WHOLE_BYTES_MAX {
                return Err(download.refused(format!("it has over {WHOLE_BYTES_MAX} bytes")));
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }

    async fn get_range(
        &self,
        object: &str,
        start: u64,
        end: u64,
    ) -> Result<Box<dyn Download>, StoreError> {
        let mut download = RangeDownload::new(self, object, Some((start, end)));
        if start < end {
            download.open().await?;
        }
        Ok(Box::new(download))
    }

    async fn size(&self, object: &str) -> Result<u64, StoreError> {
        let head = self
            .client
            .head_object()
            .bucket(self.bucket())
            .key(self.key(object))
            .send()
            .await
            .map_err(|error| self.error(object, &error))?;
        let length = head.content_length.and_then(|len| u64::try_from(len).ok());
        length.ok_or_else(|| StoreError::Refused {
            object: self.key(object),
            endpoint: self.endpoint.clone(),
            reason: "the answer to HeadObject has no length".into(),
        })
    }

    async fn put(&self, object: &str, payload: Payload) -> Result<(), StoreError> {
        let bytes = payload.len();
        let content_length = i64::try_from(bytes).expect("an object is smaller than 8 EiB");
        self.client
            .put_object()
            .bucket(self.bucket())
            .key(self.key(object))
            .checksum_crc32_c(payload.crc32c())
            .content_length(content_length)
            .body(ByteStream::new(payload.into_body()))
            .send()
            .await
            .map_err(|error| self.error(object, &error))?;
        self.meter.add_sent(bytes);
        Ok(())
    }

    async fn put_new(&self, object: &str, bytes: Bytes) -> Result<PutNew, StoreError> {
        let len = bytes.len() as u64;
        let payload = Payload::from(bytes);
        let sent = self
            .client
            .put_object()
            .bucket(self.bucket())
            .key(self.key(object))
            .if_none_match("*")
            .checksum_crc32_c(payload.crc32c())
            .body(ByteStream::new(payload.into_body()))
            .send()
            .await;
        match sent {
            Ok(_) => {
                self.meter.add_sent(len);
                Ok(PutNew::Created)
            }
            Err(error) => match error.raw_response().map(|raw| raw.status().as_u16()) {
                // 409: another conditional PUT of this name was under way at the same time.
                Some(409 | 412) => Ok(PutNew::Exists),
                _ => Err(self.error(object, &error)),
            },
        }
    }

    async fn upload(&self, object: &str) -> Result<Arc<dyn Upload>, StoreError> {
        let begun = self
            .client
            .create_multipart_upload()
            .bucket(self.bucket())
            .key(self.key(object))
            .checksum_algorithm(ChecksumAlgorithm::Crc32C)
            .send()
            .await
            .map_err(|error| self.error(object, &error))?;
        let upload_id = begun.upload_id.ok_or_else(|| StoreError::Refused {
            object: self.key(object),
            endpoint: self.endpoint.clone(),
            reason: "the answer to CreateMultipartUpload has no upload id".into(),
        })?;
        Ok(Arc::new(MultipartUpload {
            store: self.clone(),
            object: object.to_owned(),
            upload_id,
            parts: Mutex::default(),
        }))
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<Listed>, StoreError> {
        let root = self.key("");
        let mut pages = self
            .client
            .list_objects_v2()
            .bucket(self.bucket())
            .prefix(self.key(prefix))
            .set_start_after(after.map(|object| self.key(object)))
            .into_paginator()
            .send();
        let mut listed = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| self.error(prefix, &error))?;
            listed.extend(page.contents.into_iter().flatten().filter_map(|item| {
                Some(Listed {
                    name: item.key?.strip_prefix(&root)?.to_owned(),
                    bytes: u64::try_from(item.size?).ok()?,
                })
            }));
        }
        Ok(listed)
    }

    async fn abandon_uploads(&self, prefix: &str) -> Result<usize, StoreError> {
        let mut abandoned = 0;
        for (key, upload_id) in self.list_uploads(prefix).await? {
            match self.abort(&key, &upload_id).await {
                Ok(()) => abandoned += 1,
                // Its owner has ended it in the meantime.
                Err(error) if error.code() == Some("NoSuchUpload") => {}
                Err(error) => return Err(self.error(prefix, &error)),
            }
        }
        Ok(abandoned)
    }

    fn tidy(&self, task: BoxFuture<'static, ()>) {
        self.background.spawn(task);
    }

    async fn settle(&self) {
        self.background.wait().await;
    }

    fn meter(&self) -> &Meter {
        &self.meter
    }

    fn throttle(&self) -> &Arc<Throttle> {
        &self.throttle
    }

    fn describe(&self) -> String {
        format!("{} at {}", self.path, self.endpoint)
    }
}

/// A GET that is taken up again where it broke.
struct RangeDownload {
    store: S3Store,
    object: String,
    position: u64,
    /// `None`: up to the object's end, which the first answer tells.
    end: Option<u64>,
    body: Option<ByteStream>,
    breaks: u32,
}

impl RangeDownload {
    fn new(store: &S3Store, object: &str, range: Option<(u64, u64)>) -> Self {
        Self {
            store: store.clone(),
            object: object.to_owned(),
            position: range.map_or(0, |(start, _)| start),
            end: range.map(|(_, end)| end),
            body: None,
            breaks: 0,
        }
    }

    async fn open(&mut self) -> Result<(), StoreError> {
        let range = match self.end {
            Some(end) => Some(format!("bytes={}-{}", self.position, end - 1)),
            None if self.position > 0 => Some(format!("bytes={}-", self.position)),
            None => None,
        };
        let answer = self
            .store
            .client
            .get_object()
            .bucket(self.store.bucket())
            .key(self.store.key(&self.object))
            .set_range(range)
            .send()
            .await
            .map_err(|error| self.store.error(&self.object, &error))?;
        let length = answer
            .content_length
            .and_then(|len| u64::try_from(len).ok());
        match (self.end, length) {
            (None, Some(length)) => self.end = Some(self.position + length),
            (Some(end), Some(length)) if length < end - self.position => {
                return Err(StoreError::TooShort {
                    object: self.store.key(&self.object),
                });
            }
            (Some(end), Some(length)) if length > end - self.position => {
                return Err(self.refused(format!(
                    "asked for {} bytes, the answer has {length}",
                    end - self.position
                )));
            }
            _ => {}
        }
        self.body = Some(answer.body);
        Ok(())
    }

    fn refused(&self, reason: String) -> StoreError {
        StoreError::Refused {
            object: self.store.key(&self.object),
            endpoint: self.store.endpoint.clone(),
            reason,
        }
    }

    /// Waits a little and lets the next piece come from a new request, unless that was in vain too
    /// often.
    async fn broke(&mut self, reason: &str) -> Result<(), StoreError> {
        self.body = None;
        self.breaks += 1;
        tracing::debug!(
            object = self.object,
            position = self.position,
            reason,
            "a download broke"
        );
        if self.breaks > BREAKS_MAX {
            return Err(StoreError::Unreachable {
                endpoint: self.store.endpoint.clone(),
                reason: format!("a download broke off {} times: {reason}", self.breaks),
            });
        }
        if self.breaks > 1 {
            tokio::time::sleep(BREAK_WAIT * 2u32.pow(self.breaks - 2)).await;
        }
        Ok(())
    }
}

#[async_trait]
impl Download for RangeDownload {
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        loop {
            if self.end == Some(self.position) {
                return Ok(None);
            }
            let Some(body) = &mut self.body else {
                self.open().await?;
                continue;
            };
            match tokio::time::timeout(STALL_TIMEOUT, body.next()).await {
                Ok(Some(Ok(piece))) => {
                    let left = self.end.map_or(u64::MAX, |end| end - self.position);
                    let len = piece.len() as u64;
                    if len > left {
                        return Err(self.refused("the answer is longer than announced".into()));
                    }
                    self.position += len;
                    self.breaks = 0;
                    self.store.meter.add_received(len);
                    return Ok(Some(piece));
                }
                Ok(Some(Err(error))) => self.broke(&chain(&error)).await?,
                Ok(None) if self.end.is_none() => return Ok(None),
                Ok(None) => self.broke("the answer ended early").await?,
                Err(_) => {
                    self.broke(&format!("nothing came for {STALL_TIMEOUT:?}"))
                        .await?;
                }
            }
        }
    }
}

struct MultipartUpload {
    store: S3Store,
    object: String,
    upload_id: String,
    parts: Mutex<Vec<CompletedPart>>,
}

#[async_trait]
impl Upload for MultipartUpload {
    async fn part(&self, number: i32, payload: Payload) -> Result<(), StoreError> {
        let bytes = payload.len();
        let content_length = i64::try_from(bytes).expect("a part is smaller than 8 EiB");
        let crc32c = payload.crc32c();
        let sent = self
            .store
            .client
            .upload_part()
            .bucket(self.store.bucket())
            .key(self.store.key(&self.object))
            .upload_id(&self.upload_id)
            .part_number(number)
            .checksum_crc32_c(&crc32c)
            .content_length(content_length)
            .body(ByteStream::new(payload.into_body()))
            .send()
            .await
            .map_err(|error| self.store.error(&self.object, &error))?;
        self.store.meter.add_sent(bytes);
        // A store that does not echo the checksum did not keep it; naming it in Complete would
        // be refused.
        let part = CompletedPart::builder()
            .part_number(number)
            .set_e_tag(sent.e_tag)
            .set_checksum_crc32_c(sent.checksum_crc32_c.map(|_| crc32c))
            .build();
        self.parts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(part);
        Ok(())
    }

    async fn complete(&self, bytes: u64) -> Result<(), StoreError> {
        let mut parts = self
            .parts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        parts.sort_by_key(|part| part.part_number);
        let completed = self
            .store
            .client
            .complete_multipart_upload()
            .bucket(self.store.bucket())
            .key(self.store.key(&self.object))
            .upload_id(&self.upload_id)
            .multipart_upload(
                CompletedMultipartUpload::builder()
                    .set_parts(Some(parts))
                    .build(),
            )
            .send()
            .await;
        match completed {
            Ok(_) => Ok(()),
            // The answer to an attempt that succeeded may have been lost; the name is random, so
            // an object of this length under it is ours.
            Err(error) if error.code() == Some("NoSuchUpload") && self.is_there(bytes).await => {
                Ok(())
            }
            Err(error) => Err(self.store.error(&self.object, &error)),
        }
    }

    async fn abort(&self) {
        let key = self.store.key(&self.object);
        match self.store.abort(&key, &self.upload_id).await {
            Ok(()) => {}
            // Completed, or aborted by an attempt whose answer was lost.
            Err(error) if error.code() == Some("NoSuchUpload") => {}
            Err(error) => tracing::warn!(
                object = self.object,
                error = chain(&error),
                "an unfinished upload stays behind; a lifecycle rule can remove it"
            ),
        }
    }
}

impl MultipartUpload {
    async fn is_there(&self, bytes: u64) -> bool {
        let head = self
            .store
            .client
            .head_object()
            .bucket(self.store.bucket())
            .key(self.store.key(&self.object))
            .send()
            .await;
        head.is_ok_and(|head| {
            head.content_length.and_then(|len| u64::try_from(len).ok()) == Some(bytes)
        })
    }
}
