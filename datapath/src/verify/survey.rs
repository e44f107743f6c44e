//! One backup by itself: everything but its leaves and its chunks.

use std::collections::HashSet;

use futures::{StreamExt, TryStreamExt, stream};

use super::{Damage, Finding};
use crate::{
    error::Error,
    format::{
        name::{ObjectKind, PackName, pack_table, ref_set_object},
        tree::{INNER_CHILDREN, InnerNode, LEAF_CHUNKS, Leaf, NodeRef},
    },
    index::fetch_segment,
    log::{Committed, Log},
    refs::{Packs, StoredSet},
    repository::Repository,
    restore::Backup,
    tree::fetch_nodes,
};

/// Nodes, or segments, fetched at once.
const FETCHES: usize = 4;

/// What a look at one backup brought.
pub(super) struct Survey {
    pub(super) findings: Vec<Finding>,
    /// `None`: its root cannot be read.
    pub(super) backup: Option<Backup>,
    /// The packs that its ref set names, and those that its tree refers to.
    pub(super) packs: Packs,
}

/// Looks at everything of a backup but its leaves.
pub(super) async fn survey(
    repository: &Repository,
    log: &Log,
    committed: &Committed,
) -> Result<Survey, Error> {
    let mut findings = Vec::new();
    check_segments(repository, log, committed, &mut findings).await?;
    let named = named_packs(repository, committed, &mut findings).await?;
    let backup = match Backup::read(repository, committed).await {
        Ok(backup) => backup,
        Err(error) => {
            let whole = 0..committed.commit.volume_bytes;
            findings.push(Damage::named(error)?.finding(committed, Some(whole)));
            return Ok(Survey {
                findings,
                backup: None,
                packs: named.unwrap_or_default(),
            });
        }
    };
    // Its damaged nodes are found, and told, when the leaves are followed.
    let used = used_packs(repository, committed, &backup).await?;
    let mut packs = named.clone().unwrap_or_default();
    if named
        .is_some_and(|named| !used.data.is_subset(&named.data) || !used.tree.is_subset(&named.tree))
    {
        let reason = "leaves out packs that the backup's tree refers to".to_owned();
        let object = ref_set_of(committed);
        findings.push(Damage { object, reason }.finding(committed, None));
    }
    packs.data.extend(used.data);
    packs.tree.extend(used.tree);
    Ok(Survey {
        findings,
        backup: Some(backup),
        packs,
    })
}

/// The segments that a backup brought, while they count.
async fn check_segments(
    repository: &Repository,
    log: &Log,
    committed: &Committed,
    findings: &mut Vec<Finding>,
) -> Result<(), Error> {
    let slot = committed.slot.object();
    match pack_table(&committed.commit.segments) {
        Ok(names) => {
            let live: HashSet<&PackName> = log.segments().iter().collect();
            let names = names.into_iter().filter(|name| live.contains(name));
            for damage in damaged_segments(repository, names.collect()).await? {
                findings.push(damage.finding(committed, None));
            }
        }
        Err(source) => {
            let damage = Damage::named(repository.refuse(&slot, source))?;
            findings.push(damage.finding(committed, None));
        }
    }
    Ok(())
}

/// The segments that took the place of others, which are no backup's.
pub(super) async fn check_later_segments(
    repository: &Repository,
    log: &Log,
    found: &mut (dyn FnMut(Finding) + Send),
) -> Result<(), Error> {
    let brought: HashSet<PackName> = log
        .commits()
        .iter()
        .filter_map(|it| pack_table(&it.commit.segments).ok())
        .flatten()
        .collect();
    let later = log.segments().iter().copied();
    let later = later.filter(|name| !brought.contains(name)).collect();
    for damage in damaged_segments(repository, later).await? {
        found(damage.nobodys());
    }
    Ok(())
}

/// A lost segment costs work and no data.
async fn damaged_segments(
    repository: &Repository,
    names: Vec<PackName>,
) -> Result<Vec<Damage>, Error> {
    let mut damaged = Vec::new();
    let mut fetched = stream::iter(names)
        .map(|name| async move { (name, fetch_segment(repository, name).await) })
        .buffered(FETCHES);
    while let Some((name, segment)) = fetched.next().await {
        if let Err(error) = segment {
            let mut damage = Damage::of(name.object(ObjectKind::IndexSegment), error)?;
            damage.reason += "; no data is lost by it, later backups deduplicate less";
            damaged.push(damage);
        }
    }
    Ok(damaged)
}

/// What the backup's ref set names. Restores do not read it.
async fn named_packs(
    repository: &Repository,
    committed: &Committed,
    findings: &mut Vec<Finding>,
) -> Result<Option<Packs>, Error> {
    match StoredSet::fetch(repository, &committed.commit.ref_set).await {
        Ok(set) => Ok(Some(set.packs().clone())),
        Err(error) => {
            let damage = Damage::named(error)?;
            findings.push(damage.finding(committed, None));
            Ok(None)
        }
    }
}

fn ref_set_of(committed: &Committed) -> String {
    let id: Option<&[u8; 16]> = committed.commit.ref_set[..].try_into().ok();
    id.map_or_else(|| "refs/".to_owned(), ref_set_object)
}

