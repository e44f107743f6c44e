//! Two hundred operations from a seed, held against a model: what is listed, what is free, what volumes
//! hold, and what LVM and the kernel have. A failure prints the seed, which makes the same operations
//! again.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fs::File,
    ops::Range,
    os::unix::fs::FileExt,
    time::Duration,
};

use ringback_proto::{
    control::{JobKind, JobPhase, WatchJobRequest},
    lvmd::{CreateBackupRequest, DataSource, StateType, data_source::S3},
};
use tokio::task::JoinHandle;
use tonic::Code;

use crate::{
    client::{asynchronous, backup, ok, synchronous},
    harness::{GIB, MIB, wait_for},
    vg::{Bed, CLASSES, device, open_to_write, soil},
};

/// Variables that choose other seeds, separated by blanks, and operations of each.
const SEEDS: &str = "RINGBACK_LVM_SEEDS";
const OPERATIONS: &str = "RINGBACK_LVM_OPERATIONS";
const EXTENT: u64 = 4 * MIB;
const VOLUMES_MAX: usize = 6;
/// Mebibytes that are looked at in what is zeros.
const ZEROS_LOOKED_AT: usize = 8;

/// splitmix64
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }

    fn one_of<T: Clone>(&mut self, all: &[T]) -> Option<T> {
        let len = u64::try_from(all.len()).expect("few");
        let index = (len > 0).then(|| self.below(len))?;
        all.get(usize::try_from(index).expect("few")).cloned()
    }
}

/// A seed for each mebibyte of a volume that is always looked at, 0 for zeros. Others are zeros, too:
/// what lies behind the end of a backup is looked at here and there.
type Content = BTreeMap<u64, u64>;

#[derive(Debug, Clone)]
struct Volume {
    class: &'static str,
    bytes: u64,
    content: Content,
}

/// What there should be.
#[derive(Default)]
struct Model {
    volumes: BTreeMap<String, Volume>,
    /// The volumes as they were.
    backups: BTreeMap<String, Volume>,
    free: BTreeMap<&'static str, u64>,
    names: u64,
}

impl Model {
    fn free_bytes(&self, class: &str) -> u64 {
        let taken = self.volumes.values().filter(|it| it.class == class);
        self.free[class] - taken.map(|it| it.bytes).sum::<u64>()
    }

    /// The snapshot of a thick volume takes a fifth of its size.
    fn has_room_for_a_backup(&self, volume: &Volume) -> bool {
        let snapshot_bytes = (volume.bytes / 5).next_multiple_of(EXTENT);
        volume.class == "thin" || snapshot_bytes <= self.free_bytes("thick")
    }

    fn new_name(&mut self, prefix: &str) -> String {
        self.names += 1;
        format!("{prefix}{}", self.names)
    }

    fn names(&self) -> Vec<String> {
        self.volumes.keys().cloned().collect()
    }
}

fn piece(seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(MIB).expect("a length")];
    if seed != 0 {
        let mut dice = Dice(seed);
        for word in bytes.chunks_exact_mut(8) {
            word.copy_from_slice(&dice.roll().to_le_bytes());
        }
    }
    bytes
}

struct Run {
    bed: Bed,
    model: Model,
    dice: Dice,
}

/// A backup that was begun.
struct Begun {
    name: String,
    request: CreateBackupRequest,
    /// The volume as it was then.
    volume: Volume,
    has_room: bool,
}

impl Run {
    async fn step(&mut self) -> String {
        let class = self.dice.one_of(&CLASSES).expect("two");
        let volume = self.dice.one_of(&self.model.names());
        let stored: Vec<String> = self.model.backups.keys().cloned().collect();
        let stored = self.dice.one_of(&stored);
        match (self.dice.below(100), volume, stored) {
            (0..13, ..) => self.create(class).await,
            (13..33, Some(name), _) => self.write(&name),
            (33..41, Some(name), _) => self.snapshot(&name).await,
            (41..46, Some(name), _) => self.back_up(&name).await,
            (46..53, _, Some(stored)) => self.restore(class, &stored).await,
            (53..61, Some(name), _) => self.resize(&name).await,
            (61..78, Some(name), _) => self.remove(&name).await,
            (78..85, Some(name), _) => self.meet_a_backup(&name).await,
            (85..90, _, Some(stored)) => self.meet_a_restore(class, &stored).await,
            (90..93, ..) => self.kill().await,
            (93..96, Some(name), _) => self.kill_in_a_backup(&name).await,
            (96.., _, Some(stored)) => self.kill_in_a_restore(class, &stored).await,
            _ => self.create(class).await,
        }
    }

