//! Calls on a filesystem, which block: each takes a thread of its own, and there are so many at
//! once.
//!
//! The server behind a mount may be silent for ever, and a call to it does not return before the
//! server does. It keeps its thread; whoever waits for it can stop waiting.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::Semaphore,
    task::{JoinError, spawn_blocking},
};
use tokio_util::task::TaskTracker;

/// A disk that wakes up takes less.
const LONG: Duration = Duration::from_secs(15);

/// See the module. Clones share the threads.
#[derive(Clone)]
pub(super) struct Calls {
    permits: Arc<Semaphore>,
    under_way: Arc<Mutex<BTreeSet<(Instant, u64)>>>,
    /// Nothing is settled while a call is under way, whether somebody waits for it or not.
    background: TaskTracker,
}

impl Calls {
    pub(super) fn new(calls_max: usize, background: TaskTracker) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(calls_max)),
            under_way: Arc::default(),
            background,
        }
    }

    /// Makes a call. One that nobody waits for any more is made all the same.
    pub(super) async fn make<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        let token = self.background.token();
        let under_way = UnderWay::begin(&self.under_way);
        spawn_blocking(move || {
            // Dropped in this order: when `background` is empty, no call is under way.
            let _held = (under_way, permit, token);
            call()
        })
        .await
    }

    /// `a call has not returned for 42 s`; `None` when none takes long.
    pub(super) fn trouble(&self) -> Option<String> {
        let (begun, _) = *lock(&self.under_way).first()?;
        let lasted = begun.elapsed();
        (lasted >= LONG).then(|| {
            let seconds = lasted.as_secs();
            format!("a call to the filesystem has not returned for {seconds} s")
        })
    }
}

type Begun = Mutex<BTreeSet<(Instant, u64)>>;

fn lock(begun: &Begun) -> MutexGuard<'_, BTreeSet<(Instant, u64)>> {
    begun.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A call that has begun and not returned.
struct UnderWay {
    begun: Arc<Begun>,
    this: (Instant, u64),
}

impl UnderWay {
    fn begin(begun: &Arc<Begun>) -> Self {
        let mut calls = lock(begun);
        let mut this = (Instant::now(), 0);
        while !calls.insert(this) {
            this.1 += 1;
        }
        drop(calls);
        Self {
            begun: Arc::clone(begun),
            this,
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        lock(&self.begun).remove(&self.this);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::time::timeout;

    use super::*;

    /// A call that does not return, as one to a server that is silent, keeps to its own thread.
    #[tokio::test]
    async fn calls_that_do_not_return_hold_up_neither_the_runtime_nor_more_threads_than_they_may() {
        let background = TaskTracker::new();
        background.close();
        let calls = Calls::new(2, background.clone());
        let mut ends = Vec::new();
        for _ in 0..2 {
            let (end, ended) = mpsc::channel::<()>();
            ends.push(end);
            let silent = calls.make(move || ended.recv());
            let given_up = timeout(Duration::from_millis(20), silent).await;
            assert!(given_up.is_err(), "who waits can stop waiting");
        }
        let third = calls.make(|| ());
        let waits = timeout(Duration::from_millis(50), third).await;
        assert!(waits.is_err(), "it has no thread");
        assert_eq!(lock(&calls.under_way).len(), 2);
        assert_eq!(calls.trouble(), None, "not for long");
        assert!(!background.is_empty());

        ends.clear();
        calls.make(|| ()).await.expect("it has its turn");
        timeout(Duration::from_secs(10), background.wait())
            .await
            .expect("all have returned");
        assert!(lock(&calls.under_way).is_empty());
    }

    #[test]
    fn a_call_that_takes_long_is_told_of() {
        let background = TaskTracker::new();
        let calls = Calls::new(1, background);
        let begun = Instant::now().checked_sub(LONG).expect("after boot");
        lock(&calls.under_way).insert((begun, 0));
        let told = calls.trouble().expect("told");
        assert!(told.starts_with("a call to the filesystem has not returned for 15 s"));
    }
}
