//! SIGINT, SIGTERM and SIGHUP let a command clear away what it left; SIGINT or SIGTERM after that ends it at
//! once.

use std::{future::Future, pin::pin, process, time::Duration};

use ringback_datapath::stop::Stop;
use tokio::time::timeout;

use super::{
    Context,
    exit::{CliError, Exit},
    serve::{told_by_somebody, told_to_stop},
};
use crate::direct::store::Store;

/// How long what was interrupted may take to end by itself.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// Carries out `work`. On a signal it is told to `stop`, and removes what it made here and began at
/// the store; work that does not end then is dropped. `interrupted` says what became of it, also when a
/// second signal ends the process.
pub(crate) async fn unless_interrupted<T>(
    context: &Context,
    store: &Store,
    stop: &Stop,
    interrupted: impl Fn() -> CliError + Clone + Send + 'static,
    work: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    let mut work = pin!(work);
    tokio::select! {
        result = &mut work => {
            tokio::select! {
                () = store.settle() => {}
                // What a failure left at the store, the next run finds.
                () = told_to_stop() => {}
            }
            result
        }
        () = told_to_stop() => {
            end_at_signal(context.json, interrupted.clone());
            stop.halt();
            let ended = timeout(END_PATIENCE, work).await;
            store.settle().await;
            match ended {
                // It was at its end.
                Ok(Ok(done)) => Ok(done),
                Ok(Err(_)) | Err(_) => Err(interrupted()),
            }
        }
    }
}

/// What was interrupted has left nothing that anybody must know of.
pub(crate) fn interrupted() -> CliError {
    CliError::new(Exit::Interrupted, "interrupted")
}

/// From now on SIGINT or SIGTERM ends the process at once.
pub(crate) fn end_at_signal(json: bool, interrupted: impl Fn() -> CliError + Send + 'static) {
    let told = told_by_somebody();
    tokio::spawn(async move {
        told.await;
        interrupted().print(json);
        process::exit(Exit::Interrupted as i32);
    });
}
