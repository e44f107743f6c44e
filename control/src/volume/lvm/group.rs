//! A volume group that this process owns, and the commands that change it.
//!
//! Those are to be called in turn (see [`Group::in_turn`]).

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fs::{self, File},
    panic,
    path::Path,
    sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use tokio::{runtime::Handle, sync::oneshot, task, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    command::{Call, Lvm as Command, Trouble},
    complaint,
    mapped::Metadata,
    node,
    ours::Purpose,
    report::{self, Report, Row},
    turns::Turns,
};
use crate::{
    names::VolumeName,
    volume::{Changes, Error, Volume, ownership},
};

/// Where the locks of groups are: gone after a restart of the host, like what they guard against.
const LOCKS: &str = "/run/ringback";

/// A change that takes longer is slow, and one that takes this long is stuck: then the truth is waited for.
const SLOW: Duration = Duration::from_secs(2);
const STUCK: Duration = Duration::from_secs(600);

/// Commands of a daemon that was killed hold its lock until they end.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
const ORPHAN: &str = ", or a command of LVM that one began has not ended yet";

/// A volume group.
#[derive(Debug)]
pub struct Group {
    name: String,
    command: Command,
    turns: Arc<Turns>,
    /// Tasks that must come to their ends, whether or not anybody waits for them.
    work: TaskTracker,
    /// Volumes that are being flushed, until when.
    flushes: StdMutex<Vec<(VolumeName, CancellationToken)>>,
    /// Whose turn it is to hold the metadata of a pool, by the pool's name.
    metadata: StdMutex<HashMap<String, Arc<Metadata>>>,
    /// Names of ours that could not be removed yet.
    pub(super) left: StdMutex<VecDeque<String>>,
    /// Told of what goes when nobody waits for it.
    pub(super) changes: Changes,
    /// Names that volumes under construction will take.
    reserved: StdMutex<HashSet<VolumeName>>,
    /// Keeps other daemons out for as long as it is open: here, or in a command that outlives us.
    lock: File,
}

impl Group {
    /// Takes the group for this process and sweeps what a killed daemon left unfinished. `prefix`
    /// is how `lvm` is called, empty: as is usual. `changes` are told of what it does by itself.
    pub async fn open(
        name: &str,
        prefix: &[String],
        changes: &Changes,
    ) -> Result<Arc<Group>, Error> {
        Group::open_with_lock_in(Path::new(LOCKS), name, prefix, changes).await
    }

