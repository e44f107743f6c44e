//! What is odd: names and tags at their limits, calls all at once, a disk or a pool that fails.

use std::{env, fs, process::Command};

use ringback_proto::lvmd::{CreateLvRequest, StateType, data_source::S3};
use tonic::Code;

use crate::{
    client::{assert_refused, backup, ok, sized_bytes, synchronous},
    harness::MIB,
    store::fill,
    vg::{Bed, CLASSES, POOL, POOL_BYTES, assert_holds, content, field, head, run, write},
};

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_name_and_the_oddest_tags_are_taken_as_they_are() {
    let bed = Bed::new().await;
    // 127 less `vm-` and 24 for temporary names; hyphens count twice.
    let name = &format!("N-.+_{}", "n".repeat(94));
    let tags = ["+", "Z!=:&#/._-+", "a/b=c", "topolvm.io/x=y"];
    for class in CLASSES {
        let request = CreateLvRequest {
            device_class: class.to_owned(),
            tags: tags.iter().map(ToString::to_string).collect(),
            ..sized_bytes(name, 8 * MIB)
        };
        let made = ok(bed.client.clone().lv.create_lv(request).await).volume;
        assert_eq!(made.expect("made").tags, tags);
        fill(&format!("/dev/vm/{name}"), 0, MIB, class);
        run(&["sync"]);
        let original = content(name);
        let s3 = bed.store.s3(class);
        let state = bed.client.end_of(&backup(class, name, &s3)).await;
        assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
        bed.remove(class, name).await.expect("it is removed");
        let source = synchronous(&s3);
        let request = CreateLvRequest {
            device_class: class.to_owned(),
            tags: tags.iter().map(ToString::to_string).collect(),
            ..crate::client::with_source(name, 1, &source)
        };
        let restored = ok(bed.client.clone().lv.create_lv(request).await).volume;
        assert_eq!(restored.expect("restored").tags, tags);
        assert_holds(name, &original);
        bed.remove(class, name).await.expect("it is removed");
        bed.assert_left(&[]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_all_at_once_do_what_they_would_one_by_one() {
    let bed = Bed::new().await;
    let free = [bed.free_bytes("thick").await, bed.free_bytes("thin").await];
    let made = (0..12).map(|n| {
        let class = CLASSES[n % 2];
        let bed = &bed;
        // Each name is wanted by both classes.
        async move { bed.try_create(class, &format!("v{}", n / 2), 8 * MIB).await }
    });
    let made = futures::future::join_all(made).await;
    let taken: Vec<_> = made.iter().filter_map(|it| it.as_ref().err()).collect();
    assert_eq!(taken.len(), 6, "{taken:?}");
    for status in taken {
        assert_eq!(status.code(), Code::AlreadyExists, "{status}");
    }
    let mut names = bed.names("thick").await;
    names.extend(bed.names("thin").await);
    names.sort_unstable();
    assert_eq!(names, ["v0", "v1", "v2", "v3", "v4", "v5"]);
    let removed = names.iter().map(|name| {
        let bed = &bed;
        async move { tokio::join!(bed.remove("thick", name), bed.remove("thin", name)) }
    });
    for (thick, thin) in futures::future::join_all(removed).await {
        assert!(thick.is_ok() != thin.is_ok(), "{thick:?} {thin:?}");
    }
    bed.assert_left(&[]);
    assert_eq!(
        [bed.free_bytes("thick").await, bed.free_bytes("thin").await],
        free
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_and_changes_all_at_once_do_what_they_would_one_by_one() {
    let bed = Bed::new().await;
    let [thick, thin] = CLASSES.map(|class| Crowd { bed: &bed, class });
    let days = [thick.prepares().await, thin.prepares().await];
    // Of one that grows meanwhile.
    let source = thin.name("data");
    let snapshot = bed.snapshot("thin", "copy", &source);
    let (_, _, copy) = tokio::join!(thick.acts_at_once(), thin.acts_at_once(), snapshot);
    copy.expect("it is made");
    assert!(head("copy", 8 * MIB) == days[1].tuesday);
    for (crowd, days) in [thick, thin].into_iter().zip(&days) {
        crowd.finds(days).await;
    }
    let of_each = ["data", "monday", "tuesday"].map(|what| [thick.name(what), thin.name(what)]);
    let of_each = of_each.as_flattened().iter().map(String::as_str);
    bed.assert_left(&of_each.chain(["copy"]).collect::<Vec<_>>());
}

/// Those who want something of a class at the same time.
#[derive(Clone, Copy)]
struct Crowd<'a> {
    bed: &'a Bed,
    class: &'static str,
}

/// What a volume held when it was backed up first, and what when it was backed up again.
struct Days {
    monday: Vec<u8>,
    tuesday: Vec<u8>,
}

impl Crowd<'_> {
    fn name(&self, what: &str) -> String {
        format!("{}-{what}", self.class)
    }

    fn s3(&self, day: &str) -> S3 {
        self.bed.store.s3(&self.name(day))
    }

    async fn prepares(&self) -> Days {
        let data = self.name("data");
        self.bed.create(self.class, &data, 8 * MIB).await;
        let monday = write_anew(&data, &self.name("monday"));
        self.bed.client.back_up(&data, &self.s3("monday")).await;
        let tuesday = write_anew(&data, &self.name("tuesday"));
        Days { monday, tuesday }
    }

    async fn acts_at_once(&self) {
        let Self { bed, class } = self;
        let [data, monday, tuesday] = ["data", "monday", "tuesday"].map(|what| self.name(what));
        let source = synchronous(&self.s3("monday"));
        let request = backup(&tuesday, &data, &self.s3("tuesday"));
        let (more, most, restored, backed_up) = tokio::join!(
            bed.resize(class, &data, 12 * MIB),
            bed.resize(class, &data, 16 * MIB),
            bed.restore(class, &monday, 1, &source),
            bed.client.end_of(&request),
        );
        // Whichever came first.
        assert!([12 * MIB, 16 * MIB].contains(&more.expect("it grows")));
        assert_eq!(most.expect("it grows"), 16 * MIB);
        restored.expect("it is restored");
        assert_eq!(backed_up.state(), StateType::Complete, "{}", backed_up.msg);
    }

    /// All is as it should be, the second backup as well.
    async fn finds(&self, days: &Days) {
        let (tuesday, source) = (self.name("tuesday"), synchronous(&self.s3("tuesday")));
        let restored = self.bed.restore("thin", &tuesday, 1, &source).await;
        restored.expect("it is restored");
        assert!(head(&tuesday, 8 * MIB) == days.tuesday);
        assert!(head(&self.name("monday"), 8 * MIB) == days.monday);
        assert!(head(&self.name("data"), 8 * MIB) == days.tuesday);
    }
}

/// Fills a volume of 8 MiB; its content.
fn write_anew(name: &str, seed: &str) -> Vec<u8> {
    fill(&format!("/dev/vm/{name}"), 0, 8 * MIB, seed);
    run(&["sync"]);
    content(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_full_of_data_can_still_be_backed_up_and_emptied() {
    let bed = Bed::new().await;
    bed.create("thin", "data", 8 * MIB).await;
    fill("/dev/vm/data", 0, 8 * MIB, "data");
    bed.create("thin", "ballast", POOL_BYTES - 8 * MIB).await;
    write("ballast", 0, POOL_BYTES - 8 * MIB, 1);
    assert_eq!(field(POOL, "data_percent"), "100.00");
    let request = backup("monday", "data", &bed.store.s3("monday"));
    let state = bed.client.end_of(&request).await;
    assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
    let warning = "overwriting volume data takes new blocks: up to 8388608 bytes, and 0 are left";
    assert!(state.msg.contains(warning), "{}", state.msg);
    bed.remove("thin", "ballast").await.expect("it is removed");
    bed.assert_left(&["data"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_full_of_metadata_takes_no_volume_and_no_snapshot_and_nothing_is_left_of_them() {
    let bed = Bed::new().await;
    bed.create("thin", "data", 128 * MIB).await;
    fill("/dev/vm/data", 0, 128 * MIB, "data");
    run(&["sync"]);
    // A snapshot, and a block of each leaf of the tree of mappings written anew, take a copy of it.
    let mut volumes = vec!["data".to_owned()];
    let refused = loop {
        let name = format!("s{}", volumes.len());
        let snapshot = ["lvcreate", "--yes", "-s", "-k", "n", "-n", &name, "vm/data"];
        let made = Command::new(snapshot[0]).args(&snapshot[1..]).output();
        let made = made.expect("lvcreate starts");
        if !made.status.success() {
            break String::from_utf8_lossy(&made.stderr).into_owned();
        }
        for leaf in 0..16 {
            write("data", leaf * 8 * MIB, 64 << 10, 1);
        }
        volumes.push(name);
    };
    assert!(refused.contains("reached threshold"), "{refused}");
    let refused = bed.try_create("thin", "more", 8 * MIB).await;
    assert_refused(refused, Code::ResourceExhausted, "reached threshold");
    let request = backup("monday", "data", &bed.store.s3("monday"));
    let state = bed.client.end_of(&request).await;
    assert_eq!(state.state(), StateType::Error, "{}", state.msg);
    assert!(state.msg.contains("reached threshold"), "{}", state.msg);
    let left: Vec<&str> = volumes.iter().map(String::as_str).collect();
    bed.assert_left(&left);
    for name in &left[1..] {
        bed.remove("thin", name).await.expect("it is removed");
    }
    let state = bed.client.end_of(&request).await;
    assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_disk_missing_volumes_are_listed_and_none_are_made_in_lvms_words() {
    let (wrapper, missing) = ("/tmp/one-disk-less", "/tmp/missing");
    let _ = fs::remove_file(missing);
    let disks = env::var("RINGBACK_GUEST_DISKS").expect("the guest's");
    let disk = disks.split_whitespace().nth(2).expect("one of three");
    let script = format!(
        "[ -e {missing} ] || exec lvm \"$@\"\n\
         command=$1; shift\n\
         exec lvm $command --config 'devices {{ filter=[\"r|{disk}|\"] }}' \"$@\"\n"
    );
    fs::write(wrapper, script).expect("writes the script");
    let prefix = format!("lvm-command-prefix: [/bin/bash, {wrapper}]\n");
    let bed = Bed::with("", &prefix).await;
    bed.create("thick", "data", 8 * MIB).await;
    fs::write(missing, "").expect("writes");
    for class in CLASSES {
        let refused = bed.try_create(class, "more", 8 * MIB).await;
        assert_refused(refused, Code::Internal, "PVs are missing");
    }
    let state = bed
        .client
        .end_of(&backup("monday", "data", &bed.store.s3("monday")))
        .await;
    assert_eq!(state.state(), StateType::Error, "{}", state.msg);
    assert!(state.msg.contains("PVs are missing"), "{}", state.msg);
    assert_eq!(bed.names("thick").await, ["data"]);
    fs::remove_file(missing).expect("it comes back");
    bed.assert_left(&["data"]);
    bed.remove("thick", "data").await.expect("it is removed");
}
