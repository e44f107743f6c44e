//! How many large transfers may be under way at once.
//!
//! Additive increase, multiplicative decrease: a store that asks us to slow down, or a line on which
//! a transfer does not end in time, halves the limit, at most once a second; every success lets it
//! creep back up by its own fraction.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use aws_sdk_s3::config::{
    ConfigBag, Intercept, RuntimeComponents, interceptors::FinalizerInterceptorContextRef,
};
use aws_smithy_runtime_api::{box_error::BoxError, client::orchestrator::OrchestratorError};
use tokio::sync::Semaphore;

/// One overload makes many requests fail at once; they count as one.
const CUT_INTERVAL: Duration = Duration::from_secs(1);

/// An adaptive limit on concurrency.
#[derive(Debug)]
pub struct Throttle {
    permits: Semaphore,
    max: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limit: f64,
    /// Permits handed out that are to vanish when they come back.
    surplus: usize,
    last_cut: Option<Instant>,
}

/// The right to one transfer.
pub struct Permit(Arc<Throttle>);

impl Throttle {
    /// Begins at `max`, which it never passes.
    pub fn new(max: usize) -> Arc<Self> {
        let max = max.max(1);
        Arc::new(Self {
            permits: Semaphore::new(max),
            max,
            state: Mutex::new(State {
                limit: max as f64,
                surplus: 0,
                last_cut: None,
            }),
        })
    }

    /// The most transfers there ever are at once.
    pub fn max(&self) -> usize {
        self.max
    }

    /// Waits for the right to a transfer.
    pub async fn acquire(self: &Arc<Self>) -> Permit {
        self.permits
            .acquire()
            .await
            .expect("the semaphore is never closed")
            .forget();
        Permit(Arc::clone(self))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, state: &mut State) {
        if state.surplus > 0 {
            state.surplus -= 1;
        } else {
            self.permits.add_permits(1);
        }
    }

    /// Transfers that are allowed at once, for now.
    pub fn limit(&self) -> usize {
        whole(self.state().limit)
    }

    /// Transfers under way.
    pub fn under_way(&self) -> usize {
        let state = self.state();
        let handed_out = whole(state.limit) + state.surplus;
        handed_out.saturating_sub(self.permits.available_permits())
    }

    fn slow_down(&self, now: Instant) {
        let mut state = self.state();
        if state.last_cut.is_some_and(|cut| now - cut < CUT_INTERVAL) {
            return;
        }
        let before = whole(state.limit);
        state.limit = (state.limit / 2.0).max(1.0);
        state.last_cut = Some(now);
        // Idle permits vanish now, those in use when they come back.
        let too_many = before - whole(state.limit);
        state.surplus += too_many - self.permits.forget_permits(too_many);
        tracing::info!(limit = whole(state.limit), "slowing down");
    }

    fn succeeded(&self) {
        let mut state = self.state();
        let before = whole(state.limit);
        state.limit = (state.limit + 1.0 / state.limit).min(self.max as f64);
        if whole(state.limit) > before {
            self.give_back(&mut state);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.0.state();
        self.0.give_back(&mut state);
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "limits lie between 1 and a few hundred"
)]
fn whole(limit: f64) -> usize {
    limit as usize
}

/// Watches every attempt of the SDK, those that it retries by itself too.
#[derive(Debug)]
pub(super) struct Observer(pub(super) Arc<Throttle>);

impl Intercept for Observer {
    fn name(&self) -> &'static str {
        "ringback-throttle"
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let timed_out = context
            .output_or_error()
            .and_then(Result::err)
            .is_some_and(OrchestratorError::is_timeout_error);
        match context
            .response()
            .map(|response| response.status().as_u16())
        {
            Some(429 | 503) => self.0.slow_down(Instant::now()),
            Some(200..300) => self.0.succeeded(),
            _ if timed_out => self.0.slow_down(Instant::now()),
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_down_halves_the_limit_once_and_successes_bring_it_back() {
        let throttle = Throttle::new(8);
        let mut held = Vec::new();
        for _ in 0..6 {
            held.push(throttle.acquire().await);
        }
        let now = Instant::now();
        throttle.slow_down(now);
        throttle.slow_down(now);
        assert_eq!(throttle.permits.available_permits(), 0);
        held.truncate(4);
        assert_eq!(throttle.permits.available_permits(), 0, "4 of 4 in use");
        held.truncate(3);
        assert_eq!(throttle.permits.available_permits(), 1);
        for _ in 0..100 {
            throttle.succeeded();
        }
        held.clear();
        assert_eq!(throttle.permits.available_permits(), 8);
        for seconds in 1..10 {
            throttle.slow_down(now + CUT_INTERVAL * seconds);
        }
        assert_eq!(throttle.permits.available_permits(), 1, "never below one");
    }
}
