//! What a volume group holds, as LVM reports it: one command, one moment.

use std::{collections::HashSet, process::Stdio};

use serde::Deserialize;

use super::command::{Call, Lvm, Trouble};
use crate::{
    names::VolumeName,
    volume::{Error, Volume},
};

/// Columns of the group, the same in every row.
const GROUP_COLUMNS: &str = "vg_extent_size,vg_free,vg_size";
/// Columns of a volume. Those of segments are left out: they make a row of each segment.
const VOLUME_COLUMNS: &str = "lv_name,lv_uuid,lv_size,lv_attr,lv_kernel_major,lv_kernel_minor,\
                              lv_tags,lv_role,lv_path,lv_dm_path,pool_lv,origin,origin_size,\
                              data_percent,metadata_percent";

/// A volume group and the volumes in it that are not parts of others.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Report {
    pub(super) extent_bytes: u64,
    pub(super) free_bytes: u64,
    pub(super) size_bytes: u64,
    pub(super) rows: Vec<Row>,
}

/// A logical volume or pool.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) uuid: String,
    pub(super) size_bytes: u64,
    pub(super) attr: String,
    /// 0:0 when it is not active.
    pub(super) device: (u32, u32),
    pub(super) tags: Vec<String>,
    /// Whether it is for use, not a pool or another's part.
    pub(super) is_public: bool,
    /// `/dev/GROUP/NAME`; empty for a pool.
    pub(super) path: String,
    /// `/dev/mapper/...`, hyphens doubled.
    pub(super) mapper_path: String,
    /// The thin pool that it takes its blocks from, or empty.
    pub(super) pool: String,
    /// The volume that it is a snapshot of, or empty.
    pub(super) origin: String,
    /// Of a snapshot: how large that volume is.
    pub(super) origin_bytes: u64,
    /// Of a pool or an old-style snapshot: how full it is.
    pub(super) data_percent: f64,
    pub(super) metadata_percent: f64,
}

impl Report {
    /// Asks LVM; `group` is there or it is an error.
    pub(super) async fn ask(lvm: &Lvm, group: &str) -> Result<Report, Error> {
        let columns = format!("{GROUP_COLUMNS},{VOLUME_COLUMNS}");
        let rows = rows(lvm, "lvs", &columns, group).await?;
        if !rows.is_empty() {
            return Ok(Report::of(rows));
        }
        // An empty group has no row to carry its own columns.
        let rows = self::rows(lvm, "vgs", GROUP_COLUMNS, group).await?;
        Ok(Report::of(rows))
    }

    fn of(raw_rows: Vec<RawRow>) -> Report {
        let group = raw_rows.first().cloned().unwrap_or_default();
        let named = raw_rows.into_iter().filter(|row| !row.lv_name.is_empty());
        let mut rows: Vec<Row> = named.map(Row::from).collect();
        // LVM has the same column for the pools of caches and of VDO, which thick volumes may have.
        let is_thin_pool = |row: &&Row| row.attr.starts_with('t');
        let thin_pools = rows.iter().filter(is_thin_pool);
        let thin_pools: HashSet<String> = thin_pools.map(|pool| pool.name.clone()).collect();
        for row in &mut rows {
            if !thin_pools.contains(&row.pool) {
                row.pool.clear();
            }
        }
        Report {
            extent_bytes: whole(&group.vg_extent_size).max(1),
            free_bytes: whole(&group.vg_free),
            size_bytes: whole(&group.vg_size),
            rows,
        }
    }

    /// What has this name.
    pub(super) fn find(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// The size of a volume that has at least so many bytes.
    pub(super) fn whole_extents(&self, bytes: u64) -> u64 {
        self.whole_stripes(bytes, 1)
    }

    /// The same for one that has as many extents on each of its stripes.
    pub(super) fn whole_stripes(&self, bytes: u64, stripes: u32) -> u64 {
        // A size that cannot be rounded up cannot be made either; the check for room refuses it.
        let step = self.extent_bytes.saturating_mul(stripes.into());
        bytes.checked_next_multiple_of(step).unwrap_or(u64::MAX)
    }
}

impl Row {
    /// The volume as others see it; `None` for names that are LVM's or ours.
    pub(super) fn volume(&self) -> Option<Volume> {
        Some(Volume {
            name: VolumeName::parse(&self.name).ok()?,
            identity: self.uuid.clone(),
            size_bytes: self.device_bytes(),
            device: self.device,
            tags: self
                .tags
                .iter()
                .filter(|tag| !super::ours::is_own_tag(tag))
                .cloned()
                .collect(),
            path: self.path.clone().into(),
            attr: self.attr.clone(),
        })
    }