    async fn create(&mut self, class: &'static str) -> String {
        let name = self.model.new_name("v");
        let asked = 1 + self.dice.below(24 * MIB);
        let bytes = asked.next_multiple_of(EXTENT);
        let told = format!("create {name} in {class} with {asked} bytes");
        if self.model.volumes.len() >= VOLUMES_MAX {
            let taken = self.dice.one_of(&self.model.names()).expect("some");
            let again = self.bed.try_create(class, &taken, asked).await;
            assert_eq!(
                again.expect_err(&told).code(),
                Code::AlreadyExists,
                "{told}"
            );
            return format!("{told}: no, {taken} again");
        }
        let made = self.bed.try_create(class, &name, asked).await;
        if bytes > self.model.free_bytes(class) {
            assert_eq!(made.expect_err(&told).code(), Code::ResourceExhausted);
            return format!("{told}: no room");
        }
        assert_eq!(made.expect(&told).size_bytes.unsigned_abs(), bytes);
        let mut volume = Volume {
            class,
            bytes: 0,
            content: Content::new(),
        };
        lengthen(&name, &mut volume, bytes, &mut self.dice);
        self.model.volumes.insert(name, volume);
        told
    }

    fn write(&mut self, name: &str) -> String {
        let volume = self.model.volumes.get_mut(name).expect("there");
        let at = self.dice.below(volume.bytes / MIB);
        let seed = match self.dice.below(4) {
            0 => 0,
            _ => self.dice.roll(),
        };
        volume.content.insert(at, seed);
        put(name, &volume.content, at..at + 1);
        format!("write mebibyte {at} of {name}")
    }

    async fn snapshot(&mut self, source: &str) -> String {
        let volume = self.model.volumes[source].clone();
        let name = self.model.new_name("s");
        let told = format!("snapshot {name} of {source} in {}", volume.class);
        let made = self.bed.snapshot(volume.class, &name, source).await;
        if volume.class == "thick" {
            assert_eq!(made.expect_err(&told).code(), Code::Unimplemented);
            return format!("{told}: not of thick volumes");
        }
        if volume.bytes > self.model.free_bytes("thin") {
            assert_eq!(made.expect_err(&told).code(), Code::ResourceExhausted);
            return format!("{told}: no room");
        }
        made.expect(&told);
        self.model.volumes.insert(name, volume);
        told
    }

    async fn back_up(&mut self, volume: &str) -> String {
        let begun = self.begin_backup(volume).await;
        let told = format!("back up {volume} as {}", begun.name);
        self.end_backup(begun, told).await
    }

    async fn begin_backup(&mut self, volume: &str) -> Begun {
        let name = self.model.new_name("b");
        let request = backup(&name, volume, &self.bed.store.s3(&name));
        let state = self.bed.client.poll(&request).await.expect("it starts");
        assert_eq!(state.state(), StateType::Inprogress, "{}", state.msg);
        let volume = self.model.volumes[volume].clone();
        Begun {
            name,
            request,
            has_room: self.model.has_room_for_a_backup(&volume),
            volume,
        }
    }

    async fn end_backup(&mut self, begun: Begun, told: String) -> String {
        let state = self.bed.client.end_of(&begun.request).await;
        if !begun.has_room {
            assert_eq!(state.state(), StateType::Error, "{told}: {}", state.msg);
            let room = "are free in its volume group";
            assert!(state.msg.contains(room), "{told}: {}", state.msg);
            return format!("{told}: no room for its snapshot");
        }
        assert_eq!(state.state(), StateType::Complete, "{told}: {}", state.msg);
        self.model.backups.insert(begun.name, begun.volume);
        told
    }

