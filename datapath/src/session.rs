//! Sessions: the runs of a writer, and how one that was cut off is gone on with.
//!
//! The id of a session follows from what is backed up, what it is compared with, and how many runs
//! before it left packs behind. So the next run finds what a killed one uploaded without anything
//! being remembered: [`Session::begin`] lists those packs, and their footers tell what is in them.
//!
//! Ordering rule: a run never continues a pack of an earlier one; it adopts packs that are whole,
//! and begins new ones under an id of its own.

use std::{collections::BTreeMap, time::Duration};

use futures::{Stream, StreamExt, stream};
use tokio::time::timeout;

use crate::{
    error::{Error, ErrorKind},
    footers::fetch_footer,
    format::name::{ObjectKind, PackName, SessionId},
    packer::FinishedPack,
    repository::Repository,
};

/// More runs than this leave packs only when something is badly wrong; those behind share one id,
/// which costs nothing but longer lists.
const RUNS_MAX: u32 = 64;
/// Footers fetched at once.
const FETCHES: usize = 16;
/// How long the end of a failed run may be held up by its uploads.
const TIDY_PATIENCE: Duration = Duration::from_secs(5);

/// One run of a writer.
pub struct Session {
    /// Names its packs.
    pub id: SessionId,
    /// Packs of chunks that earlier runs left, and that no commit names yet, with their lengths.
    left: BTreeMap<PackName, u64>,
}

impl Session {
    /// Begins a run for this volume since this commit (empty: there is none), and finds what
    /// earlier ones left.
    ///
    /// Uploads that earlier runs did not finish are given up: nobody else may back up this volume
    /// to this repository meanwhile.
    pub async fn begin(
        repository: &Repository,
        volume_identity: &str,
        parent_commit: &[u8],
    ) -> Result<Self, Error> {
        let mut left = BTreeMap::new();
        for run in 0.. {
            let id = SessionId::of(repository.domain(), volume_identity, parent_commit, run);
            let of_this_run = packs_of(repository, id).await?;
            give_up_uploads(repository, id).await;
            let is_ours = of_this_run.is_empty() || run == RUNS_MAX;
            if !of_this_run.is_empty() {
                let prefix = id.folder(ObjectKind::DataPack);
                repository.store().keep_listed(&prefix).await?;
            }
            left.extend(of_this_run);
            if is_ours {
                return Ok(Self { id, left });
            }
        }
        unreachable!("a u32 passes RUNS_MAX")
    }

    /// How many packs earlier runs left, and their bytes.
    pub fn left(&self) -> (usize, u64) {
        (self.left.len(), self.left.values().sum())
    }

    /// Reads what is in the packs that earlier runs left, of those that `wanted` names. One whose
    /// footer is damaged is passed over: its chunks are sent again.
    pub fn adopted<'a>(
        &'a self,
        repository: &'a Repository,
        wanted: impl Fn(&PackName) -> bool + 'a,
    ) -> impl Stream<Item = Result<FinishedPack, Error>> + 'a {
        let packs = self.left.iter().filter(move |(name, _)| wanted(name));
        stream::iter(packs)
            .map(async move |(&name, &bytes)| {
                let footer = fetch_footer(repository, ObjectKind::DataPack, name, bytes).await?;
                Ok::<_, Error>(FinishedPack { name, footer })
            })
            .buffered(FETCHES)
            .filter_map(async |fetched| match fetched {
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    tracing::warn!(%error, "going on without a pack of a run that was cut off");
                    None
                }
                fetched => Some(fetched),
            })
    }
}

/// Packs of chunks below a session, with their lengths.
async fn packs_of(
    repository: &Repository,
    id: SessionId,
) -> Result<BTreeMap<PackName, u64>, Error> {
    let prefix = id.folder(ObjectKind::DataPack);
    let listed = repository.store().list(&prefix, None).await?;
    let packs = listed.into_iter().filter_map(|listed| {
        let name = PackName::parse(ObjectKind::DataPack, &listed.name)?;
        Some((name, listed.bytes))
    });
    Ok(packs.collect())
}

/// Lets the uploads of a run that failed come to their end. Tries it for a moment only: what stays
/// behind costs room until the next run, or a lifecycle rule, removes it.
pub async fn tidy_up(repository: &Repository, id: SessionId) {
    let tidied = async {
        repository.store().settle().await;
        give_up_uploads(repository, id).await;
    };
    if timeout(TIDY_PATIENCE, tidied).await.is_err() {
        let session = hex::encode(id.0);
        tracing::warn!(session, "uploads may stay behind until the next run");
    }
}

/// Aborts the session's uploads: those that nobody goes on with take room that nobody sees.
async fn give_up_uploads(repository: &Repository, id: SessionId) {
    for kind in [ObjectKind::DataPack, ObjectKind::TreePack] {
        let prefix = id.folder(kind);
        match repository.store().abandon_uploads(&prefix).await {
            Ok(0) => {}
            Ok(uploads) => tracing::info!(uploads, prefix, "gave up uploads that were cut off"),
            // Not every store lists uploads, nor may every writer.
            Err(error) => tracing::debug!(%error, prefix, "cannot look for unfinished uploads"),
        }
    }
}
