//! Whose turn it is to change a group, and what there was before.
//!
//! While a command of LVM writes a group, another that reads it waits. Who only tells of the group is not
//! to wait for as long as a slow command takes, and is told what there was before it.

use std::{
    ops::Range,
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
    /// How long one takes that is slow.
    slow: Range<Duration>,
    queue: Arc<Mutex<()>>,
    /// Who waits for news is woken by a report, too.
    state: watch::Sender<State>,
    /// The last report, and when it was asked for.
    known: StdMutex<Option<(Instant, Report)>>,
}

#[derive(Debug, Default, Clone, Copy)]
struct State {
    /// When the turn under way began.
    begun: Option<Instant>,
    /// Whether it makes a volume that will be listed.
    makes_one: bool,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<Turns>,
    _first: OwnedMutexGuard<()>,
}

impl Turns {
    pub(super) fn new(slow: Range<Duration>) -> Arc<Turns> {
        Arc::new(Turns {
            slow,
            queue: Arc::default(),
            state: watch::Sender::default(),
            known: StdMutex::default(),
        })
    }

    /// Waits for it.
    pub(super) async fn take(self: &Arc<Self>) -> Turn {
        let first = Arc::clone(&self.queue).lock_owned().await;
        self.state.send_replace(State {
            begun: Some(Instant::now()),
            makes_one: false,
        });
        Turn {
            turns: Arc::clone(self),
            _first: first,
        }
    }

    /// Says of the turn under way that it makes a volume that will be listed.
    pub(super) fn makes_one(&self) {
        self.state.send_modify(|state| state.makes_one = true);
    }

    /// Remembers a report that was asked for then.
    pub(super) fn remember(&self, asked: Instant, report: &Report) {
        {
            let mut known = self.known();
            if known.as_ref().is_some_and(|(newest, _)| *newest > asked) {
                return;
            }
            *known = Some((asked, report.clone()));
        }
        self.state.send_modify(|_| {});
    }

    /// Whether what there is was asked for in this turn.
    pub(super) fn is_known(&self) -> bool {
        let begun = self.state.borrow().begun;
        let known = self.known();
        let asked = known.as_ref().map(|(asked, _)| *asked);
        begun.is_some_and(|begun| asked >= Some(begun))
    }

    /// Ends when a turn is under way that is slow, with what it found, or has made of that so far, and
    /// whether it makes a volume that will be listed.
    pub(super) async fn before_a_slow_one(&self) -> (Report, bool) {
        let mut news = self.state.subscribe();
        loop {
            let State { begun, makes_one } = *news.borrow_and_update();
            let is_news = match begun {
                Some(begun) => timeout_at(begun + self.slow.start, news.changed())
                    .await
                    .is_ok(),
                None => news.changed().await.is_ok(),
            };
            if is_news {
                continue;
            }
            let known = begun
                .filter(|begun| begun.elapsed() < self.slow.end)
                .and_then(|begun| self.known_since(begun));
            if let Some(report) = known {
                return (report, makes_one);
            }
            let _ = news.changed().await;
        }
    }

    fn known_since(&self, begun: Instant) -> Option<Report> {
        let known = self.known();
        let (asked, report) = known.as_ref()?;
        (*asked >= begun).then(|| report.clone())
    }

    fn known(&self) -> MutexGuard<'_, Option<(Instant, Report)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.state.send_replace(State::default());
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
        let turns = Turns::new(LONG / 50..LONG * 100);
        let is_told = async || timeout(LONG, turns.before_a_slow_one()).await.is_ok();
        turns.remember(Instant::now(), &full());
        assert!(!is_told().await, "nobody changes anything");
        let turn = turns.take().await;
        assert!(
            !turns.is_known() && !is_told().await,
            "it may have changed since"
        );
        turns.remember(Instant::now(), &full());
        assert!(turns.is_known() && is_told().await);
        let told = turns.before_a_slow_one().now_or_never();
        assert_eq!(told, Some((full(), false)), "without waiting again");
        turns.makes_one();
        assert_eq!(turns.before_a_slow_one().await, (full(), true));
        // What was asked for before the turn ended may lack what it did.
        let asked = Instant::now();
        drop(turn);
        let turn = turns.take().await;
        turns.remember(asked, &full());
        assert!(!is_told().await, "nobody knows");
        let known_at_last = async {
            sleep(LONG / 5).await;
            turns.remember(Instant::now(), &full());
        };
        assert!(tokio::join!(is_told(), known_at_last).0);
        drop(turn);
    }

    #[tokio::test]
    async fn an_older_report_does_not_replace_a_newer_one() {
        let turns = Turns::new(Duration::ZERO..LONG * 100);
        let _turn = turns.take().await;
        let (first, mut newer) = (Instant::now(), full());
        newer.rows.clear();
        turns.remember(Instant::now(), &newer);
        turns.remember(first, &full());
        assert_eq!(turns.before_a_slow_one().await, (newer, false));
    }

    #[tokio::test]
    async fn many_short_turns_are_no_slow_one_and_one_that_is_stuck_is_none() {
        let turns = Turns::new(LONG..LONG * 2);
        let short = async {
            for _ in 0..20 {
                let _turn = turns.take().await;
                turns.remember(Instant::now(), &full());
                sleep(LONG / 10).await;
            }
        };
        tokio::select! {
            _ = turns.before_a_slow_one() => panic!("none was slow"),
            () = short => {}
        }
        let _turn = turns.take().await;
        turns.remember(Instant::now(), &full());
        sleep(LONG * 2).await;
        assert_eq!(turns.before_a_slow_one().now_or_never(), None);
    }
}
