//! Waiting for tasks, and for what would block the threads that wait for the network.

use tokio::{
    sync::watch,
    task::{JoinError, spawn_blocking},
};

use crate::error::Error;

/// What a task came to. One that panicked, or was cancelled because the runtime ends, has failed.
pub(crate) fn joined<T>(ended: Result<T, JoinError>) -> Result<T, Error> {
    ended.map_err(|error| Error::System {
        what: "finish a task",
        source: error.into(),
    })
}

/// Carries out, on a thread for such things, what computes or waits for the system.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    joined(spawn_blocking(work).await)
}

/// Ends when all senders are gone: each is held by somebody who has a file open.
pub(crate) async fn let_go(mut open: watch::Receiver<()>) {
    while open.changed().await.is_ok() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_or_is_cancelled_is_an_error_and_no_panic_of_ours() {
        let panicked = blocking(|| panic!("planned")).await;
        assert!(matches!(panicked, Err::<(), _>(Error::System { .. })));
        let task = tokio::spawn(std::future::pending::<()>());
        task.abort();
        assert!(matches!(joined(task.await), Err(Error::System { .. })));
    }
}
