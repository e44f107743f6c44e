//! SIGINT and SIGTERM: the first lets a command clear away what it left, the second ends it at
//! once.

use std::{future::Future, pin::pin, process, time::Duration};

use ringback_datapath::stop::Stop;
use tokio::time::timeout;

use super::{
    exit::{CliError, Exit},
    serve::told_to_stop,
};
use crate::direct::store::Store;

/// How long what was interrupted may take to end by itself.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// Carries out `work`. On a signal it is told to `stop`, and removes what it made here and began at
/// the store; work that does not end then is dropped.
pub(crate) async fn unless_interrupted<T>(
    store: &Store,
    stop: &Stop,
    work: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    let mut work = pin!(work);
    let result = tokio::select! {
        result = &mut work => result,
        () = told_to_stop() => {
            stop.halt();
            let again = told_to_stop();
            tokio::spawn(async move {
                again.await;
                process::exit(Exit::Interrupted as i32);
            });
            match timeout(END_PATIENCE, work).await {
                // It was at its end.
                Ok(Ok(done)) => Ok(done),
                Ok(Err(_)) | Err(_) => Err(CliError::new(Exit::Interrupted, "interrupted")),
            }
        }
    };
    store.settle().await;
    result
}
