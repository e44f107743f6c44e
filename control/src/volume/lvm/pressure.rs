//! What a backup may cost a thin pool. Its snapshot holds what is overwritten meanwhile; a pool that
//! runs full that way stops the writes of all its volumes. Before it does, the backup is given up.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use super::{group::Group, mapped::pool_device};
use crate::volume::Error;

/// How often the pool is looked at: one `dmsetup`, without LVM's locks.
const INTERVAL: Duration = Duration::from_secs(1);

/// A backup leaves to others a fiftieth of a pool, or half of what it found free.
const LEFT_PART: u64 = 50;

/// The room of a pool, watched while a backup has a snapshot in it.
#[derive(Debug)]
pub(super) struct Pressure {
    group: Arc<Group>,
    pool: String,
    at_first: Room,
}

/// A pool's room, in its own blocks.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Room {
    data: Part,
    metadata: Part,
    /// A write has found no block.
    has_run_out: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Part {
    used: u64,
    total: u64,
}

impl Pressure {
    /// That of a pool now; `None` where it cannot be told.
    pub(super) async fn of(group: &Arc<Group>, pool: &str) -> Option<Pressure> {
        Some(Pressure {
            group: Arc::clone(group),
            pool: pool.to_owned(),
            at_first: look(group, pool).await?,
        })
    }

    /// Ends, with what is left, when the pool has run low since.
    pub(super) async fn is_too_high(&self) -> String {
        loop {
            sleep(INTERVAL).await;
            let room = look(&self.group, &self.pool).await;
            if let Some(room) = room.filter(|room| room.is_low_since(&self.at_first)) {
                return format!(
                    "{:.1} % of the data and {:.1} % of the metadata of thin pool {} are left",
                    room.data.left_percent(),
                    room.metadata.left_percent(),
                    self.pool
                );
            }
        }
    }
}

async fn look(group: &Group, pool: &str) -> Option<Room> {
    let device = pool_device(group, pool, "-tpool");
    match group.command().tool("dmsetup", &["status", &device]).await {
        Ok(status) => Room::read(&status),
        Err(trouble) => {
            let error = Error::from(trouble);
            tracing::debug!(group = group.name(), pool, %error, "its room is not known");
            None
        }
    }
}

impl Room {
    /// `0 409600 thin-pool 2 113/1024 4/3200 - rw ...`: metadata and data, used and in all, and a mode.
    fn read(status: &str) -> Option<Room> {
        let words: Vec<&str> = status.split_whitespace().collect();
        let [_, _, "thin-pool", _, metadata, data, _, mode, ..] = words[..] else {
            return None;
        };
        Some(Room {
            data: Part::read(data)?,
            metadata: Part::read(metadata)?,
            has_run_out: mode == "out_of_data_space",
        })
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
    fn a_pool_is_low_when_it_has_less_than_a_fiftieth_and_than_half_of_what_it_had() {
        let first = room("10/1000", "500/1000", "rw");
        for (used, is_low) in [(500, false), (980, false), (981, true), (1000, true)] {
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
        assert_eq!((now.data.used, now.data.total), (4, 3200));
        assert_eq!(format!("{:.1}", now.metadata.left_percent()), "89.0");
    }
}
