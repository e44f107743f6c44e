//! The sink's own process: an endpoint that tells on standard output what has passed, each time it
//! is asked on standard input, and ends when nobody can ask any more.

use std::path::PathBuf;

use ringback_endpoint::{Backing, Counters, Endpoint, Options};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::{Address, OWN_BUCKET, OWN_REGION};
use crate::{error::Error, results::Wire};

/// Runs the endpoint until standard input ends.
pub async fn serve(folder: Option<PathBuf>) -> Result<(), Error> {
    let endpoint = Endpoint::start(Options {
        buckets: vec![OWN_BUCKET.to_owned()],
        backing: folder.map_or(Backing::Memory, Backing::Folder),
        ..Options::default()
    })
    .await
    .map_err(|error| Error::Store(error.to_string()))?;
    say(&Address {
        url: endpoint.url(),
        bucket: OWN_BUCKET.to_owned(),
        region: OWN_REGION.to_owned(),
        access_key_id: endpoint.access_key_id().to_owned(),
        secret_access_key: endpoint.secret_access_key().to_owned(),
    });
    let mut questions = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(_)) = questions.next_line().await {
        say(&wire(&endpoint.counters()));
    }
    endpoint.shutdown().await;
    Ok(())
}

fn say(answer: &impl Serialize) {
    println!("{}", serde_json::to_string(answer).expect("plain values"));
}

fn wire(counters: &Counters) -> Wire {
    let operations = counters.operations.iter();
    Wire {
        requests: operations
            .map(|(name, counted)| (name.clone(), counted.requests))
            .collect(),
        sent_bytes: counters.bytes_received,
        received_bytes: counters.bytes_sent,
    }
}
