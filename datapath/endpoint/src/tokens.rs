//! The session token that is let in, if one is wanted.

use std::sync::{Arc, Mutex, PoisonError};

use s3s::{S3Error, S3ErrorCode, S3Result};

/// What a request must carry beside its signature.
#[derive(Clone, Default)]
pub(crate) struct Tokens(Arc<Mutex<Option<Wanted>>>);

struct Wanted {
    token: String,
    refusal: &'static str,
}

impl Tokens {
    pub(crate) fn want(&self, token: String, refusal: &'static str) {
        let mut wanted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *wanted = Some(Wanted { token, refusal });
    }

    pub(crate) fn check(&self, sent: Option<&str>) -> S3Result<()> {
        let wanted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*wanted {
            Some(Wanted { token, refusal }) if sent != Some(token) => {
                let code = S3ErrorCode::from_bytes(refusal.as_bytes());
                let code = code.unwrap_or(S3ErrorCode::AccessDenied);
                Err(S3Error::with_message(code, "This token is not let in."))
            }
            _ => Ok(()),
        }
    }
}
