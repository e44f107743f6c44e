//! How a job is told to end before its work is done.

use tokio::sync::watch;

use crate::error::Error;

/// Tells jobs to end. Clones tell the same jobs.
#[derive(Debug, Clone)]
pub struct Stop(watch::Sender<Wish>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Wish {
    GoOn,
    WindUp,
    Halt,
}

impl Default for Stop {
    fn default() -> Self {
        Self(watch::Sender::new(Wish::GoOn))
    }
}

impl Stop {
    /// Asks for the end at the next point that a later run can go on from.
    pub fn wind_up(&self) {
        self.wish(Wish::WindUp);
    }

    /// Asks for the end at once.
    pub fn halt(&self) {
        self.wish(Wish::Halt);
    }

    /// Whether the end was asked for, one way or the other.
    pub fn is_asked(&self) -> bool {
        *self.0.borrow() > Wish::GoOn
    }

    /// Does `work`, unless the end is asked for first, one way or the other.
    pub async fn unless_asked<T, E: From<Error>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        tokio::select! {
            biased;
            () = self.wished(Wish::WindUp) => Err(Error::Stopped.into()),
            done = work => done,
        }
    }

    /// Does `work`, unless the end is asked for at once.
    pub async fn unless_halted<T, E: From<Error>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        tokio::select! {
            biased;
            () = self.wished(Wish::Halt) => Err(Error::Stopped.into()),
            done = work => done,
        }
    }

    fn wish(&self, wish: Wish) {
        self.0.send_if_modified(|before| {
            let more = *before < wish;
            *before = wish.max(*before);
            more
        });
    }

    async fn wished(&self, wish: Wish) {
        // An error means that the sender is gone, and `self` is one.
        let _ = self.0.subscribe().wait_for(|now| *now >= wish).await;
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn who_winds_up_is_not_halted_and_a_halt_is_never_taken_back() {
        let stop = Stop::default();
        stop.wind_up();
        let done: Result<u8, Error> = stop.unless_halted(async { Ok(1) }).await;
        assert!(matches!(done, Ok(1)));
        let asked: Result<(), Error> = stop.unless_asked(pending()).await;
        assert!(matches!(asked, Err(Error::Stopped)));
        stop.halt();
        stop.wind_up();
        let halted: Result<(), Error> = stop.unless_halted(pending()).await;
        assert!(matches!(halted, Err(Error::Stopped)));
    }
}
