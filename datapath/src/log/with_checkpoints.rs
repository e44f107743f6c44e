//! Tests of a log that is summed up and truncated.

use std::sync::Arc;

use ringback_proto::repository::{Damage, Segments};

use super::{truncate::INTERVAL, *};
use crate::{
    chunk::ChunkSize,
    crypt::Passphrase,
    format::name::{SessionId, join_names},
    store::{ObjectStore, fake::FakeStore, location::Secret},
};

fn commit(name: &str) -> Commit {
    let segment = PackName::random(SessionId::random(), 0);
    Commit {
        id: Bytes::copy_from_slice(&random::<16>()),
        name: name.to_owned(),
        segments: join_names([&segment]),
        ..Commit::default()
    }
}

async fn append(log: &mut Log, names: std::ops::Range<u64>) {
    for n in names {
        let committed = log.append(commit(&format!("backup {n}"))).await;
        committed.expect("appended");
    }
}

async fn replayed(repository: &Repository) -> Log {
    Log::replay(repository).await.expect("replay")
}

/// What lies below a prefix.
fn names(store: &FakeStore, prefix: &str) -> Vec<String> {
    let objects = store.objects();
    let below = objects.keys().filter(|name| name.starts_with(prefix));
    below.cloned().collect()
}

/// A log of two intervals and some: two checkpoints, and no entries below the lower one.
async fn truncated(store: &Arc<FakeStore>) -> (Repository, Log) {
    let repository = store.repository().await;
    let mut log = replayed(&repository).await;
    append(&mut log, 1..2 * INTERVAL + 11).await;
    (repository, log)
}

#[tokio::test]
async fn a_long_log_is_summed_up_and_its_oldest_entries_go() {
    let store = Arc::new(FakeStore::new());
    let (repository, log) = truncated(&store).await;
    let checkpoints = [Slot(INTERVAL), Slot(2 * INTERVAL)].map(Slot::checkpoint);
    assert_eq!(names(&store, "checkpoint/"), checkpoints);
    assert_eq!(names(&store, LOG)[0], Slot(INTERVAL + 1).object());
    let gets = store.gets.load(std::sync::atomic::Ordering::Relaxed);
    let again = replayed(&repository).await;
    assert_eq!(again.history, log.history);
    assert!(again.commits().is_sorted_by_key(|it| it.slot));
    let replay_gets = store.gets.load(std::sync::atomic::Ordering::Relaxed) - gets;
    assert!(replay_gets < 16, "{replay_gets}");
}

#[tokio::test]
async fn one_backup_is_found_by_the_block_that_its_name_is_in() {
    let store = Arc::new(FakeStore::new());
    let (repository, log) = truncated(&store).await;
    for committed in log.commits() {
        let found = Log::look_up(&repository, &committed.commit.name).await;
        assert_eq!(found.expect("looked up").as_ref(), Some(committed));
    }
    for name in ["", "backup", "backup 2000", "zzz"] {
        let found = Log::look_up(&repository, name).await.expect("looked up");
        assert_eq!(found, None, "{name}");
    }
}

#[tokio::test]
async fn a_reader_that_slept_goes_on_from_a_checkpoint() {
    let store = Arc::new(FakeStore::new());
    let mut sleeper = replayed(&store.repository().await).await;
    let (_, log) = truncated(&store).await;
    sleeper.catch_up().await.expect("caught up");
    assert_eq!(sleeper.history, log.history);
}

#[tokio::test]
async fn a_writer_that_slept_while_the_log_was_truncated_appends_at_its_end() {
    let store = Arc::new(FakeStore::new());
    let mut sleeper = replayed(&store.repository().await).await;
    let (repository, log) = truncated(&store).await;
    let committed = sleeper.append(commit("late")).await.expect("appended");
    assert_eq!(committed.slot, log.history.head.next());
    // What it wrote into the slot that it took for the next lies below the checkpoints.
    assert_eq!(names(&store, LOG)[0], Slot(1).object());
    let again = replayed(&repository).await;
    assert_eq!(again.find("late"), Some(&committed));
    assert_eq!(again.history, sleeper.history);
    // It goes with the next truncation.
    append(&mut sleeper, 1000..1000 + INTERVAL).await;
    assert_eq!(names(&store, LOG)[0], Slot(2 * INTERVAL + 1).object());
}

#[tokio::test]
async fn a_name_that_was_taken_while_a_writer_slept_is_taken() {
    let store = Arc::new(FakeStore::new());
    let mut sleeper = replayed(&store.repository().await).await;
    let (repository, log) = truncated(&store).await;
    let refused = sleeper.append(commit("backup 3")).await;
    assert!(matches!(refused, Err(Error::NameTaken { .. })));
    assert_eq!(replayed(&repository).await.history, log.history);
}

