//! Connections: accepted one by one, each a task, all of them ended together.

use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::gate::Gate;

/// Serves until `stop` is sent or dropped. Dropping this future, too, ends all connections.
pub(crate) async fn serve(listener: TcpListener, gate: Gate, mut stop: oneshot::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(connections.spawn(serve_connection(stream, gate.clone()))),
                // Mostly a lack of descriptors: those that end connections free some.
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    connections.shutdown().await;
}

async fn serve_connection(stream: TcpStream, gate: Gate) {
    // Replies are often two small writes, which Nagle's algorithm would hold back for a delayed
    // acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "could not set TCP_NODELAY");
    }
    let mut connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), gate.clone());
    let served = tokio::select! {
        biased;
        () = gate.wait_for_outage() => None,
        served = &mut connection => Some(served),
    };
    match served {
        Some(Ok(())) => return,
        Some(Err(error)) => {
            // Clients hang up in the middle of requests; tests make a point of it.
            tracing::debug!(%error, "connection ended early");
            if !error.is_user() {
                return;
            }
        }
        None => {
            gate.wait_through_silence().await;
            gate.ledger().cut();
        }
    }
    // Without lingering, the end is a reset.
    let stream = connection.into_parts().io.into_inner();
    if let Err(error) = stream.set_zero_linger() {
        tracing::debug!(%error, "could not reset a connection");
    }
}
