//! What is asked again, for how long, and what is remembered of the attempts.
//!
//! The SDK's standard retries do the asking. What may pass is asked again as long as the store's
//! *patience* lasts; the error then names the last failure that was seen, not only that time ran
//! out. A large upload that makes its way over a slow line may take longer than that: what counts
//! against the patience is trouble.

use std::{
    error::Error,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::{
    ConfigBag, Intercept, RuntimeComponents,
    interceptors::{BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextMut},
    timeout::TimeoutConfig,
};
use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        interceptors::context::{Error as OperationError, InterceptorContext},
        orchestrator::{HttpResponse, OrchestratorError},
        retries::classifiers::{ClassifyRetry, RetryAction, RetryClassifierPriority},
    },
};
use aws_smithy_types::config_bag::{Storable, StoreReplace};

use super::{
    super::reach::Reach,
    error::{causes, find_cause},
};

/// A store answers a small request within this time, or the request is made again, on another
/// connection: longer than connections stay idle, so that no other dead one is taken for it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Some stores copy all parts before they answer.
const COMPLETION_TIMEOUT: Duration = Duration::from_secs(180);
/// A slower line is no line.
const BYTES_PER_SECOND_MIN: u64 = 64 << 10;

/// The SDK starts its clock a moment before we start ours.
const TIMER_SLACK: Duration = Duration::from_millis(100);

/// Time limits of a request that sends so many bytes: `patience`, and what they take on a slow
/// line. They end what hangs; trouble is ended by a [`Witness`].
pub(super) fn timeouts(patience: Duration, bytes: u64) -> TimeoutConfig {
    let transfer = Duration::from_secs(bytes / BYTES_PER_SECOND_MIN);
    TimeoutConfig::builder()
        .operation_timeout(patience + transfer)
        .operation_attempt_timeout(ANSWER_TIMEOUT.min(patience) + transfer)
        .build()
}

/// Time limits of a CompleteMultipartUpload.
pub(super) fn completion_timeouts(patience: Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .operation_timeout(patience)
        .operation_attempt_timeout(COMPLETION_TIMEOUT.min(patience))
        .build()
}

/// Whether an answer may be another the next time. The SDK by itself knows only the commonest.
pub(super) fn is_transient(status: u16, code: &str) -> bool {
    match code {
        // A body that came in damaged or cut.
        "BadDigest" | "XAmzContentChecksumMismatch" | "IncompleteBody" | "RequestTimeout"
        // These may come with status 200, or 409.
        | "InternalError" | "SlowDown" | "ServiceUnavailable" | "OperationAborted" => true,
        // 501 and 505: the server lacks something.
        _ => matches!(status, 408 | 429 | 500..=599) && !matches!(status, 501 | 505),
    }
}

/// Whether a provider of credentials may have some the next time it is asked.
fn is_passing(error: &CredentialsError) -> bool {
    !matches!(
        error,
        CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_)
    )
}

/// Whether the same request may fare better the next time.
fn may_pass(error: &OrchestratorError<OperationError>, response: Option<&HttpResponse>) -> bool {
    if error.is_timeout_error() || error.is_response_error() {
        return true;
    }
    if let Some(error) = error.as_connector_error() {
        return error.is_io() || error.is_timeout();
    }
    match response {
        Some(response) => is_transient(response.status().as_u16(), Answer::of(response).code),
        None => find_cause::<CredentialsError>(error).is_some_and(is_passing),
    }
}

/// Has the SDK retry what [`may_pass`], until a [`Witness`] has given up.
#[derive(Debug)]
pub(super) struct Classifier;

impl ClassifyRetry for Classifier {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        match context.output_or_error() {
            Some(Err(error)) if find_cause::<GaveUp>(error).is_some() => {
                RetryAction::RetryForbidden
            }
            Some(Err(error)) if may_pass(error, context.response()) => {
                RetryAction::transient_error()
            }
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "ringback-transient"
    }

    fn priority(&self) -> RetryClassifierPriority {
        RetryClassifierPriority::run_after(RetryClassifierPriority::http_status_code_classifier())
    }
}

/// What an answer's XML says of an error; empty where there is none.
pub(super) struct Answer<'a> {
    status: u16,
    pub(super) code: &'a str,
    message: &'a str,
}

impl<'a> Answer<'a> {
    /// Looks at the text alone: which operation's error it is does not matter here.
    pub(super) fn of(response: &'a HttpResponse) -> Self {
        let body = response.body().bytes().unwrap_or_default();
        let body = std::str::from_utf8(body).unwrap_or_default();
        let error = body.find("<Error>").map_or("", |start| &body[start..]);
        Self {
            status: response.status().as_u16(),
            code: element(error, "<Code>", "</Code>"),
            message: element(error, "<Message>", "</Message>"),
        }
    }
}

fn element<'a>(xml: &'a str, opening: &str, closing: &str) -> &'a str {
    xml.split_once(opening)
        .and_then(|(_, rest)| rest.split_once(closing))
        .map_or("", |(content, _)| content)
}

impl fmt::Display for Answer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}", self.status)?;
        for text in [self.code, self.message] {
            if !text.is_empty() {
                write!(f, " {text}")?;
            }
        }
        Ok(())
    }
}

/// Remembers how the attempts of an operation failed, and gives up when the patience is over.
#[derive(Debug)]
pub(super) struct Witness {
    pub(super) patience: Duration,
    pub(super) reach: Arc<Reach>,
}

