//! Whether a store answers at present, for whoever waits for a job that retries.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Shorter trouble is not worth a word: a retry mends it.
const SHORT: Duration = Duration::from_secs(5);

/// What became of the requests made last, all clients of one store together.
#[derive(Debug, Default)]
pub(super) struct Reach(Mutex<Option<Failing>>);

/// No request has succeeded since.
#[derive(Debug)]
struct Failing {
    since: Instant,
    latest: String,
}

impl Reach {
    /// An answer came, whatever it says.
    pub(super) fn answered(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A request failed in a way that is worth another try.
    pub(super) fn failed(&self, why: &str) {
        let mut failing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = failing.as_ref().map_or_else(Instant::now, |it| it.since);
        *failing = Some(Failing {
            since,
            latest: why.to_owned(),
        });
    }

    /// `no success for 42 s: the connection was refused`; `None` when there is nothing to tell.
    pub(super) fn trouble(&self) -> Option<String> {
        let failing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Failing { since, latest } = failing.as_ref()?;
        let lasted = since.elapsed();
        (lasted >= SHORT).then(|| format!("no success for {} s: {latest}", lasted.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_told_when_it_lasts_and_is_over_with_the_first_answer() {
        let reach = Reach::default();
        reach.failed("reset");
        assert_eq!(reach.trouble(), None);
        let begun = Instant::now().checked_sub(SHORT).expect("after boot");
        reach
            .0
            .lock()
            .expect("lock")
            .as_mut()
            .expect("failing")
            .since = begun;
        reach.failed("refused");
        let told = reach.trouble().expect("lasting");
        assert!(told.ends_with(" s: refused"), "{told}");
        reach.answered();
        assert_eq!(reach.trouble(), None);
    }
}