#[tokio::test]
async fn an_entry_that_a_checkpoint_stands_for_before_its_writer_looks_is_in() {
    let store = Arc::new(FakeStore::new());
    let repository = store.repository().await;
    let mut writer = replayed(&repository).await;
    append(&mut writer, 1..3).await;
    let [first, added] = [
        writer.segments()[0],
        PackName::random(SessionId::random(), 0),
    ];
    let kinds = [
        Kind::Commit(commit("slow")),
        Kind::Segments(Segments {
            added: join_names([&added]),
            dropped: join_names([&first]),
        }),
        Kind::Damage(Damage {
            packs: join_names([&first]),
        }),
    ];
    for (round, kind) in (1..).zip(kinds) {
        let slot = writer.history.head.next();
        let nonce = Bytes::copy_from_slice(&random::<16>());
        let entry = LogEntry {
            previous: writer.history.head_hash.clone(),
            nonce: nonce.clone(),
            kind: Some(kind.clone()),
        };
        let bytes = writer.encode(slot, &entry).expect("short");
        let put = store.put_new(&slot.object(), bytes).await.expect("put");
        assert_eq!(put, PutNew::Created);
        let mut others = replayed(&repository).await;
        append(&mut others, round * 1000..round * 1000 + 3 * INTERVAL).await;
        assert!(names(&store, LOG)[0] > slot.object());
        let own = writer.read_on(Some((&nonce, &kind))).await.expect("read");
        let confirmed = writer.confirm(own.expect("found"), &kind).await;
        let (confirmed, _) = confirmed.expect("read").expect("in the log");
        let is_commit = matches!(kind, Kind::Commit(_));
        assert_eq!(confirmed == slot, is_commit);
        assert_eq!(writer.history, others.history);
    }
}

#[tokio::test]
async fn an_entry_that_comes_again_into_a_removed_slot_changes_nothing() {
    let store = Arc::new(FakeStore::new());
    let repository = store.repository().await;
    let mut log = replayed(&repository).await;
    append(&mut log, 1..3).await;
    let entries: Vec<_> = names(&store, LOG)
        .into_iter()
        .map(|name| (name.clone(), store.objects()[&name].clone()))
        .collect();
    append(&mut log, 3..2 * INTERVAL + 3).await;
    store.objects().extend(entries);
    assert_eq!(replayed(&repository).await.history, log.history);
}

#[tokio::test]
async fn a_truncation_that_is_denied_or_cut_off_is_gone_on_with_by_the_next() {
    let store = Arc::new(FakeStore::new());
    *store.deletes_left.lock().expect("not poisoned") = Some(100);
    let (repository, mut log) = truncated(&store).await;
    assert_eq!(names(&store, LOG)[0], Slot(101).object());
    assert_eq!(replayed(&repository).await.history, log.history);
    *store.deletes_left.lock().expect("not poisoned") = None;
    append(&mut log, 1000..1000 + INTERVAL).await;
    assert_eq!(names(&store, LOG)[0], Slot(2 * INTERVAL + 1).object());
}

#[tokio::test]
async fn a_checkpoint_that_cannot_be_written_harms_no_backup_and_comes_later() {
    let store = Arc::new(FakeStore::new());
    *store.denied.lock().expect("not poisoned") = Some("checkpoint/");
    let (repository, mut log) = truncated(&store).await;
    assert_eq!(names(&store, LOG)[0], Slot(1).object());
    assert_eq!(replayed(&repository).await.history, log.history);
    *store.denied.lock().expect("not poisoned") = None;
    append(&mut log, 1000..1001).await;
    assert_eq!(
        names(&store, "checkpoint/"),
        [log.history.head.checkpoint()]
    );
}

#[tokio::test]
async fn nothing_is_removed_by_a_checkpoint_that_is_damaged_or_says_something_else() {
    let store = Arc::new(FakeStore::new());
    let repository = store.repository().await;
    let mut log = replayed(&repository).await;
    append(&mut log, 1..3).await;
    checkpoint::write(&repository, &log.history)
        .await
        .expect("written");
    append(&mut log, 3..5).await;
    checkpoint::write(&repository, &log.history)
        .await
        .expect("written");
    let entries = names(&store, LOG);
    for slot in [Slot(2), Slot(4)] {
        let object = slot.checkpoint();
        let whole = store.objects()[&object].clone();
        store.objects().insert(object.clone(), whole.slice(1..));
        let refused = truncate::truncate(&repository, &log.history).await;
        assert!(refused.is_err(), "{object}");

        store.objects().remove(&object);
        let mut other = log.history.clone();
        other.head = slot;
        other.head_hash = vec![7; 32].into();
        other.commits.truncate(2);
        checkpoint::write(&repository, &other)
            .await
            .expect("written");
        let refused = truncate::truncate(&repository, &log.history).await;
        assert!(refused.is_err(), "{object}");
        assert_eq!(names(&store, LOG), entries);
        store.objects().insert(object, whole);
    }
    let removed = truncate::truncate(&repository, &log.history).await;
    assert_eq!(removed.expect("removed"), 2);
}