    async fn restore(&mut self, class: &'static str, stored: &str) -> String {
        let name = self.model.new_name("r");
        let told = format!("restore {stored} as {name} in {class}");
        let size_gb = self.size_gb(stored);
        if size_gb > 1 {
            let source = synchronous(&self.bed.store.s3(stored));
            let made = self.bed.restore(class, &name, size_gb - 1, &source).await;
            assert_eq!(made.expect_err(&told).code(), Code::OutOfRange, "{told}");
        }
        if !self.begin_restore(class, stored, &name, synchronous).await {
            return format!("{told}: no room");
        }
        self.restored(class, stored, name);
        told
    }

    /// The least that holds a backup.
    fn size_gb(&self, stored: &str) -> u64 {
        self.model.backups[stored].bytes.div_ceil(GIB)
    }

    /// Whether there is room for it.
    async fn begin_restore(
        &self,
        class: &'static str,
        stored: &str,
        name: &str,
        source: impl Fn(&S3) -> DataSource,
    ) -> bool {
        let (size_gb, source) = (self.size_gb(stored), source(&self.bed.store.s3(stored)));
        let made = self.bed.restore(class, name, size_gb, &source).await;
        let has_room = size_gb * GIB <= self.model.free_bytes(class);
        match has_room {
            true => drop(made.expect(name)),
            false => assert_eq!(made.expect_err(name).code(), Code::ResourceExhausted),
        }
        has_room
    }

    fn restored(&mut self, class: &'static str, stored: &str, name: String) {
        let volume = Volume {
            class,
            bytes: self.size_gb(stored) * GIB,
            content: self.model.backups[stored].content.clone(),
        };
        check(&name, &volume, &mut self.dice);
        self.model.volumes.insert(name, volume);
    }

    async fn resize(&mut self, name: &str) -> String {
        let free = self.model.free_bytes(self.model.volumes[name].class);
        let volume = self.model.volumes.get_mut(name).expect("there");
        let bytes = volume.bytes + self.dice.below(4) * EXTENT;
        let told = format!("resize {name} to {bytes}");
        let resized = self.bed.resize(volume.class, name, bytes).await;
        if bytes - volume.bytes > free {
            assert_eq!(resized.expect_err(&told).code(), Code::ResourceExhausted);
            return format!("{told}: no room");
        }
        assert_eq!(resized.expect(&told), bytes);
        lengthen(name, volume, bytes, &mut self.dice);
        told
    }

    async fn remove(&mut self, name: &str) -> String {
        let volume = self.model.volumes.remove(name).expect("there");
        let told = format!("remove {name}");
        if volume.class == "thick" {
            soil(name, volume.bytes);
        }
        self.bed.remove(volume.class, name).await.expect(&told);
        let again = self.bed.remove(volume.class, name).await;
        assert_eq!(again.expect_err(&told).code(), Code::NotFound);
        told
    }

    /// A backup during which its volume is written to, snapshotted, grown or removed.
    async fn meet_a_backup(&mut self, volume: &str) -> String {
        let begun = self.begin_backup(volume).await;
        let phase = wait_for("its snapshot, or its end", async || {
            let phase = self.phase(&begun.name).await;
            (phase != JobPhase::Preparing).then_some(phase)
        })
        .await;
        // The removal ends it, whatever the store does; all else lets it go on.
        let is_removed = self.dice.below(4) == 0;
        let at_most_ms = self.dice.below(500);
        let held = self.hold_replies(if is_removed { 3000 } else { at_most_ms });
        let meanwhile = match self.dice.below(3) {
            _ if is_removed => self.remove(volume).await,
            0 => self.write(volume),
            1 => self.snapshot(volume).await,
            _ => self.resize(volume).await,
        };
        held.abort();
        let told = format!(
            "back up {volume} as {}, at {phase:?} {meanwhile}",
            begun.name
        );
        let Some(now) = self.model.volumes.get(volume) else {
            return self.end_backup_of_none(begun, told).await;
        };
        // LVM does not grow it before.
        if now.class == "thick" && now.bytes > begun.volume.bytes {
            let ends = [JobPhase::Done, JobPhase::Failed];
            assert!(ends.contains(&self.phase(&begun.name).await), "{told}");
        }
        self.end_backup(begun, told).await
    }

