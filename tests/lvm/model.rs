//! Two hundred operations from a seed, held against a model: what is listed, what is free, every byte,
//! and what LVM and the kernel have. A failure prints the seed, which makes the same operations again.

use std::{collections::BTreeMap, env, fs::File, os::unix::fs::FileExt, time::Duration};

use ringback_proto::lvmd::{CreateLvSnapshotRequest, DataSource, StateType};
use tonic::Code;

use crate::{
    client::{asynchronous, backup, synchronous, with_source},
    harness::{GIB, MIB},
    vg::{Bed, CLASSES, device},
};

/// Variables that choose other seeds, separated by blanks, and operations of each.
const SEEDS: &str = "RINGBACK_LVM_SEEDS";
const OPERATIONS: &str = "RINGBACK_LVM_OPERATIONS";
const EXTENT: u64 = 4 * MIB;
const VOLUMES_MAX: usize = 6;

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

/// A volume's content: a seed for each mebibyte, 0 for zeros.
type Content = Vec<u64>;

#[derive(Debug, Clone)]
struct Volume {
    class: &'static str,
    bytes: u64,
    /// What lies behind is zeros.
    content: Content,
}

/// What there should be.
#[derive(Default)]
struct Model {
    volumes: BTreeMap<String, Volume>,
    backups: BTreeMap<String, Content>,
    free: BTreeMap<&'static str, u64>,
    names: u64,
}

