//! A daemon that is killed and started again on what it left, with things of others beside its
//! own.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Seek, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};

use ringback_endpoint::{Counters, Moment};
use ringback_proto::{control::ListBackupsRequest, lvmd::data_source::S3};
use tonic::Code;

use crate::{
    client::{Client, synchronous},
    harness::{Daemon, MIB, wait_for},
    phase::{Blow, Phase, PhaseOf},
    place::Place,
    store::{Store, assert_same_content, fill},
    tracer::{Call, Trace, Traced},
};

/// The volume that is backed up; a volume under restore is called [`AGAIN`].
pub(crate) const DATA: &str = "data";
pub(crate) const AGAIN: &str = "again";
/// Another, which nothing touches.
pub(crate) const BYSTANDER: &str = "bystander";
/// The one that calls make, remove and grow.
pub(crate) const SUBJECT: &str = "subject";
/// A model without data.
pub(crate) const ZEROS: &str = "zeros";

const DATA_BYTES: u64 = 64 * MIB;
/// Packs and parts small enough for a few of each in a small volume.
const DATAPATH: &str = "datapath: { part-mib: 5, pack-mib: 13, packs-min: 1 }\n";
const POLL: Duration = Duration::from_millis(2);
/// Parts of a group that are empty when nothing is under way.
const PASSING: [&str; 3] = ["pending", "temporary", "trash"];

/// The daemon, its store, and what must be there after every start.
pub(crate) struct Bed {
    pub(crate) daemon: Daemon,
    pub(crate) client: Client,
    pub(crate) store: Store,
    pub(crate) place: Place,
    /// Published volumes, each with a file that has its bytes.
    volumes: BTreeMap<String, PathBuf>,
    foreign: Vec<PathBuf>,
}

impl Bed {
    pub(crate) async fn start(place: Place) -> Self {
        let daemon = Daemon::with(|_| place.class() + DATAPATH);
        let client = daemon.client().await;
        // Once it answers this it has its folders.
        client.list().await;
        let mut bed = Self {
            store: Store::start().await,
            foreign: plant(&place),
            volumes: BTreeMap::new(),
            daemon,
            client,
            place,
        };
        bed.make_model(ZEROS, 0);
        bed.add_volume(BYSTANDER, MIB, &[(0, MIB)]).await;
        // Scattered, so that there are holes between what is read.
        let data: Vec<_> = (0..5).map(|at| (at * 12 * MIB, 5 * MIB)).collect();
        bed.add_volume(DATA, DATA_BYTES, &data).await;
        bed
    }

    /// Makes a volume with data in these ranges, which must be there after every start.
    pub(crate) async fn add_volume(&mut self, name: &str, bytes: u64, data: &[(u64, u64)]) {
        let volume = self.client.create(name, bytes).await;
        let model = self.make_model(name, bytes);
        for (offset, len) in data {
            for path in [&volume.path[..], model.to_str().expect("UTF-8")] {
                fill(path, *offset, *len, &format!("{name} {offset}"));
            }
        }
        // What a device holds back would be missing in the image.
        let device = fs::File::open(&volume.path).expect("opens the volume");
        device.sync_all().expect("syncs the volume");
        self.expect_volume(name, name);
    }

    fn make_model(&self, name: &str, bytes: u64) -> PathBuf {
        let model = self.model(name);
        fs::File::create(&model)
            .and_then(|model| model.set_len(bytes))
            .expect("makes the model");
        model
    }

    fn model(&self, name: &str) -> PathBuf {
        self.place.beside.join(format!("model-{name}"))
    }

    /// From now on there must be the volume `name` with the bytes of the model of `like`.
    pub(crate) fn expect_volume(&mut self, name: &str, like: &str) {
        self.volumes.insert(name.to_owned(), self.model(like));
    }

    /// Removes a volume.
    pub(crate) async fn remove_volume(&mut self, name: &str) {
        self.client.remove(name).await.expect("it is removed");
        self.forget_volume(name);
    }

    pub(crate) fn forget_volume(&mut self, name: &str) {
        self.volumes.remove(name);
    }

    /// Whether a volume has its name, as the files say.
    pub(crate) fn has_its_name(&self, name: &str) -> bool {
        self.image(name).exists()
    }

    pub(crate) fn image(&self, name: &str) -> PathBuf {
        self.place.group.join("volumes").join(name).join("image")
    }