    async fn phase(&self, backup: &str) -> JobPhase {
        let request = WatchJobRequest {
            kind: JobKind::Backup.into(),
            name: backup.to_owned(),
            device_class: String::new(),
        };
        let mut states = ok(self.bed.client.clone().own.watch_job(request).await);
        let state = states.message().await.expect("it can be followed");
        state.expect("it has a state").phase()
    }

    /// When its volume was removed a backup was complete, or there is none.
    async fn end_backup_of_none(&mut self, begun: Begun, told: String) -> String {
        let client = self.bed.client.clone();
        let state = client.poll(&begun.request).await.expect("it is told");
        if state.state() == StateType::Complete {
            self.model.backups.insert(begun.name, begun.volume);
            return format!("{told}: it was complete");
        }
        assert_eq!(state.state(), StateType::Error, "{told}: {}", state.msg);
        let again = client.poll(&begun.request).await;
        assert_eq!(again.expect_err(&told).code(), Code::NotFound, "{told}");
        told
    }

    /// A restore during which its volume is removed, or another one wants its name.
    async fn meet_a_restore(&mut self, class: &'static str, stored: &str) -> String {
        let name = self.model.new_name("r");
        let told = format!("restore {stored} as {name} in {class}");
        if !self.begin_restore(class, stored, &name, asynchronous).await {
            return format!("{told}: no room");
        }
        let at_most_ms = self.dice.below(500);
        let held = self.hold_replies(at_most_ms);
        if self.dice.below(2) == 0 {
            self.bed.remove(class, &name).await.expect(&told);
            let again = self.bed.remove(class, &name).await;
            assert_eq!(again.expect_err(&told).code(), Code::NotFound, "{told}");
            return format!("{told}, and remove it meanwhile");
        }
        let other = self.dice.one_of(&CLASSES).expect("two");
        let taken = self.bed.try_create(other, &name, EXTENT).await;
        assert_eq!(taken.expect_err(&told).code(), Code::AlreadyExists);
        held.abort();
        // The same call waits for its end, or is too late.
        let size_gb = self.size_gb(stored);
        let source = synchronous(&self.bed.store.s3(stored));
        let same = self.bed.restore(class, &name, size_gb, &source).await;
        if let Err(status) = same {
            assert_eq!(status.code(), Code::AlreadyExists, "{told}: {status}");
        }
        self.restored(class, stored, name);
        format!("{told}, and another one in {other} meanwhile: no")
    }

    /// Keeps jobs from their ends until it is aborted, or for so long: what is being committed is
    /// waited for.
    fn hold_replies(&self, at_most_ms: u64) -> JoinHandle<()> {
        let held = self.bed.store.endpoint.hold_replies();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(at_most_ms)).await;
            drop(held);
        })
    }

    async fn kill(&mut self) -> String {
        self.bed.restart().await;
        "kill".to_owned()
    }

    async fn kill_in_a_backup(&mut self, volume: &str) -> String {
        let begun = self.begin_backup(volume).await;
        let late = self.wait_a_little().await;
        self.bed.restart().await;
        let told = format!("kill {late:?} into a backup of {volume} as {}", begun.name);
        // It was whole, or is begun anew.
        self.end_backup(begun, told).await
    }

    async fn kill_in_a_restore(&mut self, class: &'static str, stored: &str) -> String {
        let name = self.model.new_name("r");
        let told = format!("a restore of {stored} as {name} in {class}");
        if !self.begin_restore(class, stored, &name, asynchronous).await {
            return format!("{told}: no room");
        }
        let late = self.wait_a_little().await;
        self.bed.restart().await;
        // It was whole, or it is gone.
        let is_there = self.bed.names(class).await.contains(&name);
        if is_there {
            self.restored(class, stored, name);
        }
        format!("kill {late:?} into {told}; it is there: {is_there}")
    }

    async fn wait_a_little(&mut self) -> Duration {
        let late = Duration::from_millis(self.dice.below(1500));
        tokio::time::sleep(late).await;
        late
    }

    /// Holds what there is, and what is told of some classes, against the model.
    async fn judge(&mut self, classes: &[&'static str]) {
        for &class in classes {
            let listed = self.bed.list(class).await.into_iter();
            let listed: Vec<_> = listed
                .map(|it| (it.name, it.size_bytes.unsigned_abs()))
                .collect();
            let volumes = self
                .model
                .volumes
                .iter()
                .filter(|(_, it)| it.class == class);
            let expected: Vec<_> = volumes.map(|(name, it)| (name.clone(), it.bytes)).collect();
            assert_eq!(listed, expected, "{class}");
            let free = self.bed.free_bytes(class).await;
            assert_eq!(free, self.model.free_bytes(class), "free in {class}");
        }
        let names = self.model.names();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.bed.assert_left(&names);
        if let Some(name) = self.dice.one_of(&names) {
            check(name, &self.model.volumes[name], &mut self.dice);
        }
    }
}

