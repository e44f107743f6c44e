//! The synchronous twin of the ring: a few threads that `pread`, `pwrite` and `fdatasync`.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::mpsc;

use super::{Mode, Open, Request, Transfer, rounded_up, spawn_named};

/// More threads than this gain nothing on the devices that need this engine.
const THREADS_MAX: usize = 8;

type Requests = Arc<Mutex<mpsc::Receiver<Request>>>;

/// Starts the threads that serve `file`.
pub(super) fn start(
    file: File,
    depth: usize,
    requests: mpsc::Receiver<Request>,
    open: &Open,
) -> io::Result<Mode> {
    let file = Arc::new(file);
    let requests: Requests = Arc::new(Mutex::new(requests));
    for _ in 0..depth.min(THREADS_MAX) {
        let (file, requests) = (Arc::clone(&file), Arc::clone(&requests));
        let open = open.clone();
        spawn_named("ringback-io", move || {
            serve(&file, &requests);
            drop(file);
            drop(open);
        })?;
    }
    Ok(Mode::Sync)
}

fn serve(file: &File, requests: &Requests) {
    while let Some(request) = next(requests) {
        execute(file, request);
    }
}

/// The thread that holds the lock waits; the others wait for the lock.
fn next(requests: &Requests) -> Option<Request> {
    requests
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .blocking_recv()
}

fn execute(file: &File, request: Request) {
    // A caller that has gone away wants no answer; the slot goes home by its drop.
    match request {
        Request::Read(mut transfer) => {
            let result = read_all(file, &mut transfer);
            let _ = transfer.reply.send(result.map(|()| transfer.slot));
        }
        Request::Write(transfer) => {
            let result = file.write_all_at(&transfer.slot[transfer.range], transfer.offset);
            let _ = transfer.reply.send(result.map(|()| transfer.slot));
        }
        Request::Flush(reply) => {
            let _ = reply.send(file.sync_data());
        }
    }
}

fn read_all(file: &File, transfer: &mut Transfer) -> io::Result<()> {
    let end = rounded_up(transfer.range.end);
    let mut at = transfer.range.start;
    while at < transfer.range.end {
        let offset = transfer.offset + (at - transfer.range.start) as u64;
        match file.read_at(&mut transfer.slot[at..end], offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => at += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
