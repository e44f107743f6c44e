//! Stores that fail: now and then, from a seed, or altogether for a while.

use std::{
    env, fs,
    panic::{AssertUnwindSafe, resume_unwind},
    path::PathBuf,
    time::{Duration, Instant},
};

use futures::{FutureExt, StreamExt, stream};
use ringback_endpoint::{Counters, Fault, FaultPlan, Outage};
use ringback_proto::lvmd::{StateType, data_source::S3};
use tonic::Code;

use crate::{
    client::{Client, assert_refused, asynchronous, backup, synchronous},
    harness::{Daemon, MIB, class, wait_for},
    store::{Store, assert_same_content, fill},
    valve::Valve,
};

/// Of a thousand requests, so many meet a fault.
const PER_MILLE: u64 = 100;
/// Seeds in the ordinary tier; `RINGBACK_FAULT_SEEDS` says otherwise.
const SEEDS: u64 = 20;
/// Seeds after which each fault must have happened, or something is wrong with the layer.
const SEEDS_FOR_EVERY_FAULT: u64 = 100;
/// Seeds at work at once.
const AT_ONCE: usize = 4;
/// How long an outage lasts in the ordinary tier; `RINGBACK_OUTAGE_SECONDS` says otherwise.
const OUTAGE_SECONDS: u64 = 7;

/// Small packs of two parts each, so that small volumes take many requests.
fn daemon_of_small_packs() -> Daemon {
    Daemon::with(|folder| {
        class("fast", folder, 0, true)
            + "datapath: { pack-mib: 6, packs-min: 1, part-mib: 5, parts-in-flight: 4, \
               queue-depth: 8, backups-max: 8, restores-max: 8 }\n"
    })
}

fn number(name: &str, default: u64) -> u64 {
    let given = env::var(name).ok();
    given.map_or(default, |text| text.parse().expect(name))
}

/// A backup under faults, and what its requester was told.
struct Told {
    s3: S3,
    /// What the volume held.
    content: PathBuf,
    complete: bool,
}

/// One seed: a volume, its two backups and their restores, all under faults; then the same
/// without, to see whether what was told is true.
struct Round<'a> {
    daemon: &'a Daemon,
    client: Client,
    store: Store,
    seed: u64,
}

impl Round<'_> {
    async fn run(&self) -> Counters {
        let name = format!("volume-{}", self.seed);
        let volume = self.client.create(&name, 32 * MIB).await.path;
        let plan = FaultPlan::mixed(self.seed, PER_MILLE);
        self.store.endpoint.set_faults(Some(plan));
        fill(&volume, MIB, 24 * MIB, &format!("first {}", self.seed));
        let first = self.back_up("first", &name, &volume).await;
        fill(&volume, 8 * MIB, 4 * MIB, &format!("second {}", self.seed));
        let second = self.back_up("second", &name, &volume).await;
        for told in [&first, &second] {
            self.restore_under_faults(told).await;
        }
        self.store.endpoint.set_faults(None);
        for told in [&first, &second] {
            self.judge(told).await;
        }
        self.client.remove(&name).await.expect("it is removed");
        self.store.endpoint.counters()
    }

    async fn back_up(&self, backup_name: &str, volume_name: &str, volume: &str) -> Told {
        let content = self.daemon.path(&format!("{volume_name}-{backup_name}"));
        fs::copy(volume, &content).expect("copies the volume");
        let s3 = self.store.s3(backup_name);
        let request = backup(&format!("{volume_name}-{backup_name}"), volume_name, &s3);
        let state = self.client.end_of(&request).await;
        let complete = state.state() == StateType::Complete;
        if !complete {
            self.assert_true(&state.msg);
        }
        Told {
            s3,
            content,
            complete,
        }
    }

    /// A restore that is told to be done holds the right bytes; one that is not says why.
    async fn restore_under_faults(&self, told: &Told) {
        let name = format!("faulty-{}", self.seed);
        let source = synchronous(&told.s3);
        match self.client.restore(&name, 1, &source).await {
            Ok(volume) => {
                assert_same_content(&told.content.to_string_lossy(), &volume.path);
                self.client.remove(&name).await.expect("it is removed");
            }
            Err(status) if status.code() == Code::NotFound => {
                assert!(!told.complete, "{}", status.message());
            }
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable, "{}", status.message());
                self.assert_true(status.message());
                assert_eq!(self.client.find(&name).await, None);
            }
        }
    }

    /// What was told to be complete is there and right; of what was not, either nothing is there
    /// or all of it.
    async fn judge(&self, told: &Told) {
        let name = format!("sound-{}", self.seed);
        match self.client.restore(&name, 1, &synchronous(&told.s3)).await {
            Ok(volume) => {
                assert_same_content(&told.content.to_string_lossy(), &volume.path);
                self.client.remove(&name).await.expect("it is removed");
            }
            Err(status) => {
                assert!(!told.complete, "a false COMPLETE: {}", status.message());
                assert_eq!(status.code(), Code::NotFound, "{}", status.message());
            }
        }
        fs::remove_file(&told.content).expect("removes the copy");
    }

    /// Asserts that a sentence about a failure names something that really happened.
    fn assert_true(&self, sentence: &str) {
        assert_names_what_happened(sentence, &self.store.endpoint.counters());
    }
}

