//! A volume's content held still for a backup: a thin snapshot, or a copy-on-write snapshot with
//! room for what is overwritten meanwhile.

use std::{
    future::pending,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use async_trait::async_trait;

use super::{
    Lvm, Provision,
    command::Call,
    complaint,
    group::Group,
    node,
    ours::{KEPT_INACTIVE, Purpose},
    pressure::{LeftPart, Pressure},
    report::{Report, Row},
    space,
};
use crate::{
    names::VolumeName,
    volume::{BackupSnapshot, Error, Frozen, Hold, Volume},
};

/// A snapshot that goes away with its backup.
#[derive(Debug)]
struct Snapshot {
    group: Arc<Group>,
    temporary: String,
    origin: VolumeName,
    /// Of a thin one.
    pressure: Option<Pressure>,
    /// Its removal has begun, and is tried again until it succeeds.
    removed: Arc<AtomicBool>,
}

/// Takes the snapshot; its node below `/dev/mapper` as well. To be called in turn.
pub(super) async fn freeze(lvm: &Lvm, volume: &Volume) -> Result<(BackupSnapshot, PathBuf), Error> {
    let report = lvm.group.report().await?;
    let name = &volume.name;
    let origin = lvm.find(&report, name)?;
    if origin.uuid != volume.identity {
        return Err(Error::Replaced(name.clone()));
    }
    let temporary = Purpose::Backup.random_name()?;
    let call = Call::new("lvcreate")
        .options(["--yes", "--snapshot", "--permission", "r"])
        .options(["--name", &temporary])
        .options(["--addtag", Purpose::Backup.tag()]);
    let (call, pressure) = match &*lvm.provision {
        Provision::Thin { pool, .. } => {
            let pressure = Pressure::of(&lvm.group, pool, LeftPart::BY_BACKUP).await;
            (call.options(KEPT_INACTIVE), Some(pressure))
        }
        // It is active when its volume is; udev knows it, and prefers the volume.
        Provision::Thick { snapshot_percent } => {
            let bytes = room(&report, origin, *snapshot_percent)?;
            (call.options(["--size", &format!("{bytes}b")]), None)
        }
    };
    let snapshot = Snapshot {
        group: Arc::clone(&lvm.group),
        temporary,
        origin: name.clone(),
        pressure,
        removed: Arc::default(),
    };
    let created_at = SystemTime::now();
    let call = call.name(lvm.group.full_name(name.as_str()));
    let (node, mapper) = match snapshot.make(&call, report.extent_bytes).await {
        Ok((node, mapper)) => (Frozen::Snapshot(node), mapper),
        Err(error) => {
            snapshot.give_up().await;
            return Err(error);
        }
    };
    let size_bytes = origin.size_bytes;
    let mut frozen = BackupSnapshot::new(node, size_bytes, created_at, Box::new(snapshot));
    frozen.warning = warning(lvm, &report, origin);
    Ok((frozen, mapper))
}

impl Snapshot {
    /// Makes the snapshot and waits for its device.
    async fn make(&self, call: &Call, extent_bytes: u64) -> Result<(PathBuf, PathBuf), Error> {
        let made = self.group.change(call).await;
        made.map_err(complaint::about(&self.origin, extent_bytes))?;
        let report = self.group.report().await?;
        let row = report.find(&self.temporary);
        let row = row.ok_or_else(|| Error::NotFound(self.origin.clone()))?;
        Ok((node::of(row).await?, PathBuf::from(&row.mapper_path)))
    }

    async fn remove(&self) -> Result<(), Error> {
        if self.removed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let (group, removed) = (Arc::clone(&self.group), Arc::clone(&self.removed));
        let temporary = self.temporary.clone();
        self.group
            .in_turn(async move || {
                removed.store(true, Ordering::Relaxed);
                group.remove_own(&temporary).await
            })
            .await
    }

    /// Removes what there may be of it. To be called in turn.
    async fn give_up(self) {
        self.removed.store(true, Ordering::Relaxed);
        if let Err(left) = self.group.remove_own(&self.temporary).await {
            tracing::warn!(
                volume = self.temporary,
                "removing it is tried again: {left}"
            );
        }
    }
}

/// How large a copy-on-write snapshot of this volume is.
fn room(report: &Report, origin: &Row, snapshot_percent: u32) -> Result<u64, Error> {
    let bytes = match snapshot_percent {
        // All of it may be overwritten, and each copy is noted in 16 bytes for 4096; LVM cuts what
        // can never be used.
        100.. => origin.size_bytes + origin.size_bytes / 100 + report.extent_bytes,
        percent => space::scaled(origin.size_bytes, f64::from(percent) / 100.0),
    };
    let bytes = report.whole_extents(bytes);
    if bytes > report.free_bytes {
        return Err(Error::Full(format!(
            "a backup of volume {} needs a snapshot of {bytes} bytes (snapshot-percent \
             {snapshot_percent} of its device class), and {} are free in its volume group; make \
             room, or lower snapshot-percent",
            origin.name, report.free_bytes
        )));
    }
    Ok(bytes)
}

/// What a thin snapshot may lead to: a pool that runs full stops all its volumes.
fn warning(lvm: &Lvm, report: &Report, origin: &Row) -> Option<String> {
    let space = lvm.free_in(report).ok()?;
    let pool = space.pool?;
    let part = |bytes: u64, percent: f64| space::scaled(bytes, percent / 100.0);
    let left_bytes = part(pool.size_bytes, 100.0 - pool.data_percent);
    let shared_bytes = part(origin.size_bytes, origin.data_percent);
    (left_bytes < shared_bytes).then(|| {
        format!(
            "while the backup runs, overwriting volume {} takes new blocks: up to {shared_bytes} \
             bytes, and {left_bytes} are left in the thin pool {}",
            origin.name, origin.pool
        )
    })
}

/// Why a snapshot is none any more, if so.
fn objection(report: &Report, snapshot: &str, origin: &VolumeName) -> Option<String> {
    let Some(row) = report.find(snapshot) else {
        return Some(format!(
            "the snapshot of volume {origin} was removed by somebody else while it was read"
        ));
    };
    // The kernel's word for it is the same when it could not write to it.
    row.is_invalid_snapshot().then(|| {
        format!(
            "the snapshot of volume {origin} ran full: more than its {} bytes were overwritten \
             while the backup ran, so there is no backup of that moment; raise snapshot-percent \
             of the device class (100 never runs full), or back up when less is written; if less was, \
             a disk failed, and the kernel's log says so",
            row.size_bytes
        )
    })
}

#[async_trait]
impl Hold for Snapshot {
    async fn release(self: Box<Self>) -> Result<(), Error> {
        self.remove().await
    }

    async fn let_go(&self) {
        if let Err(error) = self.remove().await {
            let volume = &self.temporary;
            tracing::warn!(volume, "removing it is tried again: {error}");
        }
    }

    async fn check(&self) -> Result<(), String> {
        let report = self.group.report().await;
        let report = report.map_err(|error| {
            format!(
                "whether the snapshot of {} is still whole is not known: {error}",
                self.origin
            )
        })?;
        objection(&report, &self.temporary, &self.origin).map_or(Ok(()), Err)
    }

    async fn must_go(&self) -> String {
        let Some(pressure) = &self.pressure else {
            return pending().await;
        };
        let left = pressure.is_too_high().await;
        format!(
            "{left}: the backup of volume {} was given up, since its snapshot holds what is \
             overwritten, and a pool that runs full stops all its volumes; make room in the pool, or \
             back up when less is written",
            self.origin
        )
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if self.removed.load(Ordering::Relaxed) {
            return;
        }
        let temporary = std::mem::take(&mut self.temporary);
        self.group.in_turn_aside(|group| async move {
            if let Err(error) = group.remove_own(&temporary).await {
                tracing::warn!(volume = temporary, "removing it is tried again: {error}");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::report::tests::{full, recorded},
        *,
    };

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_snapshot_has_its_share_of_the_volume_in_whole_extents() {
        let report = full();
        let thick = report.find("thick").expect("100 MiB");
        assert_eq!(room(&report, thick, 20).expect("room"), 20 * MIB);
        assert_eq!(room(&report, thick, 1).expect("room"), 4 * MIB);
        // Never runs full: the volume and what notes its 25600 copies.
        assert_eq!(room(&report, thick, 100).expect("room"), 108 * MIB);
        let mut crowded = report.clone();
        crowded.free_bytes = 16 * MIB;
        let error = room(&crowded, thick, 20).expect_err("no room");
        assert_eq!(
            error.to_string(),
            "a backup of volume thick needs a snapshot of 20971520 bytes (snapshot-percent 20 of \
             its device class), and 16777216 are free in its volume group; make room, or lower \
             snapshot-percent"
        );
    }

    #[test]
    fn a_snapshot_that_ran_full_or_went_away_is_objected_to() {
        let origin = VolumeName::parse("thick").expect("a name");
        let snapshot = ".ringback-b00000001";
        assert_eq!(objection(&full(), snapshot, &origin), None);
        let overflowed = recorded(include_str!("fixtures/overflowed.json"));
        let said = objection(&overflowed, snapshot, &origin).expect("it ran full");
        assert!(said.starts_with("the snapshot of volume thick ran full: more than its 33554432"));
        assert!(said.contains("raise snapshot-percent"), "{said}");
        let said = objection(&full(), ".ringback-bffffffff", &origin).expect("it is gone");
        assert!(said.contains("removed by somebody else"), "{said}");
    }
}