#[tokio::test]
async fn every_flip_and_every_cut_of_a_checkpoint_is_noticed() {
    for passphrase in [None, Some("the passphrase of this test")] {
        let store = Arc::new(FakeStore::new());
        let size = ChunkSize::new(64 << 10).expect("valid");
        let passphrase =
            passphrase.map(|it| Passphrase::new(Secret::new(it)).expect("a passphrase"));
        let shared = Arc::clone(&store) as _;
        let repository = Repository::open_or_create(shared, size, passphrase.as_ref()).await;
        let repository = repository.expect("made");
        let mut log = replayed(&repository).await;
        append(&mut log, 1..3).await;
        let packs = join_names([&log.segments()[0]]);
        let damage = Kind::Damage(Damage { packs });
        log.append_entry(|_| Ok(damage.clone()))
            .await
            .expect("appended");
        checkpoint::write(&repository, &log.history)
            .await
            .expect("written");
        let object = log.history.head.checkpoint();
        let blocks = names(&store, "tree/").remove(0);
        for name in [&object, &blocks] {
            let whole = store.objects()[name].clone();
            for damaged in damages(&whole) {
                store.objects().insert(name.clone(), damaged.into());
                let read = checkpoint::read(&repository, log.history.head, Scope::Whole).await;
                // Nobody reads header and footer of a pack whose records have their places.
                let same = read.as_ref().is_ok_and(|it| *it == log.history);
                assert!(read.is_err() || (same && *name == blocks), "{name}");
            }
            store.objects().insert(name.clone(), whole);
        }
        let read = checkpoint::read(&repository, log.history.head, Scope::Whole).await;
        assert_eq!(read.expect("whole"), log.history);
    }
}

/// Every flip of a bit, and every cut.
fn damages(whole: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let flips = (0..whole.len() * 8).map(|bit| {
        let mut bytes = whole.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        bytes
    });
    flips.chain((0..whole.len()).map(|len| whole[..len].to_vec()))
}

#[tokio::test]
async fn a_damaged_checkpoint_is_passed_over_only_if_the_log_reaches_it_all_the_same() {
    let store = Arc::new(FakeStore::new());
    let (repository, log) = truncated(&store).await;
    let highest = Slot(2 * INTERVAL).checkpoint();
    let whole = store.objects()[&highest].clone();
    store
        .objects()
        .insert(highest, whole.slice(..whole.len() - 1));
    assert_eq!(replayed(&repository).await.history, log.history);
    let found = Log::look_up(&repository, "backup 300").await;
    assert!(found.expect("looked up").is_some());
    // Cut off before the damaged one: as if there had never been more.
    store
        .objects()
        .retain(|name, _| *name < Slot(2 * INTERVAL).object() || !name.starts_with(LOG));
    let refused = Log::replay(&repository).await.err().expect("refused");
    assert!(refused.to_string().contains("checkpoint/"), "{refused}");
}

/// Both checkpoints, a block of one, and entries between them.
fn reserve_of(store: &FakeStore) -> Vec<String> {
    let (trees, entries) = (names(store, "tree/"), names(store, LOG));
    let behind = usize::try_from(INTERVAL).expect("small");
    let few = [
        &trees[0],
        &trees[1],
        &entries[0],
        &entries[behind / 2],
        &entries[behind - 1],
    ];
    let few = few.into_iter().cloned();
    names(store, "checkpoint/").into_iter().chain(few).collect()
}

async fn flaws(repository: &Repository) -> Vec<LogFlaw> {
    let reserve = Log::reserve(repository).await;
    reserve.expect("looked at").flaws
}

#[tokio::test]
async fn what_the_log_would_be_read_by_without_its_highest_checkpoint_is_looked_at_and_renewed() {
    fn change(store: &FakeStore, object: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut objects = store.objects();
        let bytes = objects.get_mut(object).expect("there");
        let mut changed = bytes.to_vec();
        change(&mut changed);
        *bytes = changed.into();
    }
    let ways: [fn(&FakeStore, &str); 5] = [
        |store, object| drop(store.objects().remove(object)),
        |store, object| change(store, object, |bytes| bytes.truncate(bytes.len() / 2)),
        |store, object| change(store, object, |bytes| bytes[0] ^= 1),
        |store, object| change(store, object, |bytes| bytes.fill(0)),
        |store, object| {
            let len = store.objects()[object].len();
            *store.unreadable.lock().expect("not poisoned") = Some((object.to_owned(), 0..len));
        },
    ];
    let store = Arc::new(FakeStore::new());
    let (repository, _) = truncated(&store).await;
    assert_eq!(flaws(&repository).await.len(), 0);
    let (whole, highest) = (store.objects().clone(), Slot(2 * INTERVAL).checkpoint());
    for object in reserve_of(&store) {
        for (n, damage) in ways.into_iter().enumerate() {
            // Replays refuse a highest checkpoint that is of no version they know, and say so.
            let is_refused = object == highest && (n == 2 || n == 3);
            // And the first bytes of a pack are not those of a block.
            if is_refused || object.starts_with("tree/") && n == 2 {
                continue;
            }
            store.objects().clone_from(&whole);
            damage(&store, &object);
            is_noticed_and_made_good(&store, &object).await;
            *store.unreadable.lock().expect("not poisoned") = None;
        }
    }
}