    pub(super) async fn open_with_lock_in(
        locks: &Path,
        name: &str,
        prefix: &[String],
        changes: &Changes,
    ) -> Result<Arc<Group>, Error> {
        fs::create_dir_all(locks).map_err(Error::io("make the folder", locks))?;
        let (path, owned) = (
            locks.join(format!("{name}.lock")),
            format!("volume group {name}"),
        );
        let lock =
            task::spawn_blocking(move || ownership::take(&path, &owned, ORPHAN, LOCK_PATIENCE))
                .await
                .expect("it does not panic, and nobody stops the runtime while it starts")?;
        let group = Arc::new(Group {
            name: name.to_owned(),
            command: Command::new(prefix),
            turns: Turns::new(SLOW..STUCK),
            work: TaskTracker::new(),
            flushes: StdMutex::default(),
            metadata: StdMutex::default(),
            left: StdMutex::default(),
            changes: changes.clone(),
            reserved: StdMutex::default(),
            lock,
        });
        let recovered = Arc::clone(&group);
        group
            .in_turn(async move || recovered.recover().await)
            .await?;
        Ok(group)
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work`, which changes the group, when nothing else does. Once begun it runs to its
    /// end, whether or not the caller waits: it is a task of its own.
    pub(super) async fn in_turn<T, W>(
        self: &Arc<Self>,
        work: impl FnOnce() -> W + Send + 'static,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, Error>> + Send + 'static,
    {
        // Whoever waits for its turn is at work, too.
        let _queued = self.work.token();
        let turn = self.turns.take().await;
        let (result, told) = oneshot::channel();
        let group = Arc::clone(self);
        let ended = self.work.spawn(async move {
            let has_gone = group.remove_left().await;
            let done = work().await;
            // Who is told that it is done is not told of what there was before.
            drop(turn);
            // What nobody waits for any more is dropped here, before the task counts as ended: that
            // may begin the next one.
            let is_heard = result.send(done).is_ok();
            if has_gone || !is_heard {
                group.changes.tell();
            }
        });
        if let Ok(result) = told.await {
            return result;
        }
        match ended.await.map_err(task::JoinError::try_into_panic) {
            Err(Ok(payload)) => panic::resume_unwind(payload),
            Ok(()) | Err(Err(_)) => Err(Error::Unavailable {
                group: self.name.clone(),
                reason: "the daemon is shutting down".to_owned(),
            }),
        }
    }

    /// The same for `Drop`: without anybody waiting. Where no task can be begun any more, what was
    /// to be removed is left for the sweep of the next start.
    pub(super) fn in_turn_aside<W>(self: &Arc<Self>, work: impl FnOnce(Arc<Group>) -> W)
    where
        W: Future<Output = ()> + Send + 'static,
    {
        if Handle::try_current().is_err() {
            return;
        }
        let work = work(Arc::clone(self));
        let group = Arc::clone(self);
        self.work.spawn(async move {
            let turn = group.turns.take().await;
            work.await;
            drop(turn);
            group.changes.tell();
        });
    }

    /// Waits until nothing is done to the group any more, also what nobody else waits for.
    pub async fn at_rest(&self) {
        self.work.close();
        self.work.wait().await;
    }

    /// A task that `at_rest` waits for.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> task::JoinHandle<T> {
        self.work.spawn(work)
    }

    /// Writes out what a volume has in memory, beside the turn.
    pub(super) async fn flush(self: &Arc<Self>, volume: &Volume) {
        let (group, path) = (Arc::clone(self), volume.path.clone());
        let over = CancellationToken::new();
        self.flushes().push((volume.name.clone(), over.clone()));
        let flushed = self.spawn(async move {
            node::flush(&path).await;
            over.cancel();
            group.flushes().retain(|(_, over)| !over.is_cancelled());
        });
        // Whoever ends the backup does not end this.
        let _ = flushed.await;
    }

    /// Waits until no flush has this volume open any more.
    pub(super) async fn flushed(&self, name: &VolumeName) {
        let mut flushes = self.flushes().clone();
        flushes.retain(|(flushed, _)| flushed == name);
        join_all(flushes.iter().map(|(_, over)| over.cancelled())).await;
    }

    pub(super) fn is_being_flushed(&self, name: &VolumeName) -> bool {
        let flushes = self.flushes();
        flushes
            .iter()
            .any(|(it, over)| it == name && !over.is_cancelled())
    }

    fn flushes(&self) -> MutexGuard<'_, Vec<(VolumeName, CancellationToken)>> {
        self.flushes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn command(&self) -> &Command {
        &self.command
    }

    pub(super) fn metadata(&self, pool: &str) -> Arc<Metadata> {
        let mut metadata = self.metadata.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(metadata.entry(pool.to_owned()).or_default())
    }

    /// What is there now.
    pub(super) async fn report(&self) -> Result<Report, Error> {
        let asked = Instant::now();
        let report = Report::ask(&self.command, &self.name).await?;
        self.turns.remember(asked, &report);
        Ok(report)
    }

    /// The same for who only tells of it: while a change takes long, what there was before it.
    pub(super) async fn look(&self) -> Result<Seen, Error> {
        tokio::select! {
            biased;
            (report, makes_one) = self.turns.before_a_slow_one() => Ok(Seen {
                report,
                is_late: true,
                lacks_one: makes_one,
            }),
            report = self.report() => Ok(Seen {
                report: report?,
                is_late: false,
                lacks_one: false,
            }),
        }
    }

    /// From now on this turn makes a volume that will be listed.
    pub(super) fn makes_one(&self) {
        self.turns.makes_one();
    }

    /// Has that at hand before what may take long, if this turn has not asked yet.
    pub(super) async fn look_first(&self) {
        if !self.turns.is_known() {
            // What comes will meet the same trouble.
            let _ = self.report().await;
        }
    }

    /// The block size of one of its pools.
    pub(super) async fn pool_block_bytes(&self, pool: &str) -> Result<u64, Error> {
        report::pool_block_bytes(&self.command, &self.name, pool).await
    }

    /// The volume that has just been made or changed.
    pub(super) async fn published(&self, name: &VolumeName) -> Result<Volume, Error> {
        let report = self.report().await?;
        let volume = report.find(name.as_str()).and_then(Row::volume);
        volume.ok_or_else(|| Error::NotFound(name.clone()))
    }

    /// Runs a command that changes the group. It keeps the group ours until it has ended: who
    /// takes the group after a kill finds nothing that is still being made.
    pub(super) async fn change(&self, call: &Call) -> Result<(), Trouble> {
        let lock = self.lock_for_commands().map_err(Trouble::Other)?;
        self.command.run(call, lock).await.map(drop)
    }

    pub(super) fn lock_for_commands(&self) -> Result<File, Error> {
        let lock = self.lock.try_clone();
        lock.map_err(Error::io("duplicate the lock of", Path::new(&self.name)))
    }

    /// `GROUP/NAME`.
    pub(super) fn full_name(&self, volume: &str) -> String {
        format!("{}/{volume}", self.name)
    }

    /// Grows a volume to this size.
    pub(super) async fn extend(&self, volume: &str, size_bytes: u64) -> Result<(), Trouble> {
        let size = format!("{size_bytes}b");
        let extend = Call::new("lvextend").options(["--yes", "--size", &size]);
        self.change(&extend.name(self.full_name(volume))).await
    }

    /// Removes a published volume.
    pub(super) async fn remove(&self, name: &VolumeName, extent_bytes: u64) -> Result<(), Error> {
        let removed = self.remove_any(name.as_str()).await;
        removed.map_err(complaint::about(name, extent_bytes))
    }

    /// Removes anything; LVM refuses what is mounted or open.
    pub(super) async fn remove_any(&self, volume: &str) -> Result<(), Trouble> {
        let remove = Call::new("lvremove").options(["--yes"]);
        self.change(&remove.name(self.full_name(volume))).await
    }

    /// Takes the marks of what is unfinished off a volume.
    pub(super) async fn unmark(&self, volume: &str, purpose: Purpose) -> Result<(), Trouble> {
        let unmark = Call::new("lvchange")
            .options(["--deltag", purpose.tag()])
            .options(["--setactivationskip", "n"]);
        self.change(&unmark.name(self.full_name(volume))).await
    }

    /// Makes a published volume active that the host's boot has left alone, and takes its marks off.
    pub(super) async fn finish(&self, volume: &str, purpose: Purpose) -> Result<(), Trouble> {
        let activate = Call::new("lvchange")
            .options(["--activate", "y", "--ignoreactivationskip"])
            .name(self.full_name(volume));
        self.change(&activate).await?;
        self.unmark(volume, purpose).await
    }

    /// Takes a name for a volume under construction. To be called in turn, with a report of that
    /// turn.
    pub(super) fn reserve(
        self: &Arc<Self>,
        report: &Report,
        name: &VolumeName,
    ) -> Result<Reservation, Error> {
        let is_taken =
            report.find(name.as_str()).is_some() || !self.reserved().insert(name.clone());
        if is_taken {
            return Err(Error::AlreadyExists(name.clone()));
        }
        Ok(Reservation {
            group: Arc::clone(self),
            name: name.clone(),
        })
    }

    fn reserved(&self) -> MutexGuard<'_, HashSet<VolumeName>> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What somebody sees of a group.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) report: Report,
    /// Whether a change under way may have changed it.
    pub(super) is_late: bool,
    /// Whether that makes a volume under the name that it is listed by.
    pub(super) lacks_one: bool,
}

/// A name that nothing else can take while this is there.
#[derive(Debug)]
pub(super) struct Reservation {
    group: Arc<Group>,
    name: VolumeName,
}

impl Reservation {
    pub(super) fn name(&self) -> &VolumeName {
        &self.name
    }

    pub(super) fn group(&self) -> &Arc<Group> {
        &self.group
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.group.reserved().remove(&self.name);
    }
}
