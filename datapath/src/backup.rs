//! A backup, from a frozen volume to a commit.

use std::{future::pending, path::Path, sync::Arc};

use async_trait::async_trait;

use crate::{
    device::{self, Device, DeviceError, Extent},
    error::Error,
    log::{Committed, Log},
    parent::Parent,
    progress::Progress,
    reader::{ReadPlan, VolumeReader},
    repository::Repository,
    session::{self, Session},
    settings::Settings,
    stop::Stop,
    tasks::blocking,
    window::{Signs, Window},
    writer::Writer,
};

/// What is backed up, and under which names.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Last component of the backup's path; unique in the repository.
    pub name: String,
    /// The name that its requester gave.
    pub request_name: String,
    /// How its requester names the volume.
    pub volume_handle: String,
    /// What the volume is, whatever it is called.
    pub volume_identity: String,
    /// When the snapshot was taken, milliseconds since 1970 UTC.
    pub created_ms: u64,
}

/// A frozen volume.
#[derive(Clone, Copy)]
pub struct Volume<'a> {
    /// Where it can be read.
    pub path: &'a Path,
    /// The ranges of it that may hold data, ascending, where somebody knows better than the file
    /// system of an image: block devices cannot be asked.
    pub extents: Option<&'a [Extent]>,
    /// Whether it holds still while it is read.
    pub still: &'a dyn Still,
}

/// Who knows whether a volume is still what it was when it was frozen.
#[async_trait]
pub trait Still: Send + Sync {
    /// Asked when all has been read. An error is a sentence that says why what was read may be wrong.
    async fn check(&self) -> Result<(), String>;

    /// Ends, with a sentence that says why, when it cannot be held still until all has been read.
    async fn must_go(&self) -> String {
        pending().await
    }

    /// Told that nothing reads it any more, when it was not still or had to go: ahead of what else the
    /// end of the backup may have to wait for.
    async fn let_go(&self) {}
}

/// Does `work`, which reads the volume, unless that must go.
async fn while_still<T>(
    still: &dyn Still,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::select! {
        biased;
        done = work => done,
        why = still.must_go() => Err(Error::Moved(why)),
    }
}

/// What nobody can change.
struct AlwaysStill;

#[async_trait]
impl Still for AlwaysStill {
    async fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

impl<'a, P: AsRef<Path> + ?Sized> From<&'a P> for Volume<'a> {
    fn from(path: &'a P) -> Self {
        Self {
            path: path.as_ref(),
            extents: None,
            still: &AlwaysStill,
        }
    }
}

