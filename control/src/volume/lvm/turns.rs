//! Whose turn it is to change a group, and what there was before.
//!
//! While a command of LVM writes a group, another that reads it waits. Who changes nothing is not to
//! wait for as long as a slow command takes, and is told what there was before it.

use std::{
    sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Mutex, OwnedMutexGuard, watch},
    time::{Instant, timeout_at},
};

use super::report::Report;

/// The turns of a group, one after the other.
#[derive(Debug)]
pub(super) struct Turns {
    /// A turn that takes longer is slow.
    patience: Duration,
    queue: Arc<Mutex<()>>,
    state: watch::Sender<State>,
    /// The last report, and how many turns had ended when it was asked for.
    known: StdMutex<Option<(u64, Report)>>,
}

#[derive(Debug, Default, Clone, Copy)]
struct State {
    ended: u64,
    /// When the turn under way began.
    begun: Option<Instant>,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<Turns>,
    _first: OwnedMutexGuard<()>,
}

impl Turns {
    pub(super) fn new(patience: Duration) -> Arc<Turns> {
        Arc::new(Turns {
            patience,
            queue: Arc::default(),
            state: watch::Sender::default(),
            known: StdMutex::default(),
        })
    }

    /// Waits for it.
    pub(super) async fn take(self: &Arc<Self>) -> Turn {
        let first = Arc::clone(&self.queue).lock_owned().await;
        self.state
            .send_modify(|state| state.begun = Some(Instant::now()));
        Turn {
            turns: Arc::clone(self),
            _first: first,
        }
    }

    /// How many have ended.
    pub(super) fn ended(&self) -> u64 {
        self.state.borrow().ended
    }

    /// Remembers a report that was asked for when so many had ended.
    pub(super) fn remember(&self, ended: u64, report: &Report) {
        *self.known() = Some((ended, report.clone()));
    }

    /// Ends when a turn is under way that is slow, with a report in which all earlier ones are.
    pub(super) async fn before_a_slow_one(&self) -> Report {
        let mut states = self.state.subscribe();
        loop {
            let state = *states.borrow_and_update();
            let next = states.changed();
            let is_over = match state.begun {
                Some(begun) => timeout_at(begun + self.patience, next).await.is_ok(),
                None => next.await.is_ok(),
            };
            if is_over {
                continue;
            }
            if let Some((_, report)) = self.known().as_ref().filter(|it| it.0 == state.ended) {
                return report.clone();
            }
            // Another may begin.
            let _ = states.changed().await;
        }
    }

    fn known(&self) -> MutexGuard<'_, Option<(u64, Report)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.state.send_modify(|state| {
            state.ended += 1;
            state.begun = None;
        });
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::time::{sleep, timeout};

    use super::{super::report::tests::full, *};

    const LONG: Duration = Duration::from_millis(500);

    #[tokio::test]
    async fn what_there_was_before_a_slow_turn_is_told_and_nothing_older() {
        let turns = Turns::new(LONG / 50);
        let is_told = async || timeout(LONG, turns.before_a_slow_one()).await.is_ok();
        turns.remember(turns.ended(), &full());
        assert!(!is_told().await, "nobody changes anything");
        let turn = turns.take().await;
        assert!(is_told().await);
        let told = turns.before_a_slow_one().now_or_never();
        assert_eq!(told, Some(full()), "without waiting again");
        // What was asked for before the turn ended may lack what it did.
        let asked = turns.ended();
        drop(turn);
        turns.remember(asked, &full());
        let turn = turns.take().await;
        assert!(!is_told().await, "nobody knows");
        drop(turn);
        turns.remember(turns.ended(), &full());
        let _turn = turns.take().await;
        assert!(is_told().await);
    }

    #[tokio::test]
    async fn many_short_turns_are_no_slow_one() {
        let turns = Turns::new(LONG);
        let short = async {
            for _ in 0..20 {
                let _turn = turns.take().await;
                turns.remember(turns.ended(), &full());
                sleep(LONG / 10).await;
            }
        };
        tokio::select! {
            _ = turns.before_a_slow_one() => panic!("none was slow"),
            () = short => {}
        }
    }
}
