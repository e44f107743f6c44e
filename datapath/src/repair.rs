//! Repair: what can be made good of what a verification finds.
//!
//! Data packs with damaged chunks are marked in the log, so that the next backup which meets the
//! same data stores it again; restores of older backups take it from there. Index segments that are
//! lost or damaged are made anew from the footers of the packs. A log that could be read in one way
//! only gets another checkpoint. What no other copy heals is lost.
//!
//! It removes nothing but checkpoints that rotted and entries that two whole checkpoints stand for, needs
//! no lock and may be cut off at any point: each of its entries stands by itself, and a second run
//! appends what is still missing.

use std::collections::{BTreeSet, HashSet};

use futures::{StreamExt, TryStreamExt, stream};

use crate::{
    error::{Error, ErrorKind},
    footers::fetch_footer,
    format::name::{ObjectKind, PackName, SessionId, pack_table},
    index::{SegmentCache, SegmentWriter, fetch_segment, places_in},
    log::{Log, LogFlaw},
    packer::FinishedPack,
    repository::Repository,
    store::StoreError,
    verify::{self, Counts, Depth, Finding, Severity},
};

/// Segments, or footers, fetched at once.
const FETCHES: usize = 4;

/// What a repair did, or would do.
#[derive(Debug, Default)]
pub struct Repaired {
    /// Data packs that are marked now and were not before.
    pub marked: Vec<String>,
    /// Index segments that counted and were damaged or missing.
    pub segments_dropped: Vec<String>,
    /// How many took their place; 0 if nothing was written.
    pub segments_added: usize,
    /// Packs that no whole segment listed, and that the new ones list.
    pub packs_listed: usize,
    /// Checkpoints, and entries below them, that were damaged, and that a new checkpoint stands for.
    pub log_replaced: Vec<String>,
    /// Entries appended to the log.
    pub entries: usize,
    /// All that was found, in the order in which it was.
    pub findings: Vec<Finding>,
}

/// How a repository stands after a repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// All is whole, or another copy heals it, or no backup needs it any more.
    Whole,
    /// All can be restored, and yet something stays damaged, such as a ref set.
    Damaged,
    /// Bytes of volumes cannot be restored.
    Lost,
}

impl Repaired {
    /// How the repository stands now, as far as was looked.
    pub fn standing(&self) -> Standing {
        if self
            .findings
            .iter()
            .any(|it| it.severity() == Severity::Lost)
        {
            Standing::Lost
        } else if self.left().next().is_some() {
            Standing::Damaged
        } else {
            Standing::Whole
        }
    }

    /// What costs no backup a byte and could not be made good.
    pub fn left(&self) -> impl Iterator<Item = &Finding> {
        let replaced = self.segments_dropped.iter().chain(&self.log_replaced);
        let replaced: HashSet<&String> = replaced.collect();
        self.findings
            .iter()
            .filter(|it| it.severity() == Severity::Harmless)
            // Of a pack that is marked no backup will ever need more than the present ones do.
            .filter(move |it| it.pack.is_none() && !replaced.contains(&it.object))
    }
}

/// Verifies all backups and makes good what can be; with `dry_run`, only says what would be done.
pub async fn run(
    repository: &Repository,
    log: &mut Log,
    depth: Depth,
    dry_run: bool,
    counts: &Counts,
    found: &mut (dyn FnMut(&Finding) + Send),
) -> Result<Repaired, Error> {
    let mut repaired = Repaired::default();
    let mut damaged = BTreeSet::new();
    let backups = log.commits().to_vec();
    let seen = verify::run(repository, &backups, depth, counts, &mut |finding| {
        found(&finding);
        damaged.extend(finding.pack);
        repaired.findings.push(finding);
    })
    .await?;

    log.catch_up().await?;
    let new = damaged.difference(log.marked());
    repaired.marked = new.map(|pack| pack.object(ObjectKind::DataPack)).collect();
    if !dry_run {
        repaired.entries += log.mark(&damaged).await?;
    }
    mend_index(repository, log, &seen.data_packs, dry_run, &mut repaired).await?;
    mend_log(repository, log, dry_run, &mut repaired).await?;
    Ok(repaired)
}