#[track_caller]
fn assert_names_what_happened(sentence: &str, counters: &Counters) {
    let signs: [(&str, &[Fault]); 9] = [
        ("status 500 InternalError", &[Fault::InternalError]),
        ("status 503 SlowDown", &[Fault::SlowDown]),
        ("status 200 InternalError", &[Fault::ErrorInCompletion]),
        ("BadDigest", &[Fault::FlippedUpload]),
        ("IncompleteBody", &[Fault::CutUpload]),
        ("shorter than what was asked for", &[Fault::ShortDownload]),
        ("broke off", &[Fault::CutDownload, Fault::ShortDownload]),
        (
            "the connection was reset",
            &[Fault::ResetBefore, Fault::ResetAfter],
        ),
        ("closed before", &[Fault::ResetBefore, Fault::ResetAfter]),
    ];
    let named = signs.iter().find(|(sign, _)| sentence.contains(sign));
    let Some((sign, faults)) = named else {
        panic!("it names nothing that can have happened: {sentence}");
    };
    let happened = faults.iter().any(|fault| counters.faults(*fault) > 0);
    assert!(happened, "{sign} did not happen: {sentence}");
}

/// One seed. When it fails, what a person types to see it again is printed.
async fn run_seed(daemon: &Daemon, seed: u64) -> Counters {
    let round = Round {
        daemon,
        client: daemon.client().await,
        store: Store::start().await,
        seed,
    };
    match AssertUnwindSafe(round.run()).catch_unwind().await {
        Ok(counters) => counters,
        Err(panic) => {
            eprintln!(
                "seed {seed} failed; to see it again: RINGBACK_FAULT_FIRST={seed} \
                 RINGBACK_FAULT_SEEDS=1 cargo test -p ringback --test e2e \
                 faults::under_seeded_faults"
            );
            resume_unwind(panic)
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn under_seeded_faults_every_job_ends_complete_with_the_right_bytes_or_in_a_true_error() {
    let (first, seeds) = (
        number("RINGBACK_FAULT_FIRST", 1),
        number("RINGBACK_FAULT_SEEDS", SEEDS),
    );
    let daemon = daemon_of_small_packs();
    let counters: Vec<Counters> = stream::iter(first..first + seeds)
        .map(|seed| run_seed(&daemon, seed))
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    for fault in Fault::PASSING {
        let times: u64 = counters.iter().map(|it| it.faults(fault)).sum();
        println!("{fault}: {times}");
        assert!(
            times > 0 || seeds < SEEDS_FOR_EVERY_FAULT,
            "{fault} never happened"
        );
    }
}

/// A daemon, a store, a volume of 64 MiB with its backup `monday`, and another content since.
struct Bed {
    daemon: Daemon,
    client: Client,
    store: Store,
    volume: String,
}

impl Bed {
    async fn new() -> Self {
        let (daemon, store) = (daemon_of_small_packs(), Store::start().await);
        let client = daemon.client().await;
        let volume = client.create("data", 64 * MIB).await.path;
        fill(&volume, MIB, 40 * MIB, "monday");
        client.back_up("data", &store.s3("monday")).await;
        fs::copy(&volume, daemon.path("monday")).expect("copies the volume");
        fill(&volume, MIB, 40 * MIB, "tuesday");
        Self {
            daemon,
            client,
            store,
            volume,
        }
    }

    /// Asserts that `again` holds what `data` held on Monday, and that Tuesday's backup is right.
    async fn assert_both_are_right(&self, again: &str) {
        let monday = self.daemon.path("monday");
        assert_same_content(&monday.to_string_lossy(), again);
        let source = synchronous(&self.store.s3("tuesday"));
        let tuesday = self.client.restore("tuesday", 1, &source).await;
        assert_same_content(&self.volume, &tuesday.expect("it is restored").path);
    }

    /// Backs up and restores under this plan; both must succeed.
    async fn survives(&self, plan: FaultPlan) -> Counters {
        self.store.endpoint.set_faults(Some(plan));
        self.client.back_up("data", &self.store.s3("tuesday")).await;
        let source = synchronous(&self.store.s3("monday"));
        let again = self.client.restore("again", 1, &source).await;
        self.store.endpoint.set_faults(None);
        let again = again.expect("it is restored").path;
        self.assert_both_are_right(&again).await;
        self.store.endpoint.counters()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_that_passes_is_survived_when_three_requests_meet_it() {
    let bed = Bed::new().await;
    for fault in Fault::PASSING {
        fill(&bed.volume, MIB, 12 * MIB, &fault.to_string());
        let plan = FaultPlan {
            requests_max: 3,
            ..FaultPlan::always(fault)
        };
        let s3 = bed.store.s3(&fault.to_string());
        bed.store.endpoint.set_faults(Some(plan.clone()));
        bed.client.back_up("data", &s3).await;
        bed.store.endpoint.set_faults(Some(plan));
        let again = bed.client.restore("again", 1, &synchronous(&s3)).await;
        assert_same_content(&bed.volume, &again.expect("it is restored").path);
        bed.client.remove("again").await.expect("it is removed");
        let counters = bed.store.endpoint.counters();
        assert!(counters.faults(fault) >= 3, "{fault}: {counters:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_store_is_waited_for() {
    let bed = Bed::new().await;
    let counters = bed.survives(FaultPlan::always(Fault::Delay)).await;
    assert!(counters.faults(Fault::Delay) > 50, "{counters:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_resets_two_of_five_connections_is_asked_again() {
    let bed = Bed::new().await;
    let plan = FaultPlan {
        faults: vec![Fault::ResetBefore, Fault::ResetAfter],
        ..FaultPlan::mixed(1, 400)
    };
    let counters = bed.survives(plan).await;
    for fault in [Fault::ResetBefore, Fault::ResetAfter] {
        assert!(counters.faults(fault) > 5, "{counters:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_denies_access_in_the_midst_ends_jobs_at_once_and_they_begin_again() {
    let bed = Bed::new().await;
    let (of_backup, of_restore) = (Valve::to(&bed.store).await, Valve::to(&bed.store).await);
    let running = backup(
        "a-backup",
        "data",
        &of_backup.through(bed.store.s3("tuesday")),
    );
    bed.client.poll(&running).await.expect("it starts");
    let source = synchronous(&of_restore.through(bed.store.s3("monday")));
    let restore = tokio::spawn({
        let (client, source) = (bed.client.clone(), source.clone());
        async move { client.restore("again", 1, &source).await }
    });
    of_backup.is_shut().await;
    of_restore.is_shut().await;
    bed.store
        .endpoint
        .set_faults(Some(FaultPlan::always(Fault::AccessDenied)));
    of_backup.open();
    of_restore.open();

    let state = bed.client.end_of(&running).await;
    assert_eq!(state.state(), StateType::Error);
    assert!(state.msg.contains("denies access"), "{}", state.msg);
    assert!(state.msg.contains("(AccessDenied)"), "{}", state.msg);
    let restored = restore.await.expect("joins");
    assert_refused(restored, Code::PermissionDenied, "denies access");
    bed.daemon.assert_nothing_is_left_of("again");

    bed.store.endpoint.set_faults(None);
    let state = bed.client.end_of(&running).await;
    assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
    let again = bed.client.restore("again", 1, &source).await;
    bed.assert_both_are_right(&again.expect("it is restored").path)
        .await;
}

/// An address where nobody listens.
async fn nowhere() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let address = listener.expect("binds").local_addr();
    format!("http://{}", address.expect("is bound"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_where_nobody_listens_is_named_within_seconds_to_those_who_wait() {
    let bed = Bed::new().await;
    let s3 = S3 {
        endpoint: nowhere().await,
        ..bed.store.s3("monday")
    };
    let begun = Instant::now();
    let restored = bed.client.restore("again", 1, &synchronous(&s3)).await;
    assert_refused(restored, Code::Unavailable, "the connection was refused");
    let asked = bed.client.poll(&backup("lost", "absent", &s3)).await;
    assert_eq!(asked.expect_err("no store").code(), Code::Unavailable);
    assert!(begun.elapsed() < Duration::from_secs(25));
    bed.daemon.assert_nothing_is_left_of("again");

    // A backup job is patient; it lets go when its volume is removed.
    let request = backup("patient", "data", &s3);
    let state = bed.client.poll(&request).await.expect("it starts");
    assert_eq!(state.state(), StateType::Inprogress, "{}", state.msg);
    bed.client.remove("data").await.expect("it is removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_nearly_always_is_unavailable_and_the_error_says_with_what() {
    let bed = Bed::new().await;
    for fault in [Fault::SlowDown, Fault::ResetBefore] {
        let plan = FaultPlan::always(fault);
        bed.store.endpoint.set_faults(Some(plan));
        let source = synchronous(&bed.store.s3("monday"));
        let refused = bed.client.restore("again", 1, &source).await;
        let status = refused.expect_err("no store");
        assert_eq!(status.code(), Code::Unavailable, "{}", status.message());
        let counters = bed.store.endpoint.counters();
        assert_names_what_happened(status.message(), &counters);
    }
    bed.store.endpoint.set_faults(None);
}

/// A backup and a restore, each in the midst of its data when the store goes away for a while.
async fn survive_an_outage(outage: Outage) {
    let bed = Bed::new().await;
    let (of_backup, of_restore) = (Valve::to(&bed.store).await, Valve::to(&bed.store).await);
    let running = backup(
        "a-backup",
        "data",
        &of_backup.through(bed.store.s3("tuesday")),
    );
    bed.client.poll(&running).await.expect("it starts");
    let source = asynchronous(&of_restore.through(bed.store.s3("monday")));
    bed.client
        .restore("again", 1, &source)
        .await
        .expect("it starts");
    of_backup.is_shut().await;
    of_restore.is_shut().await;
    bed.store.endpoint.set_outage(Some(outage));
    of_backup.open();
    of_restore.open();
    let seconds = number("RINGBACK_OUTAGE_SECONDS", OUTAGE_SECONDS);
    let over = Instant::now() + Duration::from_secs(seconds);
    let mut is_told = false;
    while Instant::now() < over {
        let state = bed.client.poll(&running).await.expect("it is polled");
        assert_eq!(state.state(), StateType::Inprogress, "{}", state.msg);
        is_told |= state.msg.contains("; the store: no success for ");
        let restoring = bed.client.restore("again", 1, &source).await;
        restoring.expect("it joins");
        assert_eq!(bed.client.find("again").await, None);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // A silence is one when the first request's time is over.
    assert!(is_told || (outage == Outage::Silence && seconds < 300));
    bed.store.endpoint.set_outage(None);
    let state = bed.client.end_of(&running).await;
    assert_eq!(state.state(), StateType::Complete, "{}", state.msg);
    let again = wait_for("the restored volume", async || {
        bed.client.find("again").await
    })
    .await;
    bed.assert_both_are_right(&again.path).await;
    assert!(bed.store.endpoint.counters().cut_connections > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_survive_a_store_that_resets_every_connection_for_a_while() {
    survive_an_outage(Outage::Reset).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_survive_a_store_that_says_nothing_for_a_while() {
    survive_an_outage(Outage::Silence).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_there_are_no_credentials_the_caller_is_told_at_once_where_they_are_looked_for() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let environment = vec![("HOME", home.path().display().to_string())];
    let daemon = Daemon::in_environment(environment, |folder| class("fast", folder, 0, true));
    let (client, store) = (daemon.client().await, Store::start().await);
    client.create("data", 8 * MIB).await;
    let s3 = S3 {
        access_key_id: String::new(),
        secret_access_key: String::new(),
        ..store.s3("monday")
    };
    let says = "no credentials for";
    let restored = client.restore("again", 1, &synchronous(&s3)).await;
    assert_refused(restored, Code::PermissionDenied, says);
    let state = client.end_of(&backup("nightly", "data", &s3)).await;
    assert_eq!(state.state(), StateType::Error);
    assert!(state.msg.contains(says), "{}", state.msg);
    assert!(state.msg.contains("AWS_ACCESS_KEY_ID"), "{}", state.msg);
    assert_eq!(store.requests(), 0);
}
