//! LVM volume groups: volumes as logical volumes, thick or from a thin pool, by way of the `lvm`
//! command.
//!
//! What LVM says is the truth; nothing is remembered but the names of volumes under construction.
//! What is under way has a name of ours, which nobody lists, and a tag of ours:
//!
//! ```text
//! .ringback-rXXXXXXXX   ringback-restore    being filled with a backup
//! .ringback-sXXXXXXXX   ringback-snapshot   will be a snapshot that was asked for
//! .ringback-bXXXXXXXX   ringback-backup     a snapshot that a backup reads
//! ```
//!
//! A volume is published by lvrename, one transaction of LVM, and then loses the tag. So each
//! moment a kill can hit leaves either the whole volume, perhaps with a tag too many, or something
//! that the next open sweeps. What has only one of the two, name or tag, is somebody else's.
//!
//! Commands that change a group run one at a time; reports run beside them. This file gives the
//! calls their order.

use std::{future::pending, path::Path, sync::Arc};

use async_trait::async_trait;
use ringback_datapath::{backup::Still, restore::Ground};

use super::{
    BackupSnapshot, Error, FreeSpace, LayoutOptions, NewSnapshot, NewVolume, PendingVolume, Soon,
    Volume, VolumeGroup,
};
use crate::names::VolumeName;
use construction::Construction;
pub use group::Group;
use pressure::Pressure;
use report::{Report, Row};

mod command;
mod complaint;
mod construction;
mod frozen;
mod group;
mod leftovers;
mod mapped;
mod node;
mod ours;
mod pressure;
mod recovery;
mod report;
mod space;
#[cfg(test)]
mod tests;
mod turns;

/// What volumes are made of.
#[derive(Debug, Clone, PartialEq)]
pub enum Provision {
    /// Extents of the group.
    Thick {
        /// Room for what is overwritten during a backup, in percent of the volume.
        snapshot_percent: u32,
    },
    /// Blocks of a thin pool.
    Thin {
        /// The pool's name.
        pool: String,
        /// How many times the pool's size may be promised.
        overprovision_ratio: f64,
    },
}

/// The volumes of a group that are made one way: all that a device class has of it.
#[derive(Debug, Clone)]
pub struct Lvm {
    group: Arc<Group>,
    provision: Arc<Provision>,
}

impl Lvm {
    /// The part of an opened group that is made this way; a pool must be there.
    pub async fn of(group: &Arc<Group>, provision: Provision) -> Result<Lvm, Error> {
        space::free(&group.report().await?, group.name(), &provision)?;
        if let Provision::Thin { pool, .. } = &provision {
            mapped::let_go_of_left(group, pool).await;
        }
        Ok(Lvm {
            group: Arc::clone(group),
            provision: Arc::new(provision),
        })
    }

    /// Whether a volume is among those made this way.
    fn has(&self, row: &Row) -> bool {
        let pool = match &*self.provision {
            Provision::Thick { .. } => "",
            Provision::Thin { pool, .. } => pool,
        };
        row.is_public && row.pool == pool
    }

    /// The published volume of this name.
    fn find<'a>(&self, report: &'a Report, name: &VolumeName) -> Result<&'a Row, Error> {
        let found = report.find(name.as_str()).filter(|row| self.has(row));
        found.ok_or_else(|| Error::NotFound(name.clone()))
    }

    fn get_in(&self, report: &Report, name: &VolumeName) -> Option<Volume> {
        let row = report.find(name.as_str()).filter(|row| self.has(row));
        row.and_then(Row::volume)
    }

    fn free_in(&self, report: &Report) -> Result<FreeSpace, Error> {
        space::free(report, self.group.name(), &self.provision)
    }

    /// Refuses what there is no room for.
    fn require_free(&self, report: &Report, needed_bytes: u64) -> Result<(), Error> {
        let free_bytes = self.free_in(report)?.free_bytes;
        if needed_bytes > free_bytes {
            return Err(Error::NoSpace {
                needed_bytes,
                free_bytes,
            });
        }
        Ok(())
    }

    /// Removes a volume; whether no flush has it open.
    async fn remove_unless_flushed(&self, name: &VolumeName) -> Result<bool, Error> {
        // Of a backup that was just ended.
        self.group.flushed(name).await;
        let name = name.clone();
        self.in_turn(async move |lvm| {
            if lvm.group.is_being_flushed(&name) {
                return Ok(false);
            }
            let report = lvm.group.report().await?;
            // Of whatever class it is: names are the group's, and who is told that there is none forgets
            // the volume.
            let found = report.find(name.as_str()).filter(|row| row.is_public);
            found.ok_or_else(|| Error::NotFound(name.clone()))?;
            lvm.group.remove(&name, report.extent_bytes).await?;
            Ok(true)
        })
        .await
    }

    /// Runs `work`, which changes the group, when nothing else does, to its end.
    async fn in_turn<T, W>(&self, work: impl FnOnce(Lvm) -> W + Send + 'static) -> Result<T, Error>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let lvm = self.clone();
        self.group.in_turn(async move || work(lvm).await).await
    }
}

#[async_trait]
impl VolumeGroup for Lvm {
    async fn list(&self) -> Result<Vec<Volume>, Error> {
        let seen = self.group.look().await?;
        let report = match seen.lacks_one {
            // Who does not find it there makes it again.
            true => self.group.report().await?,
            false => seen.report,
        };
        let rows = report.rows.iter().filter(|row| self.has(row));
        let mut volumes: Vec<Volume> = rows.filter_map(Row::volume).collect();
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(volumes)
    }

    async fn get(&self, name: &VolumeName) -> Result<Option<Volume>, Error> {
        Ok(self.get_in(&self.group.report().await?, name))
    }