/// Makes a volume of the model longer. What the disk held is nobody's business, the model's neither.
fn lengthen(name: &str, volume: &mut Volume, bytes: u64, dice: &mut Dice) {
    let new = volume.bytes / MIB..bytes / MIB;
    let is_thick = volume.class == "thick";
    for at in new.clone() {
        let seed = if is_thick { dice.roll() } else { 0 };
        volume.content.insert(at, seed);
    }
    if is_thick {
        put(name, &volume.content, new);
    }
    volume.bytes = bytes;
}

/// Writes some mebibytes.
fn put(name: &str, content: &Content, places: Range<u64>) {
    let file = open_to_write(name);
    for at in places {
        file.write_all_at(&piece(content[&at]), at * MIB)
            .expect("writes");
    }
    file.sync_all().expect("syncs");
}

/// Reads what is always looked at, and some of the zeros that are the rest, its end among them.
fn check(name: &str, volume: &Volume, dice: &mut Dice) {
    let file = File::open(device(name)).expect("opens");
    let len = volume.bytes / MIB;
    let mut places: BTreeSet<u64> = volume.content.keys().copied().collect();
    places.extend((0..ZEROS_LOOKED_AT).map(|_| dice.below(len)));
    places.insert(len - 1);
    let mut found = piece(0);
    for at in places {
        file.read_exact_at(&mut found, at * MIB).expect("reads");
        let seed = volume.content.get(&at).copied().unwrap_or(0);
        assert!(found == piece(seed), "mebibyte {at} of {name}: {volume:?}");
    }
}

async fn run(seed: u64) {
    let operations = env::var(OPERATIONS).map_or(200, |text| text.parse().expect("a number"));
    println!("{SEEDS}={seed} {OPERATIONS}={operations}");
    let bed = Bed::new().await;
    let mut free = BTreeMap::new();
    for class in CLASSES {
        free.insert(class, bed.free_bytes(class).await);
    }
    // So that stale data shows wherever it is looked for.
    bed.create("thick", "dirt", free["thick"]).await;
    soil("dirt", free["thick"]);
    bed.remove("thick", "dirt").await.expect("it is removed");
    let mut run = Run {
        bed,
        dice: Dice(seed),
        model: Model {
            free,
            ..Model::default()
        },
    };
    for number in 0..operations {
        let told = run.step().await;
        println!("{number}: {told}");
        // Commands of LVM are what takes the time.
        let class = run.dice.one_of(&CLASSES).expect("two");
        run.judge(&[class]).await;
    }
    run.judge(&CLASSES).await;
    for (name, volume) in &run.model.volumes {
        check(name, volume, &mut run.dice);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_operations_from_each_seed_are_as_a_model_has_them() {
    let seeds = env::var(SEEDS).unwrap_or_else(|_| "1 2".to_owned());
    for seed in seeds.split_whitespace() {
        run(seed.parse().expect("a number")).await;
    }
}
