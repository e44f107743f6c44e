//! Repair: what a verification found damaged is written into the log, so that later backups store
//! it again; and the index is made whole from the packs.
//!
//! Nothing is removed or overwritten, and nothing that a backup needs is made: a chunk heals when a
//! later backup meets its data, and restores of all backups find it from then on. So a repair may run
//! beside backups, and twice.

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt, stream};

use crate::{
    error::{Error, ErrorKind},
    footers::fetch_footer,
    format::name::{ObjectKind, PackName, SessionId},
    index::{SegmentCache, SegmentWriter, fetch_segment},
    log::Log,
    packer::FinishedPack,
    refs::StoredSet,
    repository::Repository,
    verify::Finding,
};

/// Segments, or footers, fetched at once.
const FETCHES: usize = 16;

/// What there is to do, or was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repair {
    /// Data packs with damage that no entry of the log has marked.
    mark: BTreeSet<PackName>,
    /// Index segments that cannot be read.
    drop: Vec<PackName>,
    /// Data packs that backups need, that can be read, and that no readable segment lists.
    index: BTreeSet<PackName>,
}

impl Repair {
    /// What these findings, and the index as it is, ask for. Changes nothing.
    pub async fn plan(
        repository: &Repository,
        log: &Log,
        findings: &[Finding],
    ) -> Result<Self, Error> {
        let damaged = findings
            .iter()
            .filter(|it| it.bytes.is_some())
            .filter_map(|it| PackName::parse(ObjectKind::DataPack, &it.object));
        let mark = damaged
            .filter(|pack| !log.marked().contains(pack))
            .collect();
        let (listed, drop) = listed_packs(repository, log).await?;
        let mut index = needed_packs(repository, log).await?;
        index.retain(|pack| !listed.contains(pack));
        Ok(Self { mark, drop, index })
    }

    /// Data packs to mark.
    pub fn marked_packs(&self) -> usize {
        self.mark.len()
    }

    /// Index segments that go.
    pub fn dropped_segments(&self) -> usize {
        self.drop.len()
    }

    /// Data packs that the index lacks.
    pub fn indexed_packs(&self) -> usize {
        self.index.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Does it. Cut off in between, what is done stays done.
    pub async fn carry_out(&self, repository: &Repository, log: &mut Log) -> Result<(), Error> {
        log.mark_damaged(&self.mark).await?;
        let added = write_segments(repository, &self.index).await?;
        log.exchange_segments(&added, &self.drop).await
    }
}

/// The packs that readable segments list, and the segments that are not readable.
async fn listed_packs(
    repository: &Repository,
    log: &Log,
) -> Result<(BTreeSet<PackName>, Vec<PackName>), Error> {
    let (mut listed, mut unreadable) = (BTreeSet::new(), Vec::new());
    let mut fetched = stream::iter(log.segments().iter().copied())
        .map(|name| async move { (name, fetch_segment(repository, name).await) })
        .buffered(FETCHES);
    while let Some((name, fetched)) = fetched.next().await {
        match fetched {
            Ok((object, segment)) => {
                for pack in &segment.packs {
                    let name = PackName::from_slice(&pack.name);
                    listed.insert(name.map_err(|source| repository.refuse(&object, source))?);
                }
            }
            Err(error) if error.kind() == ErrorKind::Damaged => unreadable.push(name),
            Err(error) => return Err(error),
        }
    }
    Ok((listed, unreadable))
}

/// The data packs of all backups whose ref sets can be read.
async fn needed_packs(repository: &Repository, log: &Log) -> Result<BTreeSet<PackName>, Error> {
    let mut needed = BTreeSet::new();
    for it in log.commits() {
        match StoredSet::fetch(repository, &it.commit.ref_set).await {
            Ok(set) => needed.extend(&set.packs().data),
            Err(error) if error.kind() == ErrorKind::Damaged => {
                tracing::warn!(%error, "indexing without what this backup alone needs");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(needed)
}

/// Lists packs in new segments, as their footers do; those without a readable one stay out.
async fn write_segments(
    repository: &Repository,
    packs: &BTreeSet<PackName>,
) -> Result<Vec<PackName>, Error> {
    let no_cache = SegmentCache::open(None, repository, &[]).await;
    let mut segments = SegmentWriter::new(repository, SessionId::random(), 0, no_cache);
    let mut footers = stream::iter(packs.iter().copied())
        .map(|name| async move { finished(repository, name).await })
        .buffered(FETCHES);
    while let Some(pack) = footers.try_next().await? {
        segments.add(pack.into_iter().collect()).await?;
    }
    segments.finish().await
}

async fn finished(repository: &Repository, name: PackName) -> Result<Option<FinishedPack>, Error> {
    let kind = ObjectKind::DataPack;
    let read = async {
        let bytes = repository.store().size(&name.object(kind)).await?;
        fetch_footer(repository, kind, name, bytes).await
    };
    match read.await {
        Ok(footer) => Ok(Some(FinishedPack { name, footer })),
        Err(error) if error.kind() == ErrorKind::Damaged => {
            tracing::warn!(%error, "indexing without this pack");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