/// The attempts of one operation.
#[derive(Debug, Clone)]
struct Attempts {
    first: Instant,
    latest: Instant,
    count: u32,
    last_failure: Option<String>,
}

impl Storable for Attempts {
    type Storer = StoreReplace<Self>;
}

/// The end of an operation that was tried in vain.
#[derive(Debug)]
struct GaveUp(Attempts);

impl fmt::Display for GaveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Attempts {
            first,
            count,
            last_failure,
            ..
        } = &self.0;
        let failure = last_failure.as_deref().unwrap_or("no answer");
        let seconds = first.elapsed().as_secs_f32();
        write!(f, "{failure} (tried {count} times in {seconds:.0} s)")
    }
}

impl Error for GaveUp {}

impl Intercept for Witness {
    fn name(&self) -> &'static str {
        "ringback-witness"
    }

    fn read_before_attempt(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let now = Instant::now();
        let before = config.load::<Attempts>();
        let attempts = Attempts {
            first: before.map_or(now, |it| it.first),
            latest: now,
            count: before.map_or(0, |it| it.count) + 1,
            last_failure: before.and_then(|it| it.last_failure.clone()),
        };
        config.interceptor_state().store_put(attempts);
        Ok(())
    }

    fn modify_before_attempt_completion(
        &self,
        context: &mut FinalizerInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let Some(mut attempts) = config.load::<Attempts>().cloned() else {
            return Ok(());
        };
        let limit = config
            .load::<TimeoutConfig>()
            .and_then(TimeoutConfig::operation_attempt_timeout);
        let Some(failure) = failure_of(context, attempts.latest.elapsed(), limit) else {
            if context.response().is_some() {
                self.reach.answered();
            }
            return Ok(());
        };
        tracing::debug!(attempt = attempts.count, failure, "a request failed");
        attempts.last_failure = Some(failure);
        config.interceptor_state().store_put(attempts.clone());
        let passes = match context.output_or_error() {
            Some(Err(error)) => may_pass(error, context.response()),
            _ => false,
        };
        if passes {
            self.reach
                .failed(attempts.last_failure.as_deref().unwrap_or_default());
        } else {
            self.reach.answered();
        }
        if passes
            && attempts.first.elapsed() >= self.patience
            && let Some(outcome) = context.output_or_error_mut()
        {
            *outcome = Err(OrchestratorError::timeout(GaveUp(attempts).into()));
        }
        Ok(())
    }

    fn modify_before_completion(
        &self,
        context: &mut FinalizerInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(Err(error)) = context.output_or_error_mut()
            && error.is_timeout_error()
            && find_cause::<GaveUp>(error).is_none()
            && let Some(attempts) = config.load::<Attempts>()
        {
            *error = OrchestratorError::timeout(GaveUp(attempts.clone()).into());
        }
        Ok(())
    }
}

/// How an attempt of this duration failed; `None` when it did not, or when the operation's end cut
/// it off, which says nothing about it.
fn failure_of(
    context: &FinalizerInterceptorContextMut<'_>,
    waited: Duration,
    limit: Option<Duration>,
) -> Option<String> {
    let error = context.output_or_error()?.err()?;
    match context.response() {
        Some(response) if error.is_operation_error() => Some(Answer::of(response).to_string()),
        _ if error.is_timeout_error() => limit
            .is_some_and(|limit| waited + TIMER_SLACK >= limit)
            .then(|| format!("no answer for {:.0} s", waited.as_secs_f32())),
        _ => Some(causes(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_request_is_made_again_soon_and_a_large_one_has_time_for_a_slow_line() {
        let limits = |patience, bytes| {
            let timeouts = timeouts(Duration::from_secs(patience), bytes);
            let seconds = |limit: Option<Duration>| limit.expect("set").as_secs();
            let attempt = seconds(timeouts.operation_attempt_timeout());
            (attempt, seconds(timeouts.operation_timeout()))
        };
        assert_eq!(limits(900, 0), (30, 900));
        assert_eq!(limits(900, 1000), (30, 900));
        assert_eq!(limits(900, 8 << 20), (158, 1028));
        assert_eq!(limits(900, 128 << 20), (2078, 2948));
        assert_eq!(limits(5, 0), (5, 5));
    }

    #[test]
    fn a_provider_of_credentials_that_is_slow_is_asked_again_and_one_without_any_is_not() {
        let passing = CredentialsError::provider_timed_out(Duration::from_secs(5));
        assert!(is_passing(&passing));
        assert!(is_passing(&CredentialsError::provider_error("status 500")));
        assert!(!is_passing(&CredentialsError::not_loaded("nowhere")));
        assert!(!is_passing(&CredentialsError::invalid_configuration("odd")));
    }

    #[test]
    fn damage_on_the_way_and_errors_of_the_moment_are_asked_again_and_refusals_are_not() {
        for (status, code) in [
            (400, "BadDigest"),
            (400, "IncompleteBody"),
            (400, "RequestTimeout"),
            (200, "InternalError"),
            (409, "OperationAborted"),
            (503, "SlowDown"),
            (429, ""),
            (520, ""),
        ] {
            assert!(is_transient(status, code), "{status} {code}");
        }
        for (status, code) in [
            (400, "InvalidArgument"),
            (400, "ExpiredToken"),
            (403, "AccessDenied"),
            (404, "NoSuchKey"),
            (412, "PreconditionFailed"),
            (501, "NotImplemented"),
        ] {
            assert!(!is_transient(status, code), "{status} {code}");
        }
    }
}