    /// An old-style snapshot shows all of its origin, whatever room it has for what is overwritten.
    fn device_bytes(&self) -> u64 {
        if self.is_old_style_snapshot() {
            self.origin_bytes
        } else {
            self.size_bytes
        }
    }

    pub(super) fn is_old_style_snapshot(&self) -> bool {
        self.attr.starts_with(['s', 'S'])
    }

    /// Whether it is an old-style snapshot that ran full.
    pub(super) fn is_invalid_snapshot(&self) -> bool {
        let state = self.attr.as_bytes().get(4);
        matches!(state, Some(b'I' | b'S'))
    }

    /// Whether its device lets nobody read or write: for a moment, unless a command of LVM was killed.
    pub(super) fn is_suspended(&self) -> bool {
        let state = self.attr.as_bytes().get(4);
        matches!(state, Some(b's' | b'S'))
    }

    /// Of a thin volume or pool: whether new blocks are zeroed.
    pub(super) fn zeroes_blocks(&self) -> bool {
        self.attr.as_bytes().get(7) == Some(&b'z')
    }
}

/// Size of a pool's blocks; a column of its one segment.
pub(super) async fn pool_block_bytes(lvm: &Lvm, group: &str, pool: &str) -> Result<u64, Error> {
    let rows = rows(lvm, "lvs", "chunk_size", &format!("{group}/{pool}")).await?;
    Ok(rows.first().map_or(0, |row| whole(&row.chunk_size)))
}

async fn rows(
    lvm: &Lvm,
    command: &'static str,
    columns: &str,
    name: &str,
) -> Result<Vec<RawRow>, Error> {
    let call = Call::new(command)
        .options(["--reportformat", "json", "--units", "b", "--nosuffix"])
        .options(["-o", columns])
        .name(name);
    match lvm.run(&call, Stdio::null()).await {
        Ok(json) => parse(&json).map_err(|source| Error::Report {
            command: command.to_owned(),
            source,
        }),
        Err(Trouble::Failed(failed)) if failed.stderr.contains("not found") => {
            Err(Error::Unavailable {
                group: name.to_owned(),
                reason: "LVM does not find it; `vgs` shows which there are".to_owned(),
            })
        }
        Err(other) => Err(other.into()),
    }
}

fn parse(json: &str) -> Result<Vec<RawRow>, serde_json::Error> {
    let document: Document = serde_json::from_str(json)?;
    let reports = document.report.into_iter();
    Ok(reports
        .flat_map(|report| report.lv.into_iter().chain(report.vg))
        .collect())
}

#[derive(Deserialize)]
struct Document {
    report: Vec<RawReport>,
}

#[derive(Deserialize)]
struct RawReport {
    #[serde(default)]
    lv: Vec<RawRow>,
    #[serde(default)]
    vg: Vec<RawRow>,
}

/// Every value is text, empty where a column says nothing.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct RawRow {
    vg_extent_size: String,
    vg_free: String,
    vg_size: String,
    lv_name: String,
    lv_uuid: String,
    lv_size: String,
    lv_attr: String,
    lv_kernel_major: String,
    lv_kernel_minor: String,
    lv_tags: String,
    lv_role: String,
    lv_path: String,
    lv_dm_path: String,
    pool_lv: String,
    origin: String,
    origin_size: String,
    data_percent: String,
    metadata_percent: String,
    chunk_size: String,
}

impl From<RawRow> for Row {
    fn from(raw: RawRow) -> Row {
        // -1 while it is not active.
        let device = (raw.lv_kernel_major.parse(), raw.lv_kernel_minor.parse());
        let comma_separated = |text: &str| {
            let words = text.split(',').filter(|word| !word.is_empty());
            words.map(str::to_owned).collect::<Vec<_>>()
        };
        Row {
            size_bytes: whole(&raw.lv_size),
            device: match device {
                (Ok(major), Ok(minor)) => (major, minor),
                _ => (0, 0),
            },
            tags: comma_separated(&raw.lv_tags),
            is_public: comma_separated(&raw.lv_role)
                .iter()
                .any(|it| it == "public"),
            data_percent: raw.data_percent.parse().unwrap_or(0.0),
            metadata_percent: raw.metadata_percent.parse().unwrap_or(0.0),
            name: raw.lv_name,
            uuid: raw.lv_uuid,
            attr: raw.lv_attr,
            path: raw.lv_path,
            mapper_path: raw.lv_dm_path,
            pool: raw.pool_lv,
            origin: raw.origin,
            origin_bytes: whole(&raw.origin_size),
        }
    }
}

