//! The leaves of the trees, held against the packs: what damage means for which backup.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::{
    Counts, Damage, Finding, add,
    copies::Copies,
    packs::Packs,
    survey::{children, fetch_each, fetch_inner, parents_of_leaves, span},
};
use crate::{
    chunk::{ChunkId, ChunkIndex},
    error::Error,
    format::{
        name::{ObjectKind, PackName},
        pack::Place,
        tree::{Entry, LEAF_CHUNKS, Leaf, NodeRef},
    },
    log::{Committed, Log},
    record::Flaw,
    repository::Repository,
    restore::Backup,
};

/// Batches of leaves fetched ahead.
const AHEAD: usize = 2;
/// Leaves whose packs are looked at together.
const TOGETHER: usize = 16;
/// Damaged chunks for which other copies are looked for together, give or take some leaves' worth.
const WAITING_MAX: usize = 64 << 10;
/// Leaves that are remembered as well, so that backups which share them need not follow them
/// again: 64 MiB, for 256 TiB of 256 KiB chunks. Those beyond are followed again.
const REMEMBERED_MAX: usize = 2 << 20;

/// Follows trees to their leaves.
pub(super) struct LeafCheck<'a> {
    repository: &'a Repository,
    packs: Packs<'a>,
    counts: &'a Counts,
    copies: Copies<'a>,
    well: Well,
    /// Packs that a finding of some backup names.
    told: HashSet<PackName>,
}

/// Leaves with nothing wrong: what they hold, and where they lie, since equal leaves of different
/// trees may be stored twice, and one of them be damaged. One at a volume's end is not among them:
/// what is right there is not in a larger volume.
type Well = Arc<Mutex<HashSet<[u8; 16]>>>;

/// Leaves of neighbours with their positions, or what is wrong with each.
type Batch = Vec<(u64, NodeRef, Result<Bytes, Damage>)>;

impl<'a> LeafCheck<'a> {
    pub(super) fn new(
        repository: &'a Repository,
        log: &'a Log,
        packs: Packs<'a>,
        counts: &'a Counts,
    ) -> Self {
        Self {
            repository,
            packs,
            counts,
            copies: Copies::new(repository, log),
            well: Well::default(),
            told: HashSet::new(),
        }
    }

    /// What was found on the way and costs no backup a byte.
    pub(super) fn into_rest(self) -> Vec<Finding> {
        self.packs.rest(&self.told)
    }

    /// Follows a backup's tree to its leaves.
    pub(super) async fn follow(
        &mut self,
        committed: &Committed,
        backup: &Backup,
        found: &mut (dyn FnMut(Finding) + Send),
    ) -> Result<(), Error> {
        let repository = self.repository;
        let mut findings = Joined::new(committed, found);
        let (parents, lost) = parents_of_leaves(repository, backup).await?;
        for part in lost {
            findings.add(part.damage, part.bytes, None);
        }
        let are_leaves = backup.tree().height == 0;
        let well = &Arc::clone(&self.well);
        let mut batches = stream::iter(parents)
            .map(|parent| fetch_batch(repository, backup, parent, are_leaves, well))
            .buffered(AHEAD);
        while let Some((lost, batch)) = batches.try_next().await? {
            if let Some((damage, bytes)) = lost {
                findings.add(damage, bytes, None);
            }
            for leaves in batch.chunks(TOGETHER) {
                self.check(backup, leaves, &mut findings).await?;
                if findings.waiting.len() >= WAITING_MAX {
                    findings.settle(&mut self.copies).await?;
                }
            }
        }
        findings.settle(&mut self.copies).await?;
        findings.end();
        Ok(())
    }

    async fn check(
        &mut self,
        backup: &Backup,
        leaves: &[(u64, NodeRef, Result<Bytes, Damage>)],
        findings: &mut Joined<'_>,
    ) -> Result<(), Error> {
        let decoded: Vec<(u64, NodeRef, Result<Leaf, Damage>)> = leaves
            .iter()
            .map(|(index, node, bytes)| (*index, *node, decode(node, bytes.clone())))
            .collect();
        let packs: BTreeSet<PackName> = decoded
            .iter()
            .filter_map(|(_, _, leaf)| leaf.as_ref().ok())
            .flat_map(|leaf| leaf.entries.iter().map(|entry| entry.place.pack))
            .collect();
        self.packs.recall(packs).await?;
        for (index, node, leaf) in decoded {
            add(&self.counts.leaves, 1);
            match leaf {
                Ok(leaf) => {
                    let is_well = self.check_leaf(backup, index, &leaf, findings).await?;
                    let mut well = lock(&self.well);
                    if is_well
                        && !is_at_end(self.repository, backup, index)
                        && well.len() < REMEMBERED_MAX
                    {
                        well.insert(mark(&node));
                    }
                }
                Err(damage) => {
                    findings.add(damage, span(self.repository, backup, 0, index), None);
                }
            }
        }
        Ok(())
    }

    /// Whether nothing is wrong with what a leaf names.
    async fn check_leaf(
        &mut self,
        backup: &Backup,
        index: u64,
        leaf: &Leaf,
        findings: &mut Joined<'_>,
    ) -> Result<bool, Error> {
        let mut is_well = true;
        for entry in &leaf.entries {
            if let Some(reason) = self.objection(backup, index, entry).await? {
                is_well = false;
                self.told.insert(entry.place.pack);
                let object = entry.place.pack.object(ObjectKind::DataPack);
                let bytes = self.bytes_of(backup, index, entry);
                findings.add(Damage { object, reason }, bytes, Some(entry));
            }
        }
        Ok(is_well)
    }

