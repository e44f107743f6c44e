//! Requests that are stopped at an exact moment, so that a test can look at the client, or kill it,
//! just then.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// When a request is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Its head is here and its signature is right; of its body only what the connection buffers.
    /// It is never applied: let go, it is refused as by a store that is too busy.
    Arrived,
    /// It was applied, and its reply is withheld: let go, the reply goes out.
    Applied,
}

/// Which requests are stopped, and when.
#[derive(Clone, Debug)]
pub struct Stop {
    /// By S3 operation name, such as `PutObject`.
    pub operation: String,
    /// Part of the request's path, `/bucket/key`; empty: any.
    pub path_contains: String,
    /// The first of them that is stopped, counted from 1; all later ones are stopped as well.
    pub nth: u64,
    /// When.
    pub moment: Moment,
}

/// While it lives, requests are stopped; dropped, they are let go.
#[derive(Debug)]
#[must_use = "requests are stopped only while this lives"]
pub struct Stopped {
    reached: watch::Receiver<bool>,
    /// Its end is what lets the requests go.
    _hold: watch::Sender<()>,
}

impl Stopped {
    /// Returns when a request is stopped.
    pub async fn reached(&self) {
        let mut reached = self.reached.clone();
        if reached.wait_for(|reached| *reached).await.is_err() {
            // The endpoint is gone: nothing is ever stopped.
            std::future::pending::<()>().await;
        }
    }
}

/// All stops of an endpoint.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stops(Arc<Mutex<Vec<Placed>>>);

#[derive(Debug)]
struct Placed {
    stop: Stop,
    seen: u64,
    reached: watch::Sender<bool>,
    held: watch::Receiver<()>,
}

impl Stops {
    pub(crate) fn place(&self, stop: Stop) -> Stopped {
        let (reached, is_reached) = watch::channel(false);
        let (hold, held) = watch::channel(());
        self.placed().push(Placed {
            stop,
            seen: 0,
            reached,
            held,
        });
        Stopped {
            reached: is_reached,
            _hold: hold,
        }
    }

    /// Waits while a request is stopped at this moment; whether it was.
    pub(crate) async fn wait(&self, moment: Moment, operation: &str, path: &str) -> bool {
        let holds = self.holds(moment, operation, path);
        for mut held in holds.iter().cloned() {
            // Nothing is ever sent: this ends with the hold.
            while held.changed().await.is_ok() {}
        }
        !holds.is_empty()
    }

    fn holds(&self, moment: Moment, operation: &str, path: &str) -> Vec<watch::Receiver<()>> {
        let mut placed = self.placed();
        placed.retain(|it| it.held.has_changed().is_ok());
        let mut holds = Vec::new();
        for it in placed.iter_mut() {
            let stop = &it.stop;
            let fits = stop.moment == moment
                && stop.operation == operation
                && path.contains(&stop.path_contains);
            it.seen += u64::from(fits);
            if fits && it.seen >= stop.nth {
                it.reached.send_replace(true);
                holds.push(it.held.clone());
            }
        }
        holds
    }

    fn placed(&self) -> MutexGuard<'_, Vec<Placed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