fn whole(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Recorded from LVM 2.03.16; `pools.json`, and `origin_size` in all of them, were written by hand.
    pub(in crate::volume::lvm) fn recorded(json: &str) -> Report {
        Report::of(parse(json).expect("LVM's JSON"))
    }

    /// A group with thick and thin volumes, two pools, snapshots of ours and of others.
    pub(in crate::volume::lvm) fn full() -> Report {
        recorded(include_str!("fixtures/full.json"))
    }

    #[test]
    fn a_volume_is_read_with_all_that_callers_are_told() {
        let report = full();
        assert_eq!(report.extent_bytes, 4 << 20);
        assert_eq!(report.size_bytes, 2_139_095_040);
        let volume = report.find("tagged").and_then(Row::volume).expect("there");
        assert_eq!(volume.name.as_str(), "tagged");
        assert_eq!(volume.size_bytes, 104_857_600);
        assert_eq!(volume.tags, ["a/b=c", "topo"]);
        assert_eq!(volume.attr, "-wi-a-----");
        assert_eq!(volume.path.to_str(), Some("/dev/vgtest/tagged"));
        assert_ne!(volume.device, (0, 0));
        assert_eq!(volume.identity.len(), 38, "{}", volume.identity);
    }

    #[test]
    fn what_is_not_active_has_the_device_0_0() {
        let report = full();
        let inactive = report.find("thin-skipped").expect("there");
        assert_eq!(inactive.device, (0, 0));
        assert_eq!(inactive.attr, "Vwi---tz-k");
    }

    #[test]
    fn a_volume_in_many_segments_is_one_row() {
        let report = full();
        let rows = report.rows.iter().filter(|row| row.name == "segments");
        assert_eq!(rows.count(), 1);
    }

    #[test]
    fn pools_are_not_public_and_their_figures_are_read() {
        let report = full();
        let pool = report.find("pool").expect("there");
        assert!(!pool.is_public && pool.zeroes_blocks());
        assert!(pool.data_percent > 0.0 && pool.metadata_percent > 0.0);
        assert!(!report.find("pool-nozero").expect("there").zeroes_blocks());
        assert!(report.find("thin").expect("there").is_public);
    }

    #[test]
    fn only_thin_volumes_are_of_a_pool() {
        let report = recorded(include_str!("fixtures/pools.json"));
        let pools = ["thin", "cached", "hidden", "plain"].map(|name| {
            let row = report.find(name).expect(name);
            assert!(row.is_public, "{name}");
            &row.pool[..]
        });
        assert_eq!(pools, ["pool", "", "", ""]);
        assert!(!report.find("vpool").expect("there").is_public);
    }

    #[test]
    fn a_snapshot_that_ran_full_is_told_from_one_that_did_not() {
        let report = full();
        assert!(
            !report
                .find(".ringback-b00000001")
                .expect("there")
                .is_invalid_snapshot()
        );
        let overflowed = recorded(include_str!("fixtures/overflowed.json"));
        let snapshot = overflowed.find(".ringback-b00000001").expect("there");
        assert!(snapshot.is_invalid_snapshot() && !snapshot.is_suspended());
        assert_eq!(snapshot.origin, "thick");
        assert_eq!(
            (snapshot.size_bytes, snapshot.device_bytes()),
            (32 << 20, 100 << 20),
            "its room, and what it shows"
        );
    }

    #[test]
    fn an_empty_group_has_its_figures_and_no_rows() {
        let report = recorded(include_str!("fixtures/empty.json"));
        assert_eq!(report.rows, []);
        assert_eq!(report.free_bytes, report.size_bytes);
        assert_eq!(report.whole_extents(1), 4 << 20);
        assert_eq!(report.whole_extents(4 << 20), 4 << 20);
        assert_eq!(report.whole_extents(u64::MAX), u64::MAX);
        assert_eq!(report.whole_stripes(1 << 30, 3), 1032 << 20);
    }
}
