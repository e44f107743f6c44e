//! Which ranges of a thin volume have blocks: the rest reads as zeros, and need not be read.
//!
//! The pool's metadata knows. A snapshot of it is held in the pool while `thin_dump` reads it, one
//! at a time per pool; what it says of a read-only volume stays true. Where that is not to be had, or
//! takes too long, a backup reads all of its volume.
//!
//! What is removed while metadata is held gives no blocks back that the held metadata knows. So a
//! pool that runs low has everybody let go of it.

use std::{error::Error as StdError, path::Path, process::Stdio, sync::Arc, time::Duration};

use ringback_datapath::device::Extent;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    sync::{Mutex, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{command::Failed, group::Group, pressure::Room};
use crate::volume::Error;

const SECTOR_BYTES: u64 = 512;

/// Ranges that are kept in memory, 16 MiB of them: beyond, those with small gaps become one.
const EXTENTS_MAX: usize = 1 << 20;

/// How long a backup waits for what is mapped: in that time much is read.
const PATIENCE: Duration = Duration::from_secs(600);

/// A pool's metadata, as far as it is held.
#[derive(Debug, Default)]
pub(super) struct Metadata {
    /// Whose turn it is to hold it. Whether it was found free of what a killed daemon held.
    is_free: Mutex<bool>,
    /// Seen by whoever holds it, or waits for its turn, when it is called back.
    called_back: watch::Sender<()>,
}

/// The ranges of an active read-only thin volume that have blocks, ascending; `None` when all of it
/// must be read. Without the caller it goes on only to let go of the pool's metadata.
pub(super) async fn extents(group: &Arc<Group>, pool: &str, mapper: &Path) -> Option<Vec<Extent>> {
    let volume = mapper.file_name()?.to_str()?.to_owned();
    let given_up = CancellationToken::new();
    let _guard = given_up.clone().drop_guard();
    let asked = {
        let (group, pool) = (Arc::clone(group), pool.to_owned());
        async move { ask(&group, &pool, &volume, &given_up).await }
    };
    match group.spawn(asked).await.ok()? {
        Ok(extents) => extents,
        Err(error) => {
            let group = group.name();
            tracing::warn!(group, pool, "a backup reads unmapped blocks, too: {error}");
            None
        }
    }
}

/// Lets go of the metadata of a pool that a killed daemon held.
pub(super) async fn let_go_of_left(group: &Group, pool: &str) {
    let metadata = group.metadata(pool);
    let mut is_free = metadata.is_free.lock().await;
    let_go_of_left_once(group, pool, &mut is_free).await;
}

/// The same in turn, unless that was done before.
async fn let_go_of_left_once(group: &Group, pool: &str, is_free: &mut bool) {
    if *is_free {
        return;
    }
    // Of a pool that is not in use, what was held is in its metadata, and cannot be let go of now.
    let Ok(room) = Room::of(group, pool).await else {
        return;
    };
    if room.holds_metadata {
        let device = pool_device(group, pool, "-tpool");
        tracing::info!(
            group = group.name(),
            pool,
            "letting go of the pool's metadata"
        );
        if let Err(error) = message(group, &device, "release_metadata_snap").await {
            tracing::warn!(group = group.name(), pool, "{error}");
            return;
        }
    }
    *is_free = true;
}

/// Has whoever holds the metadata of a pool let go of it.
pub(super) fn call_back(group: &Group, pool: &str) {
    group.metadata(pool).called_back.send_replace(());
}

async fn ask(
    group: &Group,
    pool: &str,
    volume: &str,
    given_up: &CancellationToken,
) -> Result<Option<Vec<Extent>>, Box<dyn StdError + Send + Sync>> {
    let table = group.command().tool("dmsetup", &["table", volume]).await;
    let table = table.map_err(Error::from)?;
    let Some(id) = thin_id(&table) else {
        return Ok(None);
    };
    let metadata = group.metadata(pool);
    let mut called_back = metadata.called_back.subscribe();
    let patience = Instant::now() + PATIENCE;
    let mut too_long = async || {
        tokio::select! {
            _ = called_back.changed() => "the pool runs low",
            () = sleep_until(patience) => "which are mapped takes too long to tell",
            () = given_up.cancelled() => "it has ended",
        }
    };
    let device = pool_device(group, pool, "-tpool");
    let mut is_free = tokio::select! {
        biased;
        why = too_long() => return Err(why.into()),
        is_free = metadata.is_free.lock() => is_free,
    };
    let_go_of_left_once(group, pool, &mut is_free).await;
    message(group, &device, "reserve_metadata_snap").await?;
    let held = pool_device(group, pool, "_tmeta");
    let dumped = tokio::select! {
        biased;
        why = too_long() => Err(why.into()),
        dumped = dump(group, &held, id) => dumped.map_err(Into::into),
    };
    let released = message(group, &device, "release_metadata_snap").await;
    *is_free = released.is_ok();
    released?;
    dumped.map(Some)
}

async fn message(group: &Group, device: &str, text: &str) -> Result<(), Error> {
    let message = ["message", device, "0", text];
    group.command().tool("dmsetup", &message).await?;
    Ok(())
}

/// Runs `thin_dump`, whose output is longer than memory may be. It ends with who waits for it.
async fn dump(group: &Group, metadata: &str, id: u32) -> Result<Vec<Extent>, Error> {
    let program = "thin_dump";
    let failed = Error::io("run", Path::new(program));
    let path = format!("/dev/mapper/{metadata}");
    let mut child = group
        .command()
        .tool_command(program)
        .args(["-m", "--dev-id", &id.to_string(), &path])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let failed = |source| Error::io("read from", Path::new(program))(source);
    let stdout = child.stdout.take().expect("is piped");
    let mut stderr = child.stderr.take().expect("is piped");
    let mut dump = Dump::of(id);
    let read = async {
        let mut lines = BufReader::new(stdout).lines();
        while let Some(line) = lines.next_line().await? {
            dump.take(&line);
        }
        Ok(())
    };
    let mut said = String::new();
    tokio::try_join!(read, stderr.read_to_string(&mut said)).map_err(failed)?;
    let status = child.wait().await.map_err(failed)?;
    match dump.extents() {
        Some(extents) if status.success() => Ok(extents),
        _ => {
            said.push_str("what it wrote is not whole");
            Err(Failed::of(program, status, said).into())
        }
    }
}

/// `VG-POOL-tpool`, hyphens of the names doubled.
pub(super) fn pool_device(group: &Group, pool: &str, suffix: &str) -> String {
    let mapped = |name: &str| name.replace('-', "--");
    format!("{}-{}{suffix}", mapped(group.name()), mapped(pool))
}

/// `0 2097152 thin 254:2 2`: the last is the volume's number in its pool. Another word would be an
/// external origin, which is read where there are no blocks.
fn thin_id(table: &str) -> Option<u32> {
    let words: Vec<&str> = table.split_whitespace().collect();
    match words[..] {
        [_, _, "thin", _, id] => id.parse().ok(),
        _ => None,
    }
}

/// What `thin_dump` writes, line by line. A volume that it does not mention has no blocks in its
/// words, and is none that can be skipped: so its own count is compared.
#[derive(Debug, Default)]
struct Dump {
    id: u32,
    block_bytes: u64,
    /// As it counts them, once it has come to the volume.
    mapped_blocks: Option<u64>,
    seen_blocks: u64,
    extents: Vec<Extent>,
    has_ended: bool,
    is_odd: bool,
    /// Gaps up to here are not worth a range.
    gap_bytes: u64,
}

impl Dump {
    fn of(id: u32) -> Dump {
        Dump {
            id,
            ..Dump::default()
        }
    }

    /// The ranges, when all was there.
    fn extents(self) -> Option<Vec<Extent>> {
        let is_whole = self.has_ended
            && !self.is_odd
            && self.block_bytes > 0
            && self.mapped_blocks == Some(self.seen_blocks);
        is_whole.then_some(self.extents)
    }

    fn take(&mut self, line: &str) {
        let line = line.trim_start();
        if line.starts_with("<superblock ") {
            self.block_bytes = number(line, "data_block_size").unwrap_or(0) * SECTOR_BYTES;
        } else if line.starts_with("<device ") {
            self.is_odd |= number(line, "dev_id") != Some(self.id.into());
            self.mapped_blocks = number(line, "mapped_blocks");
        } else if line.starts_with("<range_mapping ") {
            self.map(number(line, "origin_begin"), number(line, "length"));
        } else if line.starts_with("<single_mapping ") {
            self.map(number(line, "origin_block"), Some(1));
        } else if line.starts_with("</superblock>") {
            self.has_ended = true;
        }
    }

    fn map(&mut self, begin: Option<u64>, blocks: Option<u64>) {
        let (Some(begin), Some(blocks)) = (begin, blocks) else {
            self.is_odd = true;
            return;
        };
        self.seen_blocks = self.seen_blocks.saturating_add(blocks);
        let start = begin.saturating_mul(self.block_bytes);
        let end = begin
            .saturating_add(blocks)
            .saturating_mul(self.block_bytes);
        match self.extents.last_mut() {
            Some(last) if start < last.end => self.is_odd = true,
            Some(last) if start - last.end <= self.gap_bytes => last.end = end,
            _ => self.extents.push(Extent { start, end }),
        }
        while self.extents.len() > EXTENTS_MAX {
            self.join_more();
        }
    }

    /// Reads more than it must, so that memory stays bounded.
    fn join_more(&mut self) {
        self.gap_bytes = (self.gap_bytes * 2).max(self.block_bytes);
        let gap_bytes = self.gap_bytes;
        self.extents.dedup_by(|next, last| {
            let joins = next.start - last.end <= gap_bytes;
            if joins {
                last.end = next.end;
            }
            joins
        });
    }
}

/// `name="123"`.
fn number(line: &str, name: &str) -> Option<u64> {
    let (_, value) = line.split_once(&format!(" {name}=\""))?;
    value.split('"').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;

    fn extent(start: u64, end: u64) -> Extent {
        Extent { start, end }
    }

    fn read(text: &str) -> Dump {
        let mut dump = Dump::of(2);
        text.lines().for_each(|line| dump.take(line));
        dump
    }

    #[test]
    fn mappings_are_read_as_thin_dump_writes_them_and_neighbours_are_one() {
        let dump = read(include_str!("fixtures/thin_dump.xml"));
        assert_eq!(
            dump.extents().expect("whole"),
            [extent(0, 192 * KIB), extent(6400 * KIB, 6464 * KIB)]
        );
        let dump = read(
            "<superblock data_block_size=\"2048\">\n\
             <device dev_id=\"2\" mapped_blocks=\"3\">\n\
             <single_mapping origin_block=\"3\" data_block=\"9\" time=\"0\"/>\n\
             <range_mapping origin_begin=\"4\" data_begin=\"1\" length=\"2\" time=\"1\"/>\n\
             </superblock>\n",
        );
        let extents = dump.extents().expect("whole");
        assert_eq!(extents, [extent(3072 * KIB, 6144 * KIB)]);
    }

    #[test]
    fn what_is_cut_off_or_odd_is_not_believed() {
        let text = include_str!("fixtures/thin_dump.xml");
        assert_eq!(read(&text[..text.len() - 20]).extents(), None, "cut off");
        for (from, to) in [
            ("length", "size"),
            ("data_block_size", "size"),
            ("origin_block=\"100\"", "origin_block=\"1\""),
            ("mapped_blocks=\"4\"", "mapped_blocks=\"5\""),
            ("dev_id=\"2\"", "dev_id=\"3\""),
        ] {
            assert!(text.contains(from), "{from}");
            assert_eq!(read(&text.replace(from, to)).extents(), None, "{to}");
        }
        let without = text.lines().filter(|line| !line.contains("device"));
        let without: String = without.map(|line| format!("{line}\n")).collect();
        assert_eq!(
            read(&without).extents(),
            None,
            "it does not know the volume"
        );
    }

    #[test]
    fn ranges_beyond_the_bound_are_joined_over_their_smallest_gaps() {
        let mut dump = read("<superblock data_block_size=\"128\">");
        let blocks = 3 * EXTENTS_MAX as u64;
        for block in 0..blocks {
            dump.map(Some(2 * block), Some(1));
        }
        assert!(dump.extents.len() <= EXTENTS_MAX);
        assert_eq!(dump.extents[0].start, 0);
        let end = dump.extents.last().expect("some").end;
        assert_eq!(end, (2 * blocks - 1) * 64 * KIB);
    }

    #[test]
    fn tables_are_read_as_dmsetup_writes_them() {
        assert_eq!(thin_id("0 2097152 thin 254:2 2\n"), Some(2));
        assert_eq!(
            thin_id("0 40960 thin 254:2 3 254:6\n"),
            None,
            "an external origin"
        );
        assert_eq!(thin_id("0 409600 linear 98:0 10240\n"), None);
    }
}