/// The packs that the readable part of the tree refers to.
async fn used_packs(
    repository: &Repository,
    committed: &Committed,
    backup: &Backup,
) -> Result<Packs, Error> {
    let mut used = Packs::default();
    if let Some(root) = committed.commit.roots.first()
        && let Ok(root) = NodeRef::from_message(root)
    {
        used.tree.insert(root.place.pack);
    }
    let (parents, _) = parents_of_leaves(repository, backup).await?;
    let is_leaf = backup.tree().height == 0;
    let mut nodes =
        stream::iter(&parents)
            .map(|(_, node)| async move {
                Ok::<_, Error>((node, fetch_each(repository, &[*node]).await?))
            })
            .buffered(FETCHES);
    used.tree
        .extend(backup.tree().top.map(|top| top.place.pack));
    while let Some((node, bytes)) = nodes.try_next().await? {
        used.tree.insert(node.place.pack);
        let Some(Ok(bytes)) = bytes.into_iter().next() else {
            continue;
        };
        if is_leaf {
            let leaf = Leaf::decode(&bytes).unwrap_or_default();
            used.data
                .extend(leaf.entries.iter().map(|it| it.place.pack));
        } else if let Ok(inner) = InnerNode::decode(&bytes) {
            used.data.extend(inner.data_packs);
            used.tree
                .extend(inner.children.iter().map(|(_, child)| child.place.pack));
        }
    }
    Ok(used)
}

/// A part of a volume that cannot be restored for want of a tree node.
pub(super) struct LostPart {
    pub(super) damage: Damage,
    pub(super) bytes: std::ops::Range<u64>,
}

/// The parents of leaves with their positions (of a tree without any, its one leaf), and what
/// cannot be reached.
pub(super) async fn parents_of_leaves(
    repository: &Repository,
    backup: &Backup,
) -> Result<(Vec<(u64, NodeRef)>, Vec<LostPart>), Error> {
    let tree = backup.tree();
    let mut level: Vec<(u64, NodeRef)> = tree.top.map(|top| (0, top)).into_iter().collect();
    let mut lost = Vec::new();
    for height in (2..=tree.height).rev() {
        let nodes: Vec<NodeRef> = level.iter().map(|(_, node)| *node).collect();
        let mut below = Vec::new();
        for ((index, _), inner) in level.iter().zip(fetch_inner(repository, &nodes).await?) {
            match inner {
                Ok(inner) => below.extend(children(*index, inner)),
                Err(damage) => lost.push(LostPart {
                    damage,
                    bytes: span(repository, backup, height, *index),
                }),
            }
        }
        level = below;
    }
    Ok((level, lost))
}

/// Positions of an inner node's children in their level.
pub(super) fn children(index: u64, inner: InnerNode) -> impl Iterator<Item = (u64, NodeRef)> {
    let first = index.saturating_mul(INNER_CHILDREN);
    let children = inner.children.into_iter();
    children.map(move |(position, child)| (first.saturating_add(u64::from(position)), child))
}

/// Bytes of the volume below a node.
pub(super) fn span(
    repository: &Repository,
    backup: &Backup,
    height: u32,
    index: u64,
) -> std::ops::Range<u64> {
    let chunks = INNER_CHILDREN
        .saturating_pow(height)
        .saturating_mul(LEAF_CHUNKS);
    let bytes = chunks.saturating_mul(u64::from(repository.chunk_size().bytes()));
    let start = bytes.saturating_mul(index).min(backup.volume_bytes());
    start..start.saturating_add(bytes).min(backup.volume_bytes())
}

/// Inner nodes, or what is wrong with each.
pub(super) async fn fetch_inner(
    repository: &Repository,
    nodes: &[NodeRef],
) -> Result<Vec<Result<InnerNode, Damage>>, Error> {
    let fetched = fetch_each(repository, nodes).await?;
    let decoded = nodes.iter().zip(fetched).map(|(node, bytes)| {
        bytes.and_then(|bytes| {
            InnerNode::decode(&bytes).map_err(|source| Damage {
                object: node.place.pack.object(ObjectKind::TreePack),
                reason: source.to_string(),
            })
        })
    });
    Ok(decoded.collect())
}

/// The checked bytes of nodes, or what is wrong with each: asked for together, and one by one when
/// that fails.
pub(super) async fn fetch_each(
    repository: &Repository,
    nodes: &[NodeRef],
) -> Result<Vec<Result<bytes::Bytes, Damage>>, Error> {
    let error = match fetch_nodes(repository, nodes).await {
        Ok(all) => return Ok(all.into_iter().map(Ok).collect()),
        Err(error) => error,
    };
    // What is no damage ends it all.
    let Some(first) = nodes.first() else {
        return Err(error);
    };
    let damage = Damage::of_node(first, error)?;
    if nodes.len() == 1 {
        return Ok(vec![Err(damage)]);
    }
    let mut each = Vec::with_capacity(nodes.len());
    for node in nodes {
        each.push(match fetch_nodes(repository, &[*node]).await {
            Ok(mut bytes) => Ok(bytes.remove(0)),
            Err(error) => Err(Damage::of_node(node, error)?),
        });
    }
    Ok(each)
}
