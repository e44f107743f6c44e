//! What a job may cost a thin pool. The snapshot of a backup holds what is overwritten meanwhile, and a
//! restore takes blocks itself; a pool that runs full stops the writes of all its volumes. Before it does,
//! the job is given up.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    group::Group,
    mapped::{self, pool_device},
};
use crate::volume::Error;

/// How long the pool is not looked at, at most.
const INTERVAL_MAX: Duration = Duration::from_secs(10);
/// The same when little is left, and while that goes.
const INTERVAL_SHORT: Duration = Duration::from_millis(250);
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// What may be taken in a second that begins unforeseen.
const DATA_BYTES_PER_SECOND: f64 = (2u64 << 30) as f64;
/// For a snapshot as much metadata is copied as there was, and no more.
const METADATA_BYTES_PER_SECOND: f64 = (2u64 << 20) as f64;

const SECTOR_BYTES: u64 = 512;
const METADATA_BLOCK_BYTES: u64 = 4096;

/// What a job leaves to others: this part of a pool, or half of what it found free.
#[derive(Debug, Clone, Copy)]
pub(super) struct LeftPart(u64);

impl LeftPart {
    /// A twentieth: others write while a backup reads, and that can be made again.
    pub(super) const BY_BACKUP: LeftPart = LeftPart(20);
    /// A hundredth: somebody has asked for the volume.
    pub(super) const BY_RESTORE: LeftPart = LeftPart(100);
}

/// The room of a pool, watched while a job goes on in it.
#[derive(Debug)]
pub(super) struct Pressure {
    group: Arc<Group>,
    pool: String,
    left_part: LeftPart,
    /// Unknown where the pool was not in use.
    at_first: Option<Room>,
}

/// A pool's room.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Room {
    data: Part,
    metadata: Part,
    /// Whether a snapshot of the metadata is held for somebody.
    pub(super) holds_metadata: bool,
    /// A write has found no block.
    has_run_out: bool,
}

/// One half of it, in its own blocks.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Part {
    used: u64,
    total: u64,
    block_bytes: u64,
}

/// What was seen at an earlier look, and how long ago that was.
type Earlier<T> = Option<(T, Duration)>;

impl Pressure {
    /// That of a pool now, before anything of the job is in it.
    pub(super) async fn of(group: &Arc<Group>, pool: &str, left_part: LeftPart) -> Pressure {
        Pressure {
            group: Arc::clone(group),
            pool: pool.to_owned(),
            left_part,
            at_first: Room::of(group, pool).await.ok(),
        }
    }

    /// Ends, with what is left, when the pool has run low since. Nobody holds its metadata then for long: what is
    /// removed gives no blocks back before.
    pub(super) async fn is_too_high(&self) -> String {
        let (group, pool) = (self.group.name(), &self.pool);
        let mut best = self.at_first;
        let mut before: Option<(Room, Instant)> = None;
        let mut is_blind = false;
        loop {
            let looked = Instant::now();
            let room = match Room::of(&self.group, pool).await {
                Ok(room) => room,
                Err(error) => {
                    if !is_blind {
                        tracing::warn!(group, pool, "whether it runs full is not known: {error}");
                    }
                    is_blind = true;
                    sleep(INTERVAL_MAX).await;
                    continue;
                }
            };
            let first = best.map_or(room, |best| best.or_better(room));
            if room.is_low_since(&first, self.left_part) {
                mapped::call_back(&self.group, pool);
                return format!(
                    "{:.1} % of the data and {:.1} % of the metadata of thin pool {pool} are left",
                    room.data.left_percent(),
                    room.metadata.left_percent(),
                );
            }
            let earlier = before.map(|(room, at)| (room, looked - at));
            let pause = room.pause(&first, self.left_part, earlier);
            (best, before) = (Some(first), Some((room, looked)));
            sleep(pause).await;
        }
    }
}

impl Room {
    /// Asks the kernel; LVM is not asked, and nothing is written for it. A pool that no active volume
    /// uses, or that has failed, has none to tell of.
    pub(super) async fn of(group: &Group, pool: &str) -> Result<Room, Error> {
        let device = pool_device(group, pool, "-tpool");
        let call = ["status", "--noflush", &device];
        let status = group.command().tool("dmsetup", &call).await?;
        Room::read(&status).ok_or_else(|| Error::Unavailable {
            group: format!("{}/{pool}", group.name()),
            reason: format!("its state is {:?}", status.trim()),
        })
    }

