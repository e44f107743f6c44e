//! What a backup may cost a thin pool. Its snapshot holds what is overwritten meanwhile; a pool that
//! runs full that way stops the writes of all its volumes. Before it does, the backup is given up.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use super::{group::Group, mapped::pool_device};
use crate::volume::Error;

/// How often the pool is looked at, when it has much and when it has little left.
const INTERVAL: Duration = Duration::from_secs(10);
const SHORT_INTERVAL: Duration = Duration::from_secs(1);

/// Much is a fifth.
const MUCH_PART: u64 = 5;

/// A backup leaves to others a twentieth of a pool, or half of what it found free.
const LEFT_PART: u64 = 20;

/// The room of a pool, watched while a backup has a snapshot in it.
#[derive(Debug)]
pub(super) struct Pressure {
    group: Arc<Group>,
    pool: String,
    /// Unknown where the pool was not in use.
    at_first: Option<Room>,
}

/// A pool's room, in its own blocks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Room {
    data: Part,
    metadata: Part,
    /// Whether a snapshot of the metadata is held for somebody.
    pub(super) holds_metadata: bool,
    /// A write has found no block.
    has_run_out: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Part {
    used: u64,
    total: u64,
}

impl Pressure {
    /// That of a pool now, without a snapshot of ours.
    pub(super) async fn of(group: &Arc<Group>, pool: &str) -> Pressure {
        Pressure {
            group: Arc::clone(group),
            pool: pool.to_owned(),
            at_first: Room::of(group, pool).await.ok(),
        }
    }

    /// Ends, with what is left, when the pool has run low since.
    pub(super) async fn is_too_high(&self) -> String {
        let (group, pool) = (self.group.name(), &self.pool);
        let mut best = self.at_first;
        let mut is_blind = false;
        loop {
            let room = match Room::of(&self.group, pool).await {
                Ok(room) => room,
                Err(error) => {
                    if !is_blind {
                        tracing::warn!(
                            group,
                            pool,
                            "whether a backup fills it is not known: {error}"
                        );
                    }
                    is_blind = true;
                    sleep(INTERVAL).await;
                    continue;
                }
            };
            let first = best.map_or(room, |best| best.or_better(room));
            if room.is_low_since(&first) {
                return format!(
                    "{:.1} % of the data and {:.1} % of the metadata of thin pool {pool} are left",
                    room.data.left_percent(),
                    room.metadata.left_percent(),
                );
            }
            best = Some(first);
            let has_much = room.data.has_much() && room.metadata.has_much();
            sleep(if has_much { INTERVAL } else { SHORT_INTERVAL }).await;
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
        let [_, _, "thin-pool", _, metadata, data, held, mode, ..] = words[..] else {
            return None;
        };
        Some(Room {
            data: Part::read(data)?,
            metadata: Part::read(metadata)?,
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
            holds_metadata: self.holds_metadata && other.holds_metadata,
            has_run_out: self.has_run_out && other.has_run_out,
        }
    }

    fn is_low_since(&self, first: &Room) -> bool {
        self.data.is_low_since(first.data)
            || self.metadata.is_low_since(first.metadata)
            || self.has_run_out && !first.has_run_out
    }
}

impl Part {
    fn read(text: &str) -> Option<Part> {
        let (used, total) = text.split_once('/')?;
        Some(Part {
            used: used.parse().ok()?,
            total: total.parse().ok()?,
        })
    }

    fn left(self) -> u64 {
        self.total.saturating_sub(self.used)
    }

    fn left_percent(self) -> f64 {
        self.left() as f64 * 100.0 / self.total.max(1) as f64
    }

    fn has_much(self) -> bool {
        self.left() > self.total / MUCH_PART
    }

    fn or_better(self, other: Part) -> Part {
        if other.left() > self.left() {
            other
        } else {
            self
        }
    }

    fn is_low_since(self, first: Part) -> bool {
        self.left() < (self.total / LEFT_PART).min(first.left() / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(metadata: &str, data: &str, mode: &str) -> Room {
        let status = format!("0 409600 thin-pool 2 {metadata} {data} - {mode} discard_passdown");
        Room::read(&status).expect("as dmsetup writes it")
    }

    #[test]
    fn a_pool_is_low_when_it_has_less_than_a_twentieth_and_than_half_of_what_it_had() {
        let first = room("10/1000", "500/1000", "rw");
        for (used, is_low) in [(500, false), (950, false), (951, true), (1000, true)] {
            let now = room("10/1000", &format!("{used}/1000"), "rw");
            assert_eq!(now.is_low_since(&first), is_low, "{used}");
        }
        assert!(room("981/1000", "500/1000", "rw").is_low_since(&first));
        // It was low before: half of that is left to others.
        let first = room("10/1000", "990/1000", "rw");
        assert!(!room("10/1000", "995/1000", "rw").is_low_since(&first));
        assert!(room("10/1000", "996/1000", "rw").is_low_since(&first));
        // It was full before, which is not the backup's doing, unless writes stop only now.
        let first = room("10/1000", "1000/1000", "rw");
        assert!(!first.is_low_since(&first));
        let stopped = room("10/1000", "1000/1000", "out_of_data_space");
        assert!(stopped.is_low_since(&first));
        assert!(!stopped.is_low_since(&stopped));
        // Since then it has grown.
        let grown = room("10/1000", "1000/2000", "rw");
        let best = stopped.or_better(grown);
        assert!(!grown.is_low_since(&best));
        assert!(room("10/1000", "1901/2000", "rw").is_low_since(&best));
        assert!(stopped.is_low_since(&best));
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