    /// What was hit when the daemon was killed in `work`; `None` when that ended before.
    pub(crate) async fn strike(
        &mut self,
        blow: Blow,
        phase_of: PhaseOf,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> Option<String> {
        if let Some(stop) = blow.stop() {
            let what = match stop.moment {
                Moment::Arrived => format!("{} {} arrived", stop.operation, stop.path_contains),
                Moment::Applied => format!("{} {} applied", stop.operation, stop.path_contains),
            };
            let stopped = self.store.endpoint.stop_at(stop);
            let work = tokio::spawn(work);
            let is_hit = tokio::select! {
                () = stopped.reached() => true,
                () = ended(&work) => false,
            };
            self.daemon.kill();
            work.abort();
            return is_hit.then_some(what);
        }
        let mut points_left = blow.point;
        let group = self.place.group.clone();
        let call = self.strike_call(work, move |call| {
            let counts = phase_of(call, &group) == blow.phase;
            let is_it = counts && points_left == 0;
            points_left -= usize::from(counts && points_left > 0);
            is_it
        });
        call.await.map(|call| self.describe(&call))
    }

    /// Kills the daemon at the call that `is_it` picks; that call, if it came.
    pub(crate) async fn strike_call(
        &mut self,
        work: impl Future<Output = ()> + Send + 'static,
        is_it: impl FnMut(&Call) -> bool + Send + 'static,
    ) -> Option<Call> {
        let traced = Traced::kill_at(self.daemon.id(), &self.place.group, is_it);
        let work = tokio::spawn(work);
        while !traced.is_over() && !work.is_finished() {
            tokio::time::sleep(POLL).await;
        }
        self.daemon.kill();
        work.abort();
        traced.trace().killed_at
    }

    /// How many system calls `work` consists of; the daemon is killed behind its end.
    pub(crate) async fn calls(&mut self, work: impl Future<Output = ()> + Send + 'static) -> usize {
        self.trace(work).await.calls.len()
    }

    async fn trace(&mut self, work: impl Future<Output = ()> + Send + 'static) -> Trace {
        let traced = Traced::kill_at(self.daemon.id(), &self.place.group, |_| false);
        tokio::spawn(work).await.expect("the work ends");
        self.daemon.kill();
        traced.trace()
    }

    /// How many points each phase of `work` has; the daemon is killed behind its end, and back.
    pub(crate) async fn points(
        &mut self,
        phase_of: PhaseOf,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> BTreeMap<Phase, usize> {
        let before = self.store.endpoint.counters();
        let mut points = BTreeMap::new();
        for call in self.trace(work).await.calls {
            *points
                .entry(phase_of(&call, &self.place.group))
                .or_default() += 1;
        }
        let after = self.store.endpoint.counters();
        for phase in Phase::all() {
            if let [(operation, _)] = phase.requests() {
                let requests = after.requests(operation) - before.requests(operation);
                // Not all of them are of the path that is meant: these come again and again.
                let requests = if phase == Phase::LogPut { 1 } else { requests };
                points.insert(phase, 2 * usize::try_from(requests).expect("few"));
            } else if !phase.requests().is_empty() {
                points.insert(phase, 2 * phase.requests().len());
            }
        }
        self.start_on_what_is_left().await;
        points
    }

    /// Starts the daemon and judges what it shows and what lies about.
    pub(crate) async fn start_on_what_is_left(&mut self) {
        self.store_is_idle().await;
        self.daemon.restart();
        self.client = self.daemon.client().await;
        self.judge().await;
    }

    /// Asserts that all volumes are there, whole, and alone.
    pub(crate) async fn judge(&self) {
        // It is answered when the start is through with the volumes.
        let listed = self.client.list().await;
        self.assert_nothing_passing_is_left();
        let names: BTreeSet<&str> = listed.iter().map(|volume| &volume.name[..]).collect();
        let expected: BTreeSet<&str> = self.volumes.keys().map(String::as_str).collect();
        assert_eq!(names, expected, "listed volumes");
        for (name, model) in &self.volumes {
            let (model, image) = (model.to_str(), self.image(name));
            assert_same_content(model.expect("UTF-8"), image.to_str().expect("UTF-8"));
        }
        for volume in &listed {
            let path = fs::File::open(&volume.path);
            let bytes = path.and_then(|mut path| path.seek(SeekFrom::End(0)));
            let bytes = bytes.expect("the path that is listed can be read");
            assert_eq!(bytes, volume.size_bytes.unsigned_abs(), "{}", volume.name);
        }
        let paths = listed.iter().map(|volume| Path::new(&volume.path));
        self.place.assert_devices_are_those_of(paths);
        for foreign in &self.foreign {
            let content = fs::read_to_string(foreign).expect("another's file is still there");
            assert_eq!(content, FOREIGN, "{}", foreign.display());
        }
    }

    /// Asserts that no snapshot, unfinished volume or part of a removed one is left.
    fn assert_nothing_passing_is_left(&self) {
        for part in PASSING {
            let left = self.passing(part);
            assert!(left.is_empty(), "left in {part}: {left:?}");
        }
    }

    /// What lies in a part of the group and is not another's.
    pub(crate) fn passing(&self, part: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.place.group.join(part)).expect("lists the folder");
        entries
            .map(|entry| entry.expect("has an entry").path())
            .filter(|path| !self.foreign.contains(path))
            .collect()
    }

    /// Waits until no request of a killed daemon is still being applied.
    async fn store_is_idle(&self) {
        wait_for("the store's rest", async || {
            let counters = self.store.endpoint.counters();
            let active = |it: &ringback_endpoint::OperationCounters| it.active > 0;
            (!counters.operations.values().any(active)).then_some(())
        })
        .await;
    }

    /// The backups at this path's repository, by name.
    pub(crate) async fn backups(&self, s3: &S3) -> Vec<String> {
        let (repository, _) = s3.path.rsplit_once('/').expect("repository/backup");
        let request = ListBackupsRequest {
            repository: Some(S3 {
                path: repository.to_owned(),
                ..s3.clone()
            }),
        };
        match self.client.clone().own.list_backups(request).await {
            Ok(listed) => {
                let backups = listed.into_inner().backups.into_iter();
                backups.map(|backup| backup.name).collect()
            }
            // Killed before there was a repository.
            Err(status) if status.code() == Code::NotFound => Vec::new(),
            Err(status) => panic!("backups cannot be listed: {status}"),
        }
    }

    /// Restores the volume `data` from this backup and compares it.
    pub(crate) async fn assert_holds_the_data(&mut self, s3: &S3) {
        let restored = self.client.restore(AGAIN, 1, &synchronous(s3)).await;
        restored.expect("it is restored");
        self.expect_volume(AGAIN, DATA);
        self.judge().await;
        self.remove_volume(AGAIN).await;
    }

    /// A call as the histogram shows it.
    pub(crate) fn describe(&self, call: &Call) -> String {
        let Some(path) = &call.path else {
            return call.name.to_owned();
        };
        let path = path.strip_prefix(&self.place.group).unwrap_or(path);
        // Random names and device numbers would all be different points.
        let is_random = |name: &str| name.len() == 36 && name.matches('-').count() == 4;
        let is_device = |name: &str| {
            let number = name.strip_prefix("loop");
            number.is_some_and(|number| number.parse::<u32>().is_ok())
        };
        let names = path.iter().map(|name| match &*name.to_string_lossy() {
            name if is_random(name) => PathBuf::from("RANDOM"),
            name if is_device(name) => PathBuf::from("loopN"),
            name => PathBuf::from(name),
        });
        let steady: PathBuf = names.collect();
        format!("{} ./{}", call.name, steady.display()).replace(".//", "/")
    }
}

/// Requests by which data comes into a repository.
pub(crate) fn uploads(counters: &Counters) -> u64 {
    [
        "PutObject",
        "UploadPart",
        "CreateMultipartUpload",
        "CompleteMultipartUpload",
    ]
    .iter()
    .map(|operation| counters.requests(operation))
    .sum()
}

const FOREIGN: &str = "not ringback's";

/// Puts files of somebody else's into the group's folder and all its parts.
fn plant(place: &Place) -> Vec<PathBuf> {
    let folders = ["", "volumes", "pending", "temporary", "trash"];
    let files = folders.map(|folder| place.group.join(folder).join("notes.txt"));
    for file in &files {
        fs::write(file, FOREIGN).expect("writes another's file");
    }
    files.into()
}

async fn ended(work: &tokio::task::JoinHandle<()>) {
    while !work.is_finished() {
        tokio::time::sleep(POLL).await;
    }
}