    /// `0 409600 thin-pool 2 113/1024 4/3200 - rw ...`: metadata and data, used and in all, where
    /// metadata is held if it is, and a mode.
    fn read(status: &str) -> Option<Room> {
        let words: Vec<&str> = status.split_whitespace().collect();
        let [_, sectors, "thin-pool", _, metadata, data, held, mode, ..] = words[..] else {
            return None;
        };
        let pool_bytes = sectors.parse::<u64>().ok()? * SECTOR_BYTES;
        Some(Room {
            data: Part::read(data, |blocks| pool_bytes / blocks.max(1))?,
            metadata: Part::read(metadata, |_| METADATA_BLOCK_BYTES)?,
            holds_metadata: match held {
                "-" => false,
                root => root.parse::<u64>().map(|_| true).ok()?,
            },
            has_run_out: mode == "out_of_data_space",
        })
    }

    /// The best of both: a pool that has grown, or was made room in, has that to lose.
    fn or_better(self, other: Room) -> Room {
        Room {
            data: self.data.or_better(other.data),
            metadata: self.metadata.or_better(other.metadata),
            has_run_out: self.has_run_out && other.has_run_out,
            ..self
        }
    }

    fn is_low_since(&self, first: &Room, left_part: LeftPart) -> bool {
        self.data.above_floor(first.data, left_part).is_none()
            || self
                .metadata
                .above_floor(first.metadata, left_part)
                .is_none()
            || self.has_run_out && !first.has_run_out
    }

    /// How long it need not be looked at.
    fn pause(&self, first: &Room, left_part: LeftPart, earlier: Earlier<Room>) -> Duration {
        let pause = |now: Part, of: fn(&Room) -> Part, bytes_per_second| {
            let above = now.above_floor(of(first), left_part).unwrap_or(0);
            let earlier = earlier.map(|(room, since)| (of(&room), since));
            now.pause(above, bytes_per_second, earlier)
        };
        let data = pause(self.data, |room| room.data, DATA_BYTES_PER_SECOND);
        let metadata = pause(
            self.metadata,
            |room| room.metadata,
            METADATA_BYTES_PER_SECOND,
        );
        data.min(metadata)
    }
}

impl Part {
    /// `block_bytes` follow from how many blocks there are.
    fn read(text: &str, block_bytes: impl Fn(u64) -> u64) -> Option<Part> {
        let (used, total) = text.split_once('/')?;
        let total = total.parse().ok()?;
        Some(Part {
            used: used.parse().ok()?,
            total,
            block_bytes: block_bytes(total),
        })
    }

    fn left(self) -> u64 {
        self.total.saturating_sub(self.used)
    }

    fn left_percent(self) -> f64 {
        self.left() as f64 * 100.0 / self.total.max(1) as f64
    }

    fn or_better(self, other: Part) -> Part {
        if other.left() > self.left() {
            other
        } else {
            self
        }
    }

    /// The blocks that may be taken before it is low.
    fn above_floor(self, first: Part, left_part: LeftPart) -> Option<u64> {
        let floor = (self.total / left_part.0).min(first.left() / 2);
        self.left().checked_sub(floor)
    }