/// Backs up a frozen volume; when this returns without an error, the backup exists.
///
/// `log` is the repository's, as replayed. The volume must not change until this returns; however
/// it ends, the volume is closed then. Nobody else may back up the same volume to the same
/// repository meanwhile. Told to wind up, it ends with whole packs in the store, which the next
/// run for this volume adopts.
pub async fn run(
    repository: &Repository,
    log: &mut Log,
    volume: impl Into<Volume<'_>>,
    subject: &Subject,
    settings: &Settings,
    progress: &Arc<Progress>,
    stop: &Stop,
) -> Result<Committed, Error> {
    let size = repository.chunk_size();
    let (compressors, compressors_bytes) = settings.compressors(size)?;
    let volume = volume.into();
    let (device, extents) = open(&volume, settings.direct).await?;
    let volume_bytes = device.size_bytes;
    let plan = ReadPlan::new(size, volume_bytes, &extents);
    progress.set_total(volume_bytes);
    let hole_bytes = volume_bytes - plan.bytes();
    let settings = &Settings {
        data_packs: settings
            .data_packs
            .for_data(plan.bytes(), settings.packs_min),
        // What compressing takes is not there for slots.
        buffer_bytes: settings.buffer_bytes.saturating_sub(compressors_bytes),
        ..settings.clone()
    };

    let identity = &subject.volume_identity;
    let begin = async {
        let parent = Parent::of(repository, log, identity).await?;
        let session = Session::begin(repository, identity, &parent.commit_id).await?;
        Ok::<_, Error>((parent, session))
    };
    let begun = while_still(volume.still, stop.unless_asked(begin));
    let (parent, session) = begun.await?;
    let session_id = session.id;

    let reader = VolumeReader::open(device, size, settings).await?;
    let (closed, arena) = (reader.closed(), reader.arena());
    let chunks = reader.read_and_hash(plan, repository.hashing(), progress);
    let work = async {
        let read = async {
            let part_bytes = settings.data_packs.part_bytes;
            let signs = Signs::new(arena, repository.store(), part_bytes);
            let window = Window::new(compressors, settings.compression, signs, progress);
            let writer = Writer::begin(repository, log, session, volume_bytes, settings, window);
            let written = stop
                .unless_asked(writer)
                .await?
                .write_all(chunks, &parent, hole_bytes, progress, stop)
                .await?;
            let written = written.into_commit(repository, &parent, volume_bytes, size, subject);
            let written = written.await?;
            // All has been read, and nothing counts yet.
            volume.still.check().await.map_err(Error::Moved)?;
            Ok(written)
        };
        // Boxed, like all that is as large: whoever waits may have a thread's stack alone.
        let (commit, later) = while_still(volume.still, Box::pin(read)).await?;
        Ok::<_, Error>((log.append(commit).await?, later))
    };
    let ended = stop.unless_halted(work).await;
    // However it ended: the caller may remove the snapshot when this returns.
    closed.await;
    if let Err(error) = &ended {
        let gone = async {
            if matches!(error, Error::Moved(_)) {
                volume.still.let_go().await;
            }
        };
        tokio::join!(gone, session::tidy_up(repository, session_id));
    }
    let (committed, later) = ended?;
    if let Err(error) = log.exchange_segments(&later, &[]).await {
        tracing::warn!(%error, "others do not know of all chunks of this backup before a repair");
    }
    progress.set_done(volume_bytes);
    Ok(committed)
}

