//! Multipart uploads: parts in any order, an end that may be asked for twice, and giving up.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use aws_sdk_s3::{
    Config,
    error::{ProvideErrorMetadata, SdkError},
    operation::abort_multipart_upload::AbortMultipartUploadError,
    primitives::ByteStream,
    types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart},
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::{
    super::{Payload, StoreError, Upload},
    S3Store,
    error::causes,
    retry::{completion_timeouts, timeouts},
};

/// How long the abort of an upload is tried: what it saves is room, and a lifecycle rule saves it
/// too.
const ABORT_PATIENCE: Duration = Duration::from_secs(30);

type AbortError = SdkError<AbortMultipartUploadError, HttpResponse>;

pub(super) struct MultipartUpload {
    store: S3Store,
    object: String,
    upload_id: String,
    /// By their numbers: of one that was sent again the last counts.
    parts: Mutex<BTreeMap<i32, CompletedPart>>,
}

impl MultipartUpload {
    pub(super) async fn begin(store: &S3Store, object: &str) -> Result<Self, StoreError> {
        let begun = store
            .client
            .create_multipart_upload()
            .bucket(store.bucket())
            .key(store.key(object))
            .checksum_algorithm(ChecksumAlgorithm::Crc32C)
            .send()
            .await
            .map_err(|error| store.error(object, &error))?;
        let upload_id = begun.upload_id.ok_or_else(|| StoreError::Refused {
            object: store.key(object),
            endpoint: store.endpoint.clone(),
            reason: "the answer to CreateMultipartUpload has no upload id".into(),
        })?;
        Ok(Self {
            store: store.clone(),
            object: object.to_owned(),
            upload_id,
            parts: Mutex::default(),
        })
    }

    /// Length of the object, when there is one.
    async fn object_bytes(&self) -> Result<Option<u64>, StoreError> {
        let head = self
            .store
            .client
            .head_object()
            .bucket(self.store.bucket())
            .key(self.store.key(&self.object))
            .send()
            .await;
        match head.map_err(|error| self.store.error(&self.object, &error)) {
            Ok(head) => Ok(head.content_length.and_then(|len| u64::try_from(len).ok())),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
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
            .customize()
            .config_override(self.store.limits_for(bytes))
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
            .insert(number, part);
        Ok(())
    }

    async fn complete(&self, bytes: u64) -> Result<(), StoreError> {
        let parts = self
            .parts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect();
        let limits = Config::builder().timeout_config(completion_timeouts(self.store.patience));
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
            .customize()
            .config_override(limits)
            .send()
            .await;
        let Err(error) = completed else {
            return Ok(());
        };
        // The answer to an attempt that succeeded may have been lost; the name is random, so an
        // object of this length under it is ours. Whoever cannot look, cannot say that it is not.
        if error.code() == Some("NoSuchUpload") && self.object_bytes().await? == Some(bytes) {
            return Ok(());
        }
        Err(self.store.error(&self.object, &error))
    }

    async fn abort(&self) {
        let key = self.store.key(&self.object);
        match self.store.abort(&key, &self.upload_id).await {
            Ok(()) => {}
            // Completed, or aborted by an attempt whose answer was lost.
            Err(error) if error.code() == Some("NoSuchUpload") => {}
            Err(error) => tracing::warn!(
                object = self.object,
                error = causes(&error),
                "an unfinished upload stays behind; a lifecycle rule can remove it"
            ),
        }
    }
}

impl S3Store {
    /// Ends all uploads below `prefix`; how many.
    pub(super) async fn abandon(&self, prefix: &str) -> Result<usize, StoreError> {
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
        let limits = Config::builder().timeout_config(timeouts(ABORT_PATIENCE, 0));
        self.client
            .abort_multipart_upload()
            .bucket(self.bucket())
            .key(key)
            .upload_id(upload_id)
            .customize()
            .config_override(limits)
            .send()
            .await
            .map(drop)
    }
}