    /// How long it lasts, at the speed at which it went lately and at one that it may go at from now on.
    fn pause(self, above: u64, bytes_per_second: f64, earlier: Earlier<Part>) -> Duration {
        let at_most = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or(INTERVAL_MAX);
        let above = above as f64;
        let unforeseen = at_most(above * self.block_bytes as f64 / bytes_per_second);
        let foreseen = earlier.map_or(INTERVAL_MIN, |(earlier, since)| {
            let taken = earlier.left().saturating_sub(self.left()) as f64;
            // Half of it: the next look finds something left.
            at_most(above / taken * since.as_secs_f64() / 2.0)
        });
        let pause = unforeseen.max(INTERVAL_SHORT).min(foreseen);
        pause.clamp(INTERVAL_MIN, INTERVAL_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKUP: LeftPart = LeftPart::BY_BACKUP;
    const RESTORE: LeftPart = LeftPart::BY_RESTORE;

    fn room(metadata: &str, data: &str, mode: &str) -> Room {
        let status = format!("0 409600 thin-pool 2 {metadata} {data} - {mode} discard_passdown");
        Room::read(&status).expect("as dmsetup writes it")
    }

    #[test]
    fn a_pool_is_low_when_it_has_less_than_a_twentieth_and_than_half_of_what_it_had() {
        let first = room("10/1000", "500/1000", "rw");
        for (used, is_low) in [(500, false), (950, false), (951, true), (1000, true)] {
            let now = room("10/1000", &format!("{used}/1000"), "rw");
            assert_eq!(now.is_low_since(&first, BACKUP), is_low, "{used}");
        }
        assert!(room("981/1000", "500/1000", "rw").is_low_since(&first, BACKUP));
        // A restore may go on for longer.
        assert!(!room("10/1000", "990/1000", "rw").is_low_since(&first, RESTORE));
        assert!(room("10/1000", "991/1000", "rw").is_low_since(&first, RESTORE));
        // It was low before: half of that is left to others.
        let first = room("10/1000", "990/1000", "rw");
        assert!(!room("10/1000", "995/1000", "rw").is_low_since(&first, BACKUP));
        assert!(room("10/1000", "996/1000", "rw").is_low_since(&first, BACKUP));
        // It was full before, which is not the backup's doing, unless writes stop only now.
        let first = room("10/1000", "1000/1000", "rw");
        assert!(!first.is_low_since(&first, BACKUP));
        let stopped = room("10/1000", "1000/1000", "out_of_data_space");
        assert!(stopped.is_low_since(&first, BACKUP));
        assert!(!stopped.is_low_since(&stopped, BACKUP));
        // Since then it has grown.
        let grown = room("10/1000", "1000/2000", "rw");
        let best = stopped.or_better(grown);
        assert!(!grown.is_low_since(&best, BACKUP));
        assert!(room("10/1000", "1901/2000", "rw").is_low_since(&best, BACKUP));
        assert!(stopped.is_low_since(&best, BACKUP));
    }

    #[test]
    fn a_pool_is_looked_at_before_it_can_be_low_and_seldom_while_it_cannot() {
        // 100 GiB in blocks of 64 KiB, and as much metadata as LVM makes for that.
        let room = |used: u64| {
            let status =
                format!("0 209715200 thin-pool 2 100/25600 {used}/1638400 - rw discard_passdown");
            Room::read(&status).expect("as dmsetup writes it")
        };
        let empty = room(0);
        let pause = |used: u64, earlier: Earlier<Room>| room(used).pause(&empty, BACKUP, earlier);
        let second = Duration::from_secs(1);
        // At first nothing is known of how fast it goes.
        assert_eq!(pause(0, None), INTERVAL_MIN);
        assert_eq!(pause(0, Some((empty, second))), INTERVAL_MAX);
        // 4 GiB may be taken in two seconds.
        let above = 65536;
        let used = 1_638_400 / 20 * 19 - above;
        assert_eq!(pause(used, Some((room(used), second))), 2 * second);
        // They go in one, if it goes on like this.
        let earlier = room(used - above);
        assert_eq!(pause(used, Some((earlier, second))), second / 2);
        // A hundredth of that is left: it is not looked at all the time.
        let used = used + above / 100 * 99;
        assert_eq!(pause(used, Some((earlier, second))), INTERVAL_MIN);
        assert_eq!(pause(used, Some((room(used), second))), INTERVAL_SHORT);
    }

    #[test]
    fn what_is_no_status_of_a_pool_says_nothing() {
        for odd in [
            "",
            "0 409600 thin-pool Fail\n",
            "0 2097152 thin 2048 2047\n",
        ] {
            assert_eq!(Room::read(odd), None, "{odd:?}");
        }
        let now = room("113/1024", "4/3200", "ro");
        assert!(!now.holds_metadata);
        let held = "0 409600 thin-pool 2 113/1024 4/3200 26 rw no_discard_passdown queue_if_no_space - 256\n";
        assert!(
            Room::read(held)
                .expect("as dmsetup writes it")
                .holds_metadata
        );
        assert_eq!((now.data.used, now.data.total), (4, 3200));
        assert_eq!(format!("{:.1}", now.metadata.left_percent()), "89.0");
    }
}
