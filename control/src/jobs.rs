//! Backups and restores at work. They run apart from the calls that began them: a call that is
//! cancelled changes nothing.

pub mod backup;
pub mod ledger;
pub mod repository;
pub mod restore;
pub mod turns;

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures::FutureExt;
use ringback_datapath::{
    crypt::Passphrase,
    progress::Progress,
    stop::Stop,
    store::{
        ObjectStore, SharedCredentials,
        location::{BackupPath, Endpoint, StoreConfig},
    },
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::{failure::Failure, request::DataSource};

/// How long trouble with the store is retried within a job.
pub(crate) const JOB_PATIENCE: Duration = Duration::from_secs(15 * 60);
/// The same for opening a backup, which a caller waits for.
pub(crate) const OPEN_PATIENCE: Duration = Duration::from_secs(10);
/// The same for the question whether a backup of a volume that is not here exists.
pub(crate) const ASK_PATIENCE: Duration = Duration::from_secs(5);
/// How long a job may take to reach a point that it can be gone on with from, when the daemon
/// stops. With what follows it stays well below the 90 s that service managers usually wait.
const WIND_UP_PATIENCE: Duration = Duration::from_secs(20);

/// How many jobs of one kind are remembered when they have ended.
const REMEMBERED_MAX: usize = 1024;

/// How far a job is, whatever its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Opening the repository, waiting for its turn, taking the snapshot.
    Preparing,
    /// Moving data.
    Running,
    /// It did what it was to do.
    Done,
    /// It did not.
    Failed,
}

/// Where a job's backup lies, and the passphrase for it.
#[derive(PartialEq, Eq)]
struct Place {
    backup: BackupPath,
    endpoint: Option<Endpoint>,
    encryption_key: Option<Passphrase>,
}

impl From<&DataSource> for Place {
    fn from(source: &DataSource) -> Self {
        Self {
            backup: source.backup.clone(),
            endpoint: source.store.endpoint.clone(),
            encryption_key: source.encryption_key.clone(),
        }
    }
}

/// How a job reaches its store while it runs. Nobody keeps credentials for longer.
struct Access {
    store: StoreConfig,
    credentials: SharedCredentials,
}

impl Access {
    fn of(store: StoreConfig) -> Self {
        Self {
            credentials: SharedCredentials::renewable(store.credentials.clone()),
            store,
        }
    }
}

/// The way to a store, and what has gone over it.
enum Wire {
    Open(Arc<dyn ObjectStore>),
    Closed(Carried),
}

/// Payload bytes.
#[derive(Clone, Copy, Default)]
struct Carried {
    sent: u64,
    received: u64,
}

impl Wire {
    fn carried(&self) -> Carried {
        match self {
            Self::Open(store) => Carried {
                sent: store.meter().sent(),
                received: store.meter().received(),
            },
            Self::Closed(carried) => *carried,
        }
    }
}

/// What everybody may look at while a job runs.
pub struct Watched {
    /// Counters of the data path.
    pub progress: Arc<Progress>,
    /// The same for the copy that stands in for a snapshot, where there is none.
    pub copying: Arc<Progress>,
    /// When the job began to move data.
    moving_since: OnceLock<Instant>,
    /// Whether it waits for others to end before it may move data.
    waiting: AtomicBool,
    stop: Stop,
    over: CancellationToken,
    wire: Mutex<Wire>,
}

impl Watched {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            progress: Arc::default(),
            copying: Arc::default(),
            moving_since: OnceLock::new(),
            waiting: AtomicBool::new(false),
            stop: Stop::default(),
            over: CancellationToken::new(),
            wire: Mutex::new(Wire::Closed(Carried::default())),
        })
    }

    /// Ends the job at once, and waits until it has let go of its volume.
    pub async fn halt(&self) {
        self.stop.halt();
        self.over.cancelled().await;
    }

    /// Ends the job at a point that it can be gone on with from, or at once when that takes long.
    pub async fn wind_up(&self) {
        self.stop.wind_up();
        let wound_up = tokio::time::timeout(WIND_UP_PATIENCE, self.over.cancelled()).await;
        if wound_up.is_err() {
            self.halt().await;
        }
    }

    fn set_store(&self, store: Arc<dyn ObjectStore>) {
        *self.wire() = Wire::Open(store);
    }

    /// From now on data moves.
    fn move_data(&self) {
        self.moving_since.get_or_init(Instant::now);
    }

    /// For how long data has been moving.
    pub fn moving_for(&self) -> Duration {
        self.moving_since
            .get()
            .map(Instant::elapsed)
            .unwrap_or_default()
    }

    /// The job is over: it lets go of the store with all its connections, and who waits is told.
    fn end(&self) {
        let mut wire = self.wire();
        *wire = Wire::Closed(wire.carried());
        drop(wire);
        self.over.cancel();
    }

    fn wire(&self) -> MutexGuard<'_, Wire> {
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn, and lets that be seen.
    async fn wait_for_turn<T>(&self, turn: impl Future<Output = T>) -> T {
        self.waiting.store(true, Ordering::Relaxed);
        let turn = turn.await;
        self.waiting.store(false, Ordering::Relaxed);
        turn
    }

    /// Payload bytes sent and received.
    pub fn wire_bytes(&self) -> u64 {
        let Carried { sent, received } = self.wire().carried();
        sent + received
    }

    /// What has kept requests to the store from success for some seconds.
    pub fn store_trouble(&self) -> Option<String> {
        match &*self.wire() {
            Wire::Open(store) => store.trouble(),
            Wire::Closed(_) => None,
        }
    }

    /// `42.1 % of 3.0 GiB, 512 MiB/s, 1.2 GiB over the wire, 10 s left`, and the store's trouble.
    pub fn describe(&self) -> String {
        with_trouble(self.describe_progress(), self.store_trouble())
    }

    fn describe_progress(&self) -> String {
        if self.waiting.load(Ordering::Relaxed) {
            return "waiting for other jobs to end".to_owned();
        }
        let total = self.progress.total_bytes();
        let to_copy = self.copying.total_bytes();
        if total == 0 && to_copy > 0 {
            let copied = self.copying.done_bytes();
            return format!(
                "copying the volume first: {} of {}",
                Bytes(copied),
                Bytes(to_copy)
            );
        }
        if total == 0 {
            return "preparing".to_owned();
        }
        let done = self.progress.done_bytes();
        let seconds = self.moving_for().as_secs_f64().max(0.001);
        let rate = done as f64 / seconds;
        let left = if rate >= 1.0 {
            format!("{:.0} s left", total.saturating_sub(done) as f64 / rate)
        } else {
            "time left unknown".to_owned()
        };
        format!(
            "{:.1} % of {}, {}/s, {} over the wire, {left}",
            done as f64 * 100.0 / total as f64,
            Bytes(total),
            Bytes(to_whole(rate)),
            Bytes(self.wire_bytes()),
        )
    }
}