    async fn objection(
        &self,
        backup: &Backup,
        leaf: u64,
        entry: &Entry,
    ) -> Result<Option<String>, Error> {
        let bytes = self.bytes_of(backup, leaf, entry);
        let chunk_bytes = usize::try_from(bytes.end - bytes.start).expect("a chunk fits memory");
        let record_bytes_max = self.repository.shape().record_bytes_max(chunk_bytes);
        let is_possible = entry.place.stored_bytes as usize <= record_bytes_max;
        if bytes.is_empty() || !is_possible {
            return Ok(Some(Flaw::Length.to_string()));
        }
        self.packs.objection(&entry.place, &entry.id).await
    }

    fn bytes_of(&self, backup: &Backup, leaf: u64, entry: &Entry) -> std::ops::Range<u64> {
        let size = self.repository.chunk_size();
        let first = leaf.saturating_mul(LEAF_CHUNKS);
        let chunk = ChunkIndex(first.saturating_add(u64::from(entry.position)));
        let start = chunk.offset(size);
        start..start.saturating_add(size.len_of(chunk, backup.volume_bytes()) as u64)
    }
}

fn lock(well: &Well) -> MutexGuard<'_, HashSet<[u8; 16]>> {
    well.lock().unwrap_or_else(PoisonError::into_inner)
}

fn mark(node: &NodeRef) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&node.id);
    hasher.update(node.place.pack.as_bytes());
    hasher.update(&node.place.offset.to_le_bytes());
    let hash = hasher.finalize();
    *hash.as_bytes().first_chunk().expect("a hash has 32 bytes")
}

fn is_at_end(repository: &Repository, backup: &Backup, leaf: u64) -> bool {
    span(repository, backup, 0, leaf).end == backup.volume_bytes()
}

fn decode(node: &NodeRef, bytes: Result<Bytes, Damage>) -> Result<Leaf, Damage> {
    Leaf::decode(&bytes?).map_err(|source| Damage {
        object: node.place.pack.object(ObjectKind::TreePack),
        reason: source.to_string(),
    })
}

/// The leaves below a parent that are not known to be well.
async fn fetch_batch(
    repository: &Repository,
    backup: &Backup,
    (index, parent): (u64, NodeRef),
    is_leaf: bool,
    well: &Well,
) -> Result<(Option<(Damage, std::ops::Range<u64>)>, Batch), Error> {
    let leaves: Vec<(u64, NodeRef)> = if is_leaf {
        vec![(index, parent)]
    } else {
        match fetch_inner(repository, &[parent]).await?.remove(0) {
            Ok(inner) => children(index, inner).collect(),
            Err(damage) => {
                let bytes = span(repository, backup, 1, index);
                return Ok((Some((damage, bytes)), Vec::new()));
            }
        }
    };
    let new: Vec<(u64, NodeRef)> = leaves
        .into_iter()
        .filter(|(index, node)| {
            is_at_end(repository, backup, *index) || !lock(well).contains(&mark(node))
        })
        .collect();
    let nodes: Vec<NodeRef> = new.iter().map(|(_, node)| *node).collect();
    let fetched = fetch_each(repository, &nodes).await?;
    let batch = new.into_iter().zip(fetched);
    Ok((
        None,
        batch
            .map(|((index, node), bytes)| (index, node, bytes))
            .collect(),
    ))
}

/// Findings of one backup; those of neighbouring bytes with one cause become one.
struct Joined<'a> {
    committed: &'a Committed,
    found: &'a mut (dyn FnMut(Finding) + Send),
    /// Those that other copies are still to be looked for.
    waiting: Vec<Part>,
    last: Option<Finding>,
}

/// Damage, and the bytes that suffer.
struct Part {
    damage: Damage,
    bytes: std::ops::Range<u64>,
    /// The chunk and its place, if it is one alone.
    chunk: Option<(ChunkId, Place)>,
}

impl<'a> Joined<'a> {
    fn new(committed: &'a Committed, found: &'a mut (dyn FnMut(Finding) + Send)) -> Self {
        Self {
            committed,
            found,
            waiting: Vec::new(),
            last: None,
        }
    }

    fn add(&mut self, damage: Damage, bytes: std::ops::Range<u64>, chunk: Option<&Entry>) {
        self.waiting.push(Part {
            damage,
            bytes,
            chunk: chunk.map(|entry| (entry.id, entry.place)),
        });
    }

    /// Looks for other copies, and joins what is known now.
    async fn settle(&mut self, copies: &mut Copies<'_>) -> Result<(), Error> {
        let waiting = std::mem::take(&mut self.waiting);
        copies
            .look_for(waiting.iter().filter_map(|part| part.chunk))
            .await?;
        for part in waiting {
            let (bytes, chunk) = (part.bytes, part.chunk);
            // What lies behind the volume's end is no bytes of it, and no copy makes it right.
            let other = chunk
                .filter(|_| !bytes.is_empty())
                .and_then(|(id, _)| copies.of(&id));
            self.join(Finding {
                healed_by: other.map(|pack| pack.object(ObjectKind::DataPack)),
                pack: chunk.map(|(_, place)| place.pack),
                ..part.damage.finding(self.committed, Some(bytes))
            });
        }
        Ok(())
    }

    fn join(&mut self, finding: Finding) {
        if let (Some(last), Some(bytes)) = (&mut self.last, &finding.bytes)
            && last.bytes.as_ref().is_some_and(|it| it.end == bytes.start)
            && (&last.object, &last.reason, &last.healed_by)
                == (&finding.object, &finding.reason, &finding.healed_by)
        {
            last.bytes.as_mut().expect("it has some").end = bytes.end;
        } else if let Some(before) = self.last.replace(finding) {
            (self.found)(before);
        }
    }

    fn end(mut self) {
        if let Some(last) = self.last.take() {
            (self.found)(last);
        }
    }
}