/// Sums the log up anew, should it be readable in one way only.
async fn mend_log(
    repository: &Repository,
    log: &mut Log,
    dry_run: bool,
    repaired: &mut Repaired,
) -> Result<(), Error> {
    let reserve = Log::reserve(repository).await?;
    if reserve.flaws.is_empty() {
        return Ok(());
    }
    let mut left: Vec<LogFlaw> = Vec::new();
    if !dry_run {
        log.catch_up().await?;
        repaired.entries += log.renew(&reserve).await?;
        left = Log::reserve(repository).await?.flaws;
    }
    let is_gone = |flaw: &LogFlaw| flaw.is_rot && !left.iter().any(|it| it.object == flaw.object);
    let gone = reserve.flaws.into_iter().filter(is_gone);
    repaired.log_replaced = gone.map(|flaw| flaw.object).collect();
    Ok(())
}

/// Replaces segments that cannot be read by new ones, which list what no other does.
async fn mend_index(
    repository: &Repository,
    log: &mut Log,
    needed: &BTreeSet<PackName>,
    dry_run: bool,
    repaired: &mut Repaired,
) -> Result<(), Error> {
    let Live { listed, damaged } = look_at_segments(repository, log).await?;
    let unlisted: Vec<PackName> = needed
        .iter()
        .filter(|pack| !listed.contains(pack))
        .copied()
        .collect();
    let mut packs = stream::iter(unlisted)
        .map(|name| footer_of(repository, name))
        .buffered(FETCHES);
    let cache = SegmentCache::open(None, repository, &[]).await;
    let mut writer = SegmentWriter::new(repository, SessionId::random(), cache);
    while let Some(pack) = packs.try_next().await? {
        let Some(pack) = pack else {
            continue;
        };
        repaired.packs_listed += 1;
        if !dry_run {
            writer.add(vec![pack]).await?;
        }
    }
    let added = writer.finish().await?;
    repaired.segments_added = added.len();
    repaired.segments_dropped = damaged
        .iter()
        .map(|name| name.object(ObjectKind::IndexSegment))
        .collect();
    if !dry_run {
        repaired.entries += log.exchange_segments(&added, &damaged).await?;
    }
    Ok(())
}

/// The live segments.
struct Live {
    /// Packs that the whole ones list.
    listed: HashSet<PackName>,
    /// Those that cannot be read.
    damaged: Vec<PackName>,
}

async fn look_at_segments(repository: &Repository, log: &Log) -> Result<Live, Error> {
    let mut live = Live {
        listed: HashSet::new(),
        damaged: Vec::new(),
    };
    let mut fetched = stream::iter(log.segments().iter().copied())
        .map(|name| async move { (name, packs_in(repository, name).await) })
        .buffered(FETCHES);
    while let Some((name, packs)) = fetched.next().await {
        match packs {
            Ok(packs) => live.listed.extend(packs),
            Err(error) if error.kind() == ErrorKind::Damaged => live.damaged.push(name),
            Err(error) => return Err(error),
        }
    }
    Ok(live)
}

/// The packs that a segment lists.
async fn packs_in(repository: &Repository, name: PackName) -> Result<Vec<PackName>, Error> {
    let (object, segment) = fetch_segment(repository, name).await?;
    let mut packs = Vec::new();
    for pack in &segment.packs {
        // Where the rest is not what it should be, writers pass over the segment.
        let named = places_in(pack).and_then(|_| pack_table(&pack.name));
        packs.extend(named.map_err(|source| repository.refuse(&object, source))?);
    }
    Ok(packs)
}

/// A pack by its footer; `None`: it cannot be read, which the verification has told.
async fn footer_of(repository: &Repository, name: PackName) -> Result<Option<FinishedPack>, Error> {
    let size = repository
        .store()
        .size(&name.object(ObjectKind::DataPack))
        .await;
    let bytes = match size {
        Err(StoreError::NotFound { .. }) => return Ok(None),
        size => size?,
    };
    match fetch_footer(repository, ObjectKind::DataPack, name, bytes).await {
        Ok(footer) => Ok(Some(FinishedPack { name, footer })),
        Err(error) if error.kind() == ErrorKind::Damaged => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