/// Opens the volume and asks which ranges of it hold data.
async fn open(volume: &Volume<'_>, direct: bool) -> Result<(Device, Vec<Extent>), Error> {
    let (path, known) = (volume.path.to_owned(), volume.extents.map(<[_]>::to_vec));
    let opened = blocking(move || {
        let device = device::open_for_read(&path, direct)?;
        let extents = match known {
            Some(extents) => extents,
            None => device.data_extents()?,
        };
        Ok::<_, DeviceError>((device, extents))
    });
    Ok(opened.await??)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        sync::atomic::{AtomicBool, Ordering},
    };

    use ringback_proto::repository::Statistics;
    use tokio::sync::Notify;

    use super::*;
    use crate::{
        chunk::ChunkSize,
        repository::FETCH_TRIES,
        restore::{self, Backup, Ground, Target},
        store::fake::FakeStore,
    };

    /// A repository in memory and a volume of a few chunks.
    struct Bed {
        store: Arc<FakeStore>,
        repository: Repository,
        folder: tempfile::TempDir,
        settings: Settings,
    }

    impl Bed {
        async fn new() -> Self {
            let store = Arc::new(FakeStore::new());
            let size = ChunkSize::new(64 << 10).expect("valid");
            let repository = Repository::open_or_create(Arc::clone(&store) as _, size, None)
                .await
                .expect("made");
            let bed = Self {
                store,
                repository,
                folder: tempfile::tempdir().expect("tempdir"),
                settings: Settings {
                    buffer_bytes: 2 << 20,
                    queue_depth: 4,
                    ..Settings::default()
                },
            };
            let bytes: Vec<u8> = (0..5u8).flat_map(|n| vec![n + 1; 64 << 10]).collect();
            fs::write(bed.volume(), bytes).expect("write");
            bed
        }

        fn volume(&self) -> std::path::PathBuf {
            self.folder.path().join("volume")
        }

        fn subject(name: &str) -> Subject {
            Subject {
                name: name.to_owned(),
                request_name: name.to_owned(),
                volume_handle: "volume".to_owned(),
                volume_identity: "volume".to_owned(),
                created_ms: 0,
            }
        }

        async fn back_up(&self, name: &str) -> Statistics {
            let mut log = Log::replay(&self.repository).await.expect("replay");
            let subject = Self::subject(name);
            let (volume, progress, stop) = (self.volume(), Arc::default(), Stop::default());
            run(
                &self.repository,
                &mut log,
                &volume,
                &subject,
                &self.settings,
                &progress,
                &stop,
            )
            .await
            .expect(name)
            .commit
            .statistics
            .expect("statistics")
        }

        async fn restore(&self, name: &str) -> Result<(), Error> {
            let backup = Backup::open(&self.repository, name).await?;
            let target = self.folder.path().join(name);
            let file = fs::File::create_new(&target).expect("create");
            file.set_len(backup.volume_bytes()).expect("set_len");
            let (progress, stop) = (Arc::default(), Stop::default());
            restore::run(
                &self.repository,
                &backup,
                &target,
                &self.settings,
                &progress,
                &stop,
            )
            .await?;
            assert!(fs::read(self.volume()).expect("read") == fs::read(target).expect("read"));
            Ok(())
        }
    }

    /// A snapshot that was lost while it was read.
    struct Lost;

    #[async_trait]
    impl Still for Lost {
        async fn check(&self) -> Result<(), String> {
            Err("the snapshot ran full".to_owned())
        }
    }

    /// One that has to be given up when all has been read and nothing counts yet.
    #[derive(Default)]
    struct Leaving {
        was_read: Notify,
        is_gone: AtomicBool,
    }

    #[async_trait]
    impl Still for Leaving {
        async fn check(&self) -> Result<(), String> {
            self.was_read.notify_one();
            pending().await
        }

        async fn must_go(&self) -> String {
            self.was_read.notified().await;
            "the pool runs full".to_owned()
        }

        async fn let_go(&self) {
            self.is_gone.store(true, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn a_volume_that_did_not_hold_still_or_must_go_is_not_committed() {
        let bed = Bed::new().await;
        let mut log = Log::replay(&bed.repository).await.expect("replay");
        let path = bed.volume();
        let leaving = Leaving::default();
        for (still, says) in [
            (&Lost as &dyn Still, "the snapshot ran full"),
            (&leaving, "the pool runs full"),
        ] {
            let volume = Volume {
                still,
                ..Volume::from(&path)
            };
            let done = run(
                &bed.repository,
                &mut log,
                volume,
                &Bed::subject("lost"),
                &bed.settings,
                &Arc::default(),
                &Stop::default(),
            )
            .await;
            let error = done.expect_err("it did not hold still");
            assert_eq!(error.to_string(), says);
            let log = Log::replay(&bed.repository).await.expect("replay");
            assert!(log.commits().is_empty());
        }
        assert!(leaving.is_gone.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn only_known_extents_are_read_and_the_rest_is_a_hole() {
        let bed = Bed::new().await;
        let mut log = Log::replay(&bed.repository).await.expect("replay");
        let volume = bed.volume();
        let second_chunk = [Extent {
            start: 64 << 10,
            end: 128 << 10,
        }];
        let known = Volume {
            extents: Some(&second_chunk),
            ..Volume::from(&volume)
        };
        let (progress, stop) = (Arc::default(), Stop::default());
        let committed = run(
            &bed.repository,
            &mut log,
            known,
            &Bed::subject("thin"),
            &bed.settings,
            &progress,
            &stop,
        )
        .await
        .expect("backed up");
        let statistics = committed.commit.statistics.expect("statistics");
        assert_eq!(
            (statistics.new_bytes, statistics.hole_bytes),
            (64 << 10, 4 * (64 << 10))
        );
        assert_eq!(progress.volume_io_bytes(), 64 << 10);
    }

    #[tokio::test]
    async fn a_restore_to_stale_ground_leaves_nothing_of_what_was_there() {
        let bed = Bed::new().await;
        // Chunks 1 and 4 hold data, and the last block of chunk 1 does not.
        let mut bytes = vec![0; 5 * (64 << 10)];
        bytes[64 << 10..(128 << 10) - 4096].fill(7);
        bytes[4 * (64 << 10)..].fill(9);
        fs::write(bed.volume(), &bytes).expect("write");
        bed.back_up("holes").await;
        let backup = Backup::open(&bed.repository, "holes").await.expect("opens");
        for ground in [Ground::Stale, Ground::Zeros] {
            let path = bed.folder.path().join("stale");
            fs::write(&path, vec![0xff; 6 * (64 << 10)]).expect("write");
            let target = Target {
                path: &path,
                ground,
            };
            let (progress, stop) = (Arc::default(), Stop::default());
            let repository = &bed.repository;
            restore::run(repository, &backup, target, &bed.settings, &progress, &stop)
                .await
                .expect("restored");
            let restored = fs::read(&path).expect("read");
            let clean = restored[..bytes.len()] == bytes
                && restored[bytes.len()..].iter().all(|byte| *byte == 0);
            // The second round shows that the first would have noticed.
            assert_eq!(clean, ground == Ground::Stale);
        }
    }

    #[tokio::test]
    async fn a_backup_is_made_although_the_one_before_is_damaged() {
        for lost in ["tree/", "refs/", "index/"] {
            let bed = Bed::new().await;
            bed.back_up("first").await;
            assert!(bed.store.lose(lost) > 0, "{lost}");
            let second = bed.back_up("second").await;
            assert_eq!(
                second.new_bytes, 0,
                "{lost}: either of two ways saves the work"
            );
            bed.restore("second").await.expect(lost);
        }
    }

    #[tokio::test]
    async fn a_chunk_that_comes_in_wrong_is_fetched_again_whichever_byte_it_is() {
        let bed = Bed::new().await;
        bed.back_up("one").await;
        // The first byte asked for is a codec, here that of zstd.
        let tries = u32::try_from(FETCH_TRIES).expect("few");
        bed.store.flips.store(tries - 1, Ordering::Relaxed);
        bed.restore("one")
            .await
            .expect("the last time it comes right");
        fs::remove_file(bed.folder.path().join("one")).expect("remove");
        bed.store.flips.store(tries, Ordering::Relaxed);
        let error = bed.restore("one").await.expect_err("never right");
        assert!(error.to_string().contains("has codec 3"), "{error}");
    }

    /// Cuts, flips or replaces bytes of the one data pack.
    fn damage(bed: &Bed, change: impl Fn(&mut Vec<u8>)) {
        for (name, bytes) in bed.store.objects().iter_mut() {
            if name.starts_with("data/") {
                let mut damaged = bytes.to_vec();
                change(&mut damaged);
                *bytes = damaged.into();
            }
        }
    }

    #[tokio::test]
    async fn a_damaged_record_of_any_codec_is_named_and_never_gives_wrong_bytes() {
        for compression in ["none", "lz4", "zstd-1", "zstd-19"] {
            let mut bed = Bed::new().await;
            bed.settings.compression = compression.parse().expect("a compression");
            bed.back_up("one").await;
            let whole = bed.store.objects().clone();
            // Records lie from byte 32 on, and compressed ones are short.
            for at in (32..72).chain([65_000]) {
                *bed.store.objects() = whole.clone();
                damage(&bed, |pack| {
                    if let Some(byte) = pack.get_mut(at) {
                        *byte ^= 0x10;
                    }
                });
                match bed.restore("one").await {
                    Err(Error::Chunk { reason, .. }) => {
                        let is_said = ["has codec", "has a record", "does not hold"];
                        assert!(is_said.iter().any(|it| reason.starts_with(it)), "{reason}");
                    }
                    // The byte has no meaning, or none behind the last record.
                    Ok(()) => assert_ne!(compression, "none", "{at}"),
                    Err(error) => panic!("{compression} {at}: {error}"),
                }
                fs::remove_file(bed.folder.path().join("one")).expect("remove");
            }
        }
    }

    #[tokio::test]
    async fn a_lost_or_cut_pack_is_named_with_backup_volume_and_offset() {
        let bed = Bed::new().await;
        bed.back_up("one").await;
        let whole = bed.store.objects().clone();
        for cut in [true, false] {
            *bed.store.objects() = whole.clone();
            for (name, bytes) in bed.store.objects().iter_mut() {
                if name.starts_with("data/") && cut {
                    bytes.truncate(40);
                }
            }
            if !cut {
                bed.store.lose("data/");
            }
            let error = bed.restore("one").await.expect_err("damaged");
            assert!(matches!(error, Error::Chunk { .. }), "{error}");
            fs::remove_file(bed.folder.path().join("one")).expect("remove");
        }
    }
}