    async fn get_soon(&self, name: &VolumeName) -> Result<Soon, Error> {
        let seen = self.group.look().await?;
        // Names are the group's: it may be of another class.
        let is_absent = !seen.is_late || seen.report.find(name.as_str()).is_some();
        Ok(match self.get_in(&seen.report, name) {
            Some(volume) => Soon::Found(volume),
            None if is_absent => Soon::Absent,
            None => Soon::Unknown,
        })
    }

    async fn create(&self, new: NewVolume) -> Result<Volume, Error> {
        self.in_turn(async move |lvm| construction::create(&lvm, &new).await)
            .await
    }

    async fn granted_bytes(&self, size_bytes: u64, layout: &LayoutOptions) -> Result<u64, Error> {
        let report = self.group.report().await?;
        Ok(construction::granted_bytes(
            self, &report, size_bytes, layout,
        ))
    }

    async fn create_pending(&self, new: NewVolume) -> Result<Box<dyn PendingVolume>, Error> {
        let pending = self
            .in_turn(async move |lvm| construction::begin_restore(&lvm, &new).await)
            .await?;
        Ok(Box::new(pending))
    }

    async fn remove(&self, name: &VolumeName) -> Result<(), Error> {
        while !self.remove_unless_flushed(name).await? {}
        Ok(())
    }

    async fn resize(&self, name: &VolumeName, size_bytes: u64) -> Result<Volume, Error> {
        let name = name.clone();
        self.in_turn(async move |lvm| resize(&lvm, &name, size_bytes).await)
            .await
    }

    fn require_snapshots(&self) -> Result<(), Error> {
        match &*self.provision {
            Provision::Thin { .. } => Ok(()),
            Provision::Thick { .. } => Err(Error::Unsupported(
                "thick volumes have no snapshots of their own; use a class with type: thin"
                    .to_owned(),
            )),
        }
    }

    async fn snapshot(&self, new: NewSnapshot) -> Result<Volume, Error> {
        self.require_snapshots()?;
        if let Some(source) = self.get(&new.source).await? {
            self.group.flush(&source).await;
        }
        self.in_turn(async move |lvm| construction::snapshot(&lvm, &new).await)
            .await
    }

    async fn freeze_for_backup(&self, volume: &Volume) -> Result<BackupSnapshot, Error> {
        self.group.flush(volume).await;
        let volume = volume.clone();
        let (mut frozen, mapper) = self
            .in_turn(async move |lvm| frozen::freeze(&lvm, &volume).await)
            .await?;
        if let Provision::Thin { pool, .. } = &*self.provision {
            let asked = tokio::select! {
                biased;
                why = frozen.must_go() => Err(why),
                extents = mapped::extents(&self.group, pool, &mapper) => Ok(extents),
            };
            match asked {
                Ok(extents) => frozen.extents = extents,
                Err(why) => {
                    frozen.let_go().await;
                    return Err(Error::Full(why));
                }
            }
        }
        Ok(frozen)
    }

    async fn free(&self) -> Result<FreeSpace, Error> {
        self.free_in(&self.group.report().await?)
    }

    async fn free_soon(&self) -> Result<FreeSpace, Error> {
        self.free_in(&self.group.look().await?.report)
    }
}

async fn resize(lvm: &Lvm, name: &VolumeName, size_bytes: u64) -> Result<Volume, Error> {
    let report = lvm.group.report().await?;
    let row = lvm.find(&report, name)?;
    if row.is_old_style_snapshot() {
        return Err(Error::Unsupported(format!(
            "volume {name} is a copy-on-write snapshot of {}: it is as large as that",
            row.origin
        )));
    }
    let size_bytes = report.whole_extents(size_bytes);
    let Some(growth_bytes) = size_bytes.checked_sub(row.size_bytes) else {
        return Err(Error::TooSmall {
            name: name.clone(),
            size_bytes: row.size_bytes,
        });
    };
    if growth_bytes == 0 {
        return row.volume().ok_or_else(|| Error::NotFound(name.clone()));
    }
    // LVM does not grow an active volume that has old-style snapshots.
    let holds_it = |other: &Row| {
        other.pool.is_empty()
            && other.origin == row.name
            && ours::Purpose::of(other) == Some(ours::Purpose::Backup)
    };
    if report.rows.iter().any(holds_it) {
        return Err(Error::BeingBackedUp(name.clone()));
    }
    lvm.require_free(&report, growth_bytes)?;
    lvm.group
        .extend(name.as_str(), size_bytes)
        .await
        .map_err(complaint::about(name, report.extent_bytes))?;
    lvm.group.published(name).await
}

/// A volume under restore. Its `Drop` is [`Construction`]'s.
#[derive(Debug)]
struct Pending {
    construction: Construction,
    ground: Ground,
    /// Of a thin one.
    pressure: Option<Pressure>,
}

#[async_trait]
impl PendingVolume for Pending {
    fn path(&self) -> &Path {
        self.construction.node()
    }

    fn ground(&self) -> Ground {
        self.ground
    }

    fn size_bytes(&self) -> u64 {
        self.construction.size_bytes()
    }

    async fn must_go(&self) -> String {
        let Some(pressure) = &self.pressure else {
            return pending().await;
        };
        let left = pressure.is_too_high().await;
        format!(
            "{left}: the restore to volume {} was given up, since a pool that runs full stops all its \
             volumes; make room in the pool, or let it grow",
            self.construction.name()
        )
    }

    async fn publish(self: Box<Self>) -> Result<Volume, Error> {
        let group = Arc::clone(self.construction.group());
        group
            .in_turn(async move || self.construction.publish().await)
            .await
    }

    async fn discard(self: Box<Self>) -> Result<(), Error> {
        let group = Arc::clone(self.construction.group());
        group
            .in_turn(async move || self.construction.discard().await)
            .await
    }
}