/// How a job does, and the store's trouble, if it has some.
pub(crate) fn with_trouble(progress: String, trouble: Option<String>) -> String {
    match trouble {
        Some(trouble) => format!("{progress}; the store: {trouble}"),
        None => progress,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate in bytes per second"
)]
fn to_whole(rate: f64) -> u64 {
    rate as u64
}

/// A number of bytes, shown with a binary unit.
pub struct Bytes(pub u64);

impl std::fmt::Display for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
        let mut value = self.0 as f64;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        let decimals = usize::from(unit > 0 && value < 100.0);
        f.pad(&format!("{value:.decimals$} {}", UNITS[unit]))
    }
}

/// Carries a job's work out; a bug in it is a failure like any other, not a job without an end.
async fn without_panic<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let outcome = AssertUnwindSafe(work).catch_unwind().await;
    outcome.unwrap_or_else(|_| {
        Err(Failure::new(
            Code::Internal,
            "an error in ringback itself ended the job; the daemon's log says where",
        ))
    })
}

/// Keeps the memory of jobs that have ended bounded. The store answers for what was completed; what failed is
/// begun again.
fn forget_some<K, J>(jobs: &mut HashMap<K, Arc<J>>, is_over: impl Fn(&J) -> bool) {
    if jobs.values().filter(|job| is_over(job)).count() >= REMEMBERED_MAX {
        jobs.retain(|_, job| !is_over(job));
    }
}

/// Waits until a job's state satisfies `is_met`; the state then.
async fn wait_for<T: Clone>(state: &watch::Sender<T>, is_met: impl FnMut(&T) -> bool) -> T {
    let mut receiver = state.subscribe();
    let met = receiver
        .wait_for(is_met)
        .await
        .expect("the sender lives as long as the job is referred to");
    met.clone()
}

#[cfg(test)]
mod tests {
    use ringback_datapath::store::{folder::FolderStore, url::RepositoryUrl};

    use super::*;

    #[tokio::test]
    async fn a_job_that_is_over_holds_no_store_and_knows_what_went_over_the_wire() {
        let folder = tempfile::tempdir().expect("a folder");
        let url = format!("file://{}", folder.path().display());
        let RepositoryUrl::Folder(path) = RepositoryUrl::parse(&url).expect("a folder") else {
            panic!("{url} is none");
        };
        let store = FolderStore::open(path, 1).await.expect("opens");
        let store: Arc<dyn ObjectStore> = Arc::new(store);
        let put = store.put_new("object", b"content".as_slice().into());
        put.await.expect("it is put");
        let held = Arc::downgrade(&store);
        let job = Watched::new();
        job.set_store(store);
        assert_eq!(job.wire_bytes(), 7);
        job.end();
        assert!(job.over.is_cancelled());
        assert!(held.upgrade().is_none());
        assert_eq!(job.wire_bytes(), 7);
    }

    #[test]
    fn rate_and_time_left_count_from_when_data_began_to_move() {
        let job = Watched::new();
        let before = Instant::now().checked_sub(Duration::from_secs(1 << 20));
        job.moving_since
            .set(before.expect("a moment"))
            .expect("once");
        // It has begun to already.
        job.move_data();
        job.progress.set_total(8 << 40);
        job.progress.add_done(4 << 40);
        let said = job.describe();
        assert!(said.starts_with("50.0 % of 8.0 TiB, 4.0 MiB/s, "), "{said}");
    }

    #[test]
    fn bytes_are_shown_with_their_unit() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (3 << 30, "3.0 GiB"),
            (150 << 20, "150 MiB"),
            (u64::MAX, "16384 PiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), shown);
        }
        assert_eq!(format!("{:>9}|", Bytes(1024)), "  1.0 KiB|");
    }
}
