//! Room, as a report tells it.

use super::{
    Provision,
    ours::Purpose,
    report::{Report, Row},
};
use crate::volume::{Error, FreeSpace, PoolSpace};

/// The room of one way to make volumes.
pub(super) fn free(
    report: &Report,
    group: &str,
    provision: &Provision,
) -> Result<FreeSpace, Error> {
    match provision {
        Provision::Thick { .. } => Ok(thick(report)),
        Provision::Thin {
            pool,
            overprovision_ratio,
        } => thin(
            report,
            find_pool(report, group, pool)?,
            *overprovision_ratio,
        ),
    }
}

/// The pool that there must be.
pub(super) fn find_pool<'a>(report: &'a Report, group: &str, pool: &str) -> Result<&'a Row, Error> {
    let found = report.find(pool).filter(|row| row.attr.starts_with('t'));
    found.ok_or_else(|| Error::Unavailable {
        group: format!("{group}/{pool}"),
        reason: "there is no thin pool of this name; `lvs` shows which there are".to_owned(),
    })
}

/// Extents that are free. Unfinished restores have theirs already; snapshots of ours will give
/// theirs back.
fn thick(report: &Report) -> FreeSpace {
    let snapshots = report
        .rows
        .iter()
        .filter(|row| row.pool.is_empty() && is_backup_snapshot(row));
    FreeSpace {
        free_bytes: report.free_bytes,
        size_bytes: report.size_bytes,
        snapshots_bytes: snapshots.map(|row| row.size_bytes).sum(),
        pool: None,
    }
}

/// What may still be promised: unfinished restores are promises, snapshots of ours are none.
fn thin(report: &Report, pool: &Row, overprovision_ratio: f64) -> Result<FreeSpace, Error> {
    let promises = report
        .rows
        .iter()
        .filter(|row| row.pool == pool.name && !is_backup_snapshot(row));
    let promised_bytes: u64 = promises.map(|row| row.size_bytes).sum();
    let bound_bytes = scaled(pool.size_bytes, overprovision_ratio);
    Ok(FreeSpace {
        free_bytes: bound_bytes.saturating_sub(promised_bytes),
        size_bytes: report.size_bytes,
        snapshots_bytes: 0,
        pool: Some(PoolSpace {
            data_percent: pool.data_percent,
            metadata_percent: pool.metadata_percent,
            size_bytes: pool.size_bytes,
            group_free_bytes: report.free_bytes,
        }),
    })
}

fn is_backup_snapshot(row: &Row) -> bool {
    Purpose::of(row) == Some(Purpose::Backup)
}

/// `floor(bytes * ratio)`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is rounded down, and what is beyond 64 bits is all of them"
)]
pub(super) fn scaled(bytes: u64, ratio: f64) -> u64 {
    (bytes as f64 * ratio).floor() as u64
}

#[cfg(test)]
mod tests {
    use super::{super::report::tests::full, *};

    const MIB: u64 = 1 << 20;

    fn pool(name: &str, overprovision_ratio: f64) -> Provision {
        Provision::Thin {
            pool: name.to_owned(),
            overprovision_ratio,
        }
    }

    #[test]
    fn a_thick_class_has_the_groups_free_extents_and_knows_what_our_snapshots_take() {
        let report = full();
        let thick = Provision::Thick {
            snapshot_percent: 20,
        };
        let space = free(&report, "vgtest", &thick).expect("free");
        assert_eq!(space.free_bytes, report.free_bytes);
        assert_eq!(space.size_bytes, report.size_bytes);
        assert_eq!(space.snapshots_bytes, 32 * MIB);
        assert_eq!(space.pool, None);
    }

    #[test]
    fn a_thin_class_counts_promises_and_leaves_our_snapshots_out() {
        let report = full();
        let space = free(&report, "vgtest", &pool("pool", 10.5)).expect("free");
        // 400 MiB of pool; thin 1 GiB, a snapshot of it that is somebody's, a restore of 512 MiB.
        let promised = 1024 + 1024 + 512;
        assert_eq!(space.free_bytes, (4200 - promised) * MIB);
        let figures = space.pool.expect("a pool");
        assert_eq!(figures.size_bytes, 400 * MIB);
        assert_eq!(figures.group_free_bytes, report.free_bytes);
        assert!(figures.data_percent > 0.0 && figures.metadata_percent > 0.0);
        // Promised more than it may be: none is left.
        let space = free(&report, "vgtest", &pool("pool", 1.0)).expect("free");
        assert_eq!(space.free_bytes, 0);
    }

    #[test]
    fn a_pool_that_is_not_there_or_no_pool_is_unavailable() {
        for name in ["nowhere", "thick"] {
            let error = free(&full(), "vgtest", &pool(name, 1.0)).expect_err("no pool");
            assert!(
                error.to_string().contains("there is no thin pool"),
                "{error}"
            );
        }
    }

    #[test]
    fn ratios_are_rounded_down_and_bounded() {
        assert_eq!(scaled(10, 1.99), 19);
        assert_eq!(scaled(4 << 40, 2.5), 10 << 40);
        assert_eq!(scaled(u64::MAX, 100.0), u64::MAX);
    }
}