async fn is_noticed_and_made_good(store: &Arc<FakeStore>, object: &str) {
    let repository = store.repository().await;
    let mut log = replayed(&repository).await;
    let is_gone = !store.objects().contains_key(object);
    let reserve = Log::reserve(&repository).await.expect("looked at");
    let [flaw] = &reserve.flaws[..] else {
        panic!("{object}: {:?}", reserve.flaws);
    };
    assert!(flaw.is_rot, "{flaw:?}");
    if is_gone && object.starts_with("checkpoint/") {
        // Nobody knows that there was one; but the log cannot be read from its first entry on.
        assert_eq!(flaw.object, Slot(1).object());
    }
    log.renew(&reserve).await.expect("renewed");
    assert_eq!(flaws(&repository).await.len(), 0, "{object}");
    let again = replayed(&repository).await;
    assert_eq!(again.history, log.history, "{object}");
    // And now the highest may go.
    store.lose(&log.history.head.checkpoint());
    let without = replayed(&repository).await;
    assert_eq!(without.history, log.history, "{object}");
}

#[tokio::test]
async fn a_checkpoint_at_the_head_of_the_log_is_renewed_behind_an_entry_that_says_nothing() {
    let store = Arc::new(FakeStore::new());
    let repository = store.repository().await;
    let mut log = replayed(&repository).await;
    append(&mut log, 1..INTERVAL + 1).await;
    let head = log.history.head;
    assert_eq!(names(&store, "checkpoint/"), [head.checkpoint()]);
    let whole = store.objects()[&head.checkpoint()].clone();
    store
        .objects()
        .insert(head.checkpoint(), whole.slice(..whole.len() - 1));
    let reserve = Log::reserve(&repository).await.expect("looked at");
    assert_eq!(reserve.flaws[0].object, head.checkpoint());
    let before = log.history.clone();
    assert_eq!(log.renew(&reserve).await.expect("renewed"), 1);
    assert_eq!(names(&store, "checkpoint/"), [head.next().checkpoint()]);
    let after = replayed(&repository).await.history;
    assert_eq!(after.commits, before.commits);
    assert_eq!(after.segments, before.segments);
    assert_eq!(after.marked, before.marked);
}

#[tokio::test]
async fn a_damaged_checkpoint_that_may_not_be_removed_is_told_each_time_and_renewed_once() {
    let store = Arc::new(FakeStore::new());
    let (repository, mut log) = truncated(&store).await;
    let highest = Slot(2 * INTERVAL).checkpoint();
    store
        .objects()
        .get_mut(&highest)
        .expect("there")
        .truncate(50);
    *store.deletes_left.lock().expect("not poisoned") = Some(0);
    for checkpoints in [3, 3] {
        let reserve = Log::reserve(&repository).await.expect("looked at");
        assert_eq!(reserve.flaws[0].object, highest);
        assert_eq!(log.renew(&reserve).await.expect("renewed"), 0);
        assert_eq!(names(&store, "checkpoint/").len(), checkpoints);
    }
    assert_eq!(replayed(&repository).await.history, log.history);
}

#[tokio::test]
async fn where_a_checkpoint_says_something_else_both_are_kept() {
    let store = Arc::new(FakeStore::new());
    let repository = store.repository().await;
    let mut log = replayed(&repository).await;
    append(&mut log, 1..3).await;
    let mut other = log.history.clone();
    other.commits.truncate(1);
    checkpoint::write(&repository, &other)
        .await
        .expect("written");
    append(&mut log, 3..5).await;
    checkpoint::write(&repository, &log.history)
        .await
        .expect("written");
    let before = store.objects().clone();
    let reserve = Log::reserve(&repository).await.expect("looked at");
    assert_eq!(reserve.flaws.len(), 1);
    assert!(!reserve.flaws[0].is_rot);
    assert_eq!(log.renew(&reserve).await.expect("left alone"), 0);
    assert_eq!(*store.objects(), before);
}
