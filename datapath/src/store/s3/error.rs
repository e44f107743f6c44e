//! The SDK's errors as ours.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::{super::StoreError, S3Store, retry::is_transient};

/// Texts of errors that say nothing that their causes do not say better.
const EMPTY_TEXTS: [&str; 9] = [
    "an unknown error occurred",
    "connector error",
    "dispatch failure",
    "io error",
    "other",
    "request has timed out",
    "response error",
    "timeout",
    "user error",
];

/// Where credentials come from when a request brings none.
const CHAIN: &str = "none were given, and there are none in the environment (AWS_ACCESS_KEY_ID), the \
                     profile (~/.aws), the container's or the instance's role";

/// Who may have aborted an upload of ours.
const ABORTED: &str = "(another backup of this volume to this repository aborted the upload, or a rule \
                       of the bucket did)";

impl S3Store {
    /// What a request for `object` came to.
    pub(super) fn error<E>(&self, object: &str, error: &SdkError<E, HttpResponse>) -> StoreError
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        let endpoint = self.endpoint.clone();
        let object = self.key(object);
        let Some(response) = error.raw_response() else {
            if self.signer.waits() {
                return StoreError::Denied {
                    object,
                    endpoint,
                    code: "the session token has expired, and no other came in time".to_owned(),
                };
            }
            return match find_cause(error) {
                Some(CredentialsError::CredentialsNotLoaded(_)) => StoreError::NoCredentials {
                    endpoint,
                    reason: CHAIN.to_owned(),
                },
                Some(error @ CredentialsError::InvalidConfiguration(_)) => {
                    StoreError::NoCredentials {
                        endpoint,
                        reason: causes(error),
                    }
                }
                _ => StoreError::Unreachable {
                    endpoint,
                    reason: causes(error),
                },
            };
        };
        let status = response.status().as_u16();
        let code = error.code().unwrap_or_default();
        let reason = [code, error.message().unwrap_or_default()]
            .into_iter()
            .filter(|text| !text.is_empty())
            .fold(format!("status {status}"), |reason, text| {
                format!("{reason} {text}")
            });
        match (status, code) {
            (_, "NoSuchBucket") => StoreError::NoBucket {
                bucket: self.bucket().to_owned(),
                endpoint,
            },
            // That is no lost object.
            (404, "NoSuchUpload") => StoreError::Refused {
                object,
                endpoint,
                reason: format!("{reason} {ABORTED}"),
            },
            (404, _) => StoreError::NotFound { object },
            (401 | 403, _) | (_, "ExpiredToken" | "InvalidToken" | "InvalidAccessKeyId") => {
                StoreError::Denied {
                    object,
                    endpoint,
                    code: if code.is_empty() {
                        status.to_string()
                    } else {
                        code.to_owned()
                    },
                }
            }
            (416, _) => StoreError::TooShort { object },
            _ if is_transient(status, code) => StoreError::Unreachable { endpoint, reason },
            _ => StoreError::Refused {
                object,
                endpoint,
                reason,
            },
        }
    }
}

/// An error and its causes, each once, without those that say nothing.
pub(super) fn causes(error: &dyn Error) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let own = error.to_string();
        if !EMPTY_TEXTS.contains(&own.as_str()) && !text.contains(&own) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&own);
        }
        next = error.source();
    }
    text
}

/// The cause of this type, if there is one.
pub(super) fn find_cause<'a, T: Error + 'static>(
    error: &'a (dyn Error + 'static),
) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}