impl Model {
    fn free_bytes(&self, class: &str) -> u64 {
        let taken = self.volumes.values().filter(|it| it.class == class);
        self.free[class] - taken.map(|it| it.bytes).sum::<u64>()
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

impl Run {
    async fn step(&mut self) -> String {
        let class = self.dice.one_of(&CLASSES).expect("two");
        let volume = self.dice.one_of(&self.model.names());
        let stored: Vec<String> = self.model.backups.keys().cloned().collect();
        let stored = self.dice.one_of(&stored);
        match (self.dice.below(100), volume, stored) {
            (0..12, ..) => self.create(class).await,
            (12..30, Some(name), _) => self.write(&name),
            (30..38, Some(name), _) => self.snapshot(&name).await,
            (38..50, Some(name), _) => self.back_up(&name).await,
            (50..62, _, Some(stored)) => self.restore(class, &stored).await,
            (62..68, Some(name), _) => self.resize(&name).await,
            (68..86, Some(name), _) => self.remove(&name).await,
            (86..90, ..) => self.kill().await,
            (90..95, Some(name), _) => self.kill_in_a_backup(&name).await,
            (95.., _, Some(stored)) => self.kill_in_a_restore(class, &stored).await,
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
        let mut content = vec![0; usize::try_from(bytes / MIB).expect("few")];
        if class == "thick" {
            // What the disk held is nobody's business, the model's neither.
            content.fill_with(|| self.dice.roll());
        }
        let volume = Volume {
            class,
            bytes,
            content,
        };
        if class == "thick" {
            let all: Vec<usize> = (0..volume.content.len()).collect();
            put(&name, &volume.content, &all);
        }
        self.model.volumes.insert(name, volume);
        told
    }

    fn write(&mut self, name: &str) -> String {
        let volume = self.model.volumes.get_mut(name).expect("there");
        let len = u64::try_from(volume.content.len()).expect("few");
        let at = usize::try_from(self.dice.below(len)).expect("few");
        volume.content[at] = match self.dice.below(4) {
            0 => 0,
            _ => self.dice.roll(),
        };
        put(name, &volume.content, &[at]);
        format!("write mebibyte {at} of {name}")
    }

    async fn snapshot(&mut self, source: &str) -> String {
        let volume = self.model.volumes[source].clone();
        let name = self.model.new_name("s");
        let told = format!("snapshot {name} of {source} in {}", volume.class);
        let request = CreateLvSnapshotRequest {
            name: name.clone(),
            device_class: volume.class.to_owned(),
            source_volume: source.to_owned(),
            access_type: "rw".to_owned(),
            ..CreateLvSnapshotRequest::default()
        };
        let made = self.bed.client.clone().lv.create_lv_snapshot(request).await;
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
        let name = self.model.new_name("b");
        let told = format!("back up {volume} as {name}");
        let request = backup(&name, volume, &self.bed.store.s3(&name));
        let state = self.bed.client.end_of(&request).await;
        if state.state() == StateType::Error {
            let room = "are free in its volume group";
            assert!(state.msg.contains(room), "{told}: {}", state.msg);
            return format!("{told}: no room for its snapshot");
        }
        let content = self.model.volumes[volume].content.clone();
        self.model.backups.insert(name, content);
        told
    }

    async fn restore(&mut self, class: &'static str, stored: &str) -> String {
        let name = self.model.new_name("r");
        let told = format!("restore {stored} as {name} in {class}");
        let source = synchronous(&self.bed.store.s3(stored));
        if !self.begin_restore(class, &name, &source, &told).await {
            return format!("{told}: no room");
        }
        self.restored(class, stored, name);
        told
    }

    /// Whether there is room for it.
    async fn begin_restore(
        &self,
        class: &'static str,
        name: &str,
        source: &DataSource,
        told: &str,
    ) -> bool {
        let mut request = with_source(name, 1, source);
        request.device_class = class.to_owned();
        let made = self.bed.client.clone().lv.create_lv(request).await;
        let has_room = GIB <= self.model.free_bytes(class);
        match has_room {
            true => drop(made.expect(told)),
            false => assert_eq!(made.expect_err(told).code(), Code::ResourceExhausted),
        }
        has_room
    }

    fn restored(&mut self, class: &'static str, stored: &str, name: String) {
        let mut content = self.model.backups[stored].clone();
        // As far as it is written to afterwards; the rest is looked at here and there.
        content.resize(content.len() + 8, 0);
        let volume = Volume {
            class,
            bytes: GIB,
            content,
        };
        check(&name, &volume);
        self.model.volumes.insert(name, volume);
    }

    async fn resize(&mut self, name: &str) -> String {
        let free = self.model.free_bytes(self.model.volumes[name].class);
        let volume = self.model.volumes.get_mut(name).expect("there");
        // A backup of more than a gibibyte does not fit into what is restored here.
        let steps = if volume.bytes < GIB {
            self.dice.below(4)
        } else {
            0
        };
        let bytes = volume.bytes + steps * EXTENT;
        let told = format!("resize {name} to {bytes}");
        let resized = self.bed.resize(volume.class, name, bytes).await;
        if bytes - volume.bytes > free {
            assert_eq!(resized.expect_err(&told).code(), Code::ResourceExhausted);
            return format!("{told}: no room");
        }
        assert_eq!(resized.expect(&told), bytes);
        let grown = usize::try_from((bytes - volume.bytes) / MIB).expect("few");
        volume.bytes = bytes;
        if volume.class == "thick" {
            let before = volume.content.len();
            volume
                .content
                .resize_with(before + grown, || self.dice.roll());
            let new: Vec<usize> = (before..before + grown).collect();
            put(name, &volume.content, &new);
        }
        told
    }

    async fn remove(&mut self, name: &str) -> String {
        let volume = self.model.volumes.remove(name).expect("there");
        let told = format!("remove {name}");
        self.bed.remove(volume.class, name).await.expect(&told);
        let again = self.bed.remove(volume.class, name).await;
        assert_eq!(again.expect_err(&told).code(), Code::NotFound);
        told
    }

    async fn kill(&mut self) -> String {
        self.bed.restart().await;
        "kill".to_owned()
    }

    async fn kill_in_a_backup(&mut self, volume: &str) -> String {
        let name = self.model.new_name("b");
        let request = backup(&name, volume, &self.bed.store.s3(&name));
        self.bed.client.poll(&request).await.expect("it starts");
        let late = self.wait_a_little().await;
        self.bed.restart().await;
        format!("kill {late:?} into a backup of {volume} as {name}")
    }

    async fn kill_in_a_restore(&mut self, class: &'static str, stored: &str) -> String {
        let name = self.model.new_name("r");
        let told = format!("a restore of {stored} as {name} in {class}");
        let source = asynchronous(&self.bed.store.s3(stored));
        if !self.begin_restore(class, &name, &source, &told).await {
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
            check(name, &self.model.volumes[name]);
        }
    }
}

/// Writes some mebibytes.
fn put(name: &str, content: &Content, places: &[usize]) {
    let file = File::options()
        .write(true)
        .open(device(name))
        .expect("opens");
    for &at in places {
        let offset = u64::try_from(at).expect("few") * MIB;
        file.write_all_at(&piece(content[at]), offset)
            .expect("writes");
    }
    file.sync_all().expect("syncs");
}

fn check(name: &str, volume: &Volume) {
    let file = File::open(device(name)).expect("opens");
    let mut found = piece(0);
    for (at, seed) in volume.content.iter().enumerate() {
        let offset = u64::try_from(at).expect("few") * MIB;
        file.read_exact_at(&mut found, offset).expect("reads");
        assert!(found == piece(*seed), "mebibyte {at} of {name}: {volume:?}");
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
    let all = run.model.volumes.iter();
    all.for_each(|(name, volume)| check(name, volume));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_operations_from_each_seed_are_as_a_model_has_them() {
    let seeds = env::var(SEEDS).unwrap_or_else(|_| "1 2".to_owned());
    for seed in seeds.split_whitespace() {
        run(seed.parse().expect("a number")).await;
    }
}
