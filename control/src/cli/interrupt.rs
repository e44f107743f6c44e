//! SIGINT and SIGTERM: the first lets a command clear away what it left, the second ends it at
//! once.

use std::{future::Future, process};

use super::{
    exit::{CliError, Exit},
    serve::told_to_stop,
};
use crate::direct::store::Store;

/// Carries out `work`; on a signal it is dropped, which removes what it made here, and what it
/// began at the store is given up.
pub(crate) async fn unless_interrupted<T>(
    store: &Store,
    work: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    let stop = told_to_stop();
    let result = tokio::select! {
        result = work => result,
        () = stop => {
            let again = told_to_stop();
            tokio::spawn(async move {
                again.await;
                process::exit(Exit::Interrupted as i32);
            });
            Err(CliError::new(Exit::Interrupted, "interrupted"))
        }
    };
    store.settle().await;
    result
}
