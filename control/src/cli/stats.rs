//! Where the time of a backup or a restore goes, written down while it runs: `--stats`.

use std::{
    fs::File,
    future::Future,
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use ringback_datapath::stages::{Stage, Totals};
use serde_json::{Map, Value, json};

use super::exit::CliError;
use crate::direct::{Watched, store::Store};

/// Between two lines.
const INTERVAL: Duration = Duration::from_millis(100);

/// Carries out `work` and writes, to the file if there is to be one, what it is busy with.
pub(crate) async fn beside<T>(
    file: Option<&Path>,
    store: &Store,
    watched: &Watched,
    work: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    let Some(path) = file else {
        return work.await;
    };
    let mut file = File::create(path).map_err(|error| {
        CliError::failed(format!("cannot write --stats {}: {error}", path.display()))
    })?;
    let begun = Instant::now();
    let mut work = std::pin::pin!(work);
    let mut looks = tokio::time::interval(INTERVAL);
    loop {
        let done = tokio::select! {
            done = &mut work => Some(done),
            _ = looks.tick() => None,
        };
        let written = writeln!(file, "{}", line(begun.elapsed(), store, watched));
        match (done, written) {
            (Some(done), _) => return done,
            (None, Ok(())) => {}
            (None, Err(error)) => {
                // Figures are not worth a backup.
                tracing::warn!(path = %path.display(), %error, "no more --stats");
                return work.await;
            }
        }
    }
}

fn line(elapsed: Duration, store: &Store, watched: &Watched) -> Value {
    let stages: Map<String, Value> = Stage::ALL
        .into_iter()
        .map(|stage| {
            let totals = match stage {
                Stage::Transfer => store.transfers().totals(),
                other => watched.progress.stages().of(other).totals(),
            };
            (stage.name().to_owned(), describe(totals))
        })
        .collect();
    json!({
        "ms": u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        "done_bytes": watched.progress.done_bytes(),
        "volume_io_bytes": watched.progress.volume_io_bytes(),
        "wire_bytes": store.wire_bytes(),
        "stages": stages,
    })
}

fn describe(totals: Totals) -> Value {
    json!({ "ms": totals.time.as_secs_f64() * 1000.0, "entered": totals.entered })
}
