//! A GET that is taken up again where it broke.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use aws_sdk_s3::{operation::get_object::GetObjectOutput, primitives::ByteStream};
use bytes::Bytes;

use super::{
    super::{Download, StoreError},
    S3Store,
    error::causes,
};

/// A download that brings nothing for so long is begun again where it stands.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Before a download that broke again without progress is taken up; doubled each time.
const BREAK_WAIT: Duration = Duration::from_millis(100);
/// The longest of these waits.
const BREAK_WAIT_MAX: Duration = Duration::from_secs(10);
/// An object that seems too short is asked for so often: answers are cut on the way, too.
const SHORT_TRIES: u32 = 3;

/// See the module.
pub(super) struct RangeDownload {
    store: S3Store,
    object: String,
    position: u64,
    /// `None`: up to the object's end, which the first answer tells.
    end: Option<u64>,
    body: Option<ByteStream>,
    breaks: Breaks,
}

/// Breaks since a byte came in.
#[derive(Default)]
struct Breaks {
    count: u32,
    since: Option<Instant>,
    /// How many of them were answers for an object that seems too short.
    short: u32,
}

impl RangeDownload {
    pub(super) fn new(store: &S3Store, object: &str, range: Option<(u64, u64)>) -> Self {
        Self {
            store: store.clone(),
            object: object.to_owned(),
            position: range.map_or(0, |(start, _)| start),
            end: range.map(|(_, end)| end),
            body: None,
            breaks: Breaks::default(),
        }
    }

    /// Asks for what is left. Afterwards there is a body, unless the answer was no good and is
    /// worth another request.
    pub(super) async fn open(&mut self) -> Result<(), StoreError> {
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
                return self.is_short(end, &answer).await;
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

    /// An answer with fewer bytes than asked for: either the object has no more, or it was cut.
    async fn is_short(&mut self, end: u64, answer: &GetObjectOutput) -> Result<(), StoreError> {
        let object_bytes = answer
            .content_range()
            .and_then(|range| range.rsplit_once('/')?.1.parse::<u64>().ok());
        if object_bytes.is_none_or(|bytes| bytes < end) {
            self.breaks.short += 1;
            if self.breaks.short >= SHORT_TRIES {
                return Err(StoreError::TooShort {
                    object: self.store.key(&self.object),
                });
            }
        }
        self.broke("the answer is shorter than what was asked for")
            .await
    }

    fn refused(&self, reason: String) -> StoreError {
        StoreError::Refused {
            object: self.store.key(&self.object),
            endpoint: self.store.endpoint.clone(),
            reason,
        }
    }

    /// Waits a little and lets the next piece come from a new request, as long as the store's
    /// patience lasts.
    async fn broke(&mut self, reason: &str) -> Result<(), StoreError> {
        self.body = None;
        self.breaks.count += 1;
        let count = self.breaks.count;
        let since = *self.breaks.since.get_or_insert_with(Instant::now);
        tracing::debug!(
            object = self.object,
            position = self.position,
            reason,
            "a download broke"
        );
        if since.elapsed() >= self.store.patience {
            return Err(StoreError::Unreachable {
                endpoint: self.store.endpoint.clone(),
                reason: format!("a download broke off {count} times: {reason}"),
            });
        }
        if count > 1 {
            let wait = BREAK_WAIT.saturating_mul(1 << (count - 2).min(10));
            tokio::time::sleep(wait.min(BREAK_WAIT_MAX)).await;
        }
        Ok(())
    }
}

#[async_trait]
impl Download for RangeDownload {
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        let stall = STALL_TIMEOUT.min(self.store.patience);
        loop {
            if self.end == Some(self.position) {
                return Ok(None);
            }
            let Some(body) = &mut self.body else {
                self.open().await?;
                continue;
            };
            match tokio::time::timeout(stall, body.next()).await {
                Ok(Some(Ok(piece))) => {
                    let left = self.end.map_or(u64::MAX, |end| end - self.position);
                    let len = piece.len() as u64;
                    if len > left {
                        return Err(self.refused("the answer is longer than announced".into()));
                    }
                    self.position += len;
                    self.breaks = Breaks::default();
                    self.store.meter.add_received(len);
                    return Ok(Some(piece));
                }
                Ok(Some(Err(error))) => self.broke(&causes(&error)).await?,
                Ok(None) if self.end.is_none() => return Ok(None),
                Ok(None) => self.broke("the answer ended early").await?,
                Err(_) => self.broke(&format!("nothing came for {stall:?}")).await?,
            }
        }
    }
}
