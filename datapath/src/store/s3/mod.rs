//! S3 through the AWS SDK.
//!
//! Bodies are signed UNSIGNED-PAYLOAD and carry a CRC32C of our own, so that no byte is hashed
//! twice and every part is still checked end to end. The SDK's standard retries run without its
//! token bucket; what bounds them is the operation's time limit, the store's *patience*.
//!
//! [`retry`] says what is asked again, [`renewal`] what becomes of tokens that expire, [`error`] what a failure is called, [`download`] and
//! [`upload`] move the large objects.

mod download;
mod error;
mod renewal;
mod retry;
mod upload;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_sdk_s3::{
    Client, Config,
    config::{
        BehaviorVersion, IdentityCache, Region, RequestChecksumCalculation,
        ResponseChecksumValidation, StalledStreamProtectionConfig, retry::RetryConfig,
    },
    primitives::ByteStream,
};
use aws_smithy_runtime::client::retries::{RetryPartition, TokenBucket};
use bytes::Bytes;
use tokio_util::task::TaskTracker;

use self::{
    download::RangeDownload,
    renewal::{Renewal, Signer},
    retry::{Classifier, Witness, timeouts},
    upload::MultipartUpload,
};
use super::{
    Download, Listed, Meter, ObjectStore, Payload, PutNew, StoreError, Throttle, Upload, connector,
    credentials::SharedCredentials,
    location::{Endpoint, RepositoryPath, StoreConfig},
    reach::Reach,
    region,
    throttle::Observer,
    whole,
};

/// An S3 bucket and prefix.
#[derive(Clone)]
pub struct S3Store {
    client: Client,
    /// What is the same for every patience.
    impatient: Config,
    path: RepositoryPath,
    endpoint: String,
    signer: Signer,
    meter: Arc<Meter>,
    reach: Arc<Reach>,
    throttle: Arc<Throttle>,
    patience: Duration,
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
        let connector = connector::to_store(config);
        let throttle = Throttle::new(transfers_max);
        let region = match &config.region {
            Some(region) => region.clone(),
            None => region::find(&path, config, &connector).await,
        };
        let signer = Signer::new(credentials, config, &region);
        let mut builder = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(connector::http_client(connector))
            .region(Region::new(region.clone()))
            .credentials_provider(signer.provider())
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
            .retry_classifier(Classifier)
            .interceptor(Renewal(signer.clone()))
            .interceptor(Observer(Arc::clone(&throttle)));
        if let Some(endpoint) = &config.endpoint {
            builder = builder.endpoint_url(endpoint.as_url());
        }
        let impatient = builder.build();
        let reach = Arc::default();
        let background = TaskTracker::new();
        background.close();
        Self {
            client: patient_client(&impatient, patience, &reach),
            impatient,
            endpoint: config
                .endpoint
                .as_ref()
                .map_or_else(|| format!("AWS in {region}"), Endpoint::as_url),
            path,
            signer,
            meter: Arc::default(),
            reach,
            throttle,
            patience,
            background,
        }
    }

    /// The same store with another patience.
    pub fn with_patience(&self, patience: Duration) -> Self {
        Self {
            client: patient_client(&self.impatient, patience, &self.reach),
            patience,
            ..self.clone()
        }
    }

    fn key(&self, object: &str) -> String {
        self.path.key(object)
    }

    fn bucket(&self) -> &str {
        self.path.bucket()
    }

    /// Time limits of a request that sends so many bytes.
    fn limits_for(&self, bytes: u64) -> aws_sdk_s3::config::Builder {
        Config::builder().timeout_config(timeouts(self.patience, bytes))
    }
}

fn patient_client(config: &Config, patience: Duration, reach: &Arc<Reach>) -> Client {
    let witness = Witness {
        patience,
        reach: Arc::clone(reach),
    };
    let builder = config.to_builder();
    let builder = builder.timeout_config(timeouts(patience, 0));
    Client::from_conf(builder.interceptor(witness).build())
}

#[async_trait]
impl ObjectStore for S3Store {
    async fn get(&self, object: &str) -> Result<Bytes, StoreError> {
        let download = RangeDownload::new(self, object, None);
        whole(download, || self.key(object)).await
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
            .customize()
            .config_override(self.limits_for(bytes))
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

    async fn delete(&self, object: &str) -> Result<(), StoreError> {
        let sent = self
            .client
            .delete_object()
            .bucket(self.bucket())
            .key(self.key(object))
            .send()
            .await;
        match sent.map_err(|error| self.error(object, &error)) {
            Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn upload(&self, object: &str, _part_bytes: u64) -> Result<Arc<dyn Upload>, StoreError> {
        Ok(Arc::new(MultipartUpload::begin(self, object).await?))
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
        self.abandon(prefix).await
    }

    fn background(&self) -> &TaskTracker {
        &self.background
    }

    fn meter(&self) -> &Meter {
        &self.meter
    }

    fn trouble(&self) -> Option<String> {
        self.reach.trouble()
    }

    fn throttle(&self) -> &Arc<Throttle> {
        &self.throttle
    }

    fn describe(&self) -> String {
        format!("{} at {}", self.path, self.endpoint)
    }
}
