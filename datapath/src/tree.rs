//! Writing and reading the tree that describes one volume in one backup.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    chunk::{ChunkId, ChunkIndex},
    crypt::{Hashing, PackKey},
    error::Error,
    format::{
        FormatError,
        name::{ObjectKind, PackName},
        pack::Place,
        tree::{
            Entry, HEIGHT_MAX, INNER_CHILDREN, InnerNode, LEAF_CHUNKS, Leaf, NodeRef, height_for,
        },
    },
    packer::PackWriter,
    ranges::{Limits, Range, coalesce},
    record::{Record, Seal},
    repository::{FETCH_TRIES, Repository},
    tasks::joined,
};

/// Requests under way at once.
const FETCHES: usize = 4;

/// Builds a tree from chunks in the volume's order.
pub struct TreeWriter {
    packer: PackWriter,
    hashing: Hashing,
    /// Nodes that the store has, by id: those of the parent backup.
    known: HashMap<[u8; 32], NodeRef>,
    height: u32,
    leaf_index: u64,
    leaf: Leaf,
    /// Inner nodes under construction; the first is a parent of leaves.
    levels: Vec<Level>,
    data_packs: BTreeSet<PackName>,
    tree_packs: BTreeSet<PackName>,
    top: Option<NodeRef>,
}

#[derive(Default)]
struct Level {
    index: u64,
    children: Vec<(u32, NodeRef)>,
    data_packs: BTreeSet<PackName>,
}

/// A tree that was written.
pub struct WrittenTree {
    /// Its top; `None` when the volume is all zero.
    pub top: Option<NodeRef>,
    /// Levels above the leaves.
    pub height: u32,
    /// The data packs that it refers to.
    pub data_packs: BTreeSet<PackName>,
    /// The tree packs that its nodes lie in.
    pub tree_packs: BTreeSet<PackName>,
    /// For what else belongs into tree packs.
    pub packer: PackWriter,
}

impl TreeWriter {
    /// A tree for a volume of so many chunks, written through `packer`.
    pub fn new(packer: PackWriter, hashing: Hashing, chunks: u64) -> Self {
        let height = height_for(chunks);
        Self {
            packer,
            hashing,
            known: HashMap::new(),
            height,
            leaf_index: 0,
            leaf: Leaf::default(),
            levels: (0..height).map(|_| Level::default()).collect(),
            data_packs: BTreeSet::new(),
            tree_packs: BTreeSet::new(),
            top: None,
        }
    }

    /// Says that the store has this node, so that an equal one is not written again.
    pub fn know(&mut self, node: NodeRef) {
        self.known.insert(node.id, node);
    }

    /// Takes up a chunk; indexes must ascend.
    pub async fn push(
        &mut self,
        index: ChunkIndex,
        id: ChunkId,
        place: Place,
    ) -> Result<(), Error> {
        let (leaf_index, position) = (index.0 / LEAF_CHUNKS, index.0 % LEAF_CHUNKS);
        if leaf_index != self.leaf_index {
            self.end_leaf().await?;
            self.leaf_index = leaf_index;
        }
        self.leaf.entries.push(Entry {
            position: u32::try_from(position).expect("below 512"),
            id,
            place,
        });
        Ok(())
    }

    /// Ends the tree. Its nodes are durable when the packer has finished.
    pub async fn finish(mut self) -> Result<WrittenTree, Error> {
        self.end_leaf().await?;
        for level in 0..self.levels.len() {
            self.end_inner(level).await?;
        }
        Ok(WrittenTree {
            top: self.top,
            height: self.height,
            data_packs: self.data_packs,
            tree_packs: self.tree_packs,
            packer: self.packer,
        })
    }

    async fn end_leaf(&mut self) -> Result<(), Error> {
        let leaf = std::mem::take(&mut self.leaf);
        if leaf.entries.is_empty() {
            return Ok(());
        }
        let packs: BTreeSet<PackName> = leaf.entries.iter().map(|it| it.place.pack).collect();
        let node = self.store(leaf.encode()).await?;
        self.data_packs.extend(&packs);
        self.add_child(0, self.leaf_index, node).await?;
        if let Some(parent) = self.levels.first_mut() {
            parent.data_packs.extend(packs);
        }
        Ok(())
    }

    /// Puts a finished node into its parent at `level`, which ends the node before that parent.
    async fn add_child(&mut self, level: usize, index: u64, node: NodeRef) -> Result<(), Error> {
        let Some(open) = self.levels.get(level) else {
            self.top = Some(node);
            return Ok(());
        };
        let (parent, position) = (index / INNER_CHILDREN, index % INNER_CHILDREN);
        if open.index != parent {
            Box::pin(self.end_inner(level)).await?;
        }
        let open = &mut self.levels[level];
        open.index = parent;
        let position = u32::try_from(position).expect("below 128");
        open.children.push((position, node));
        Ok(())
    }

    async fn end_inner(&mut self, level: usize) -> Result<(), Error> {
        let Level {
            index,
            children,
            data_packs,
        } = std::mem::take(&mut self.levels[level]);
        if children.is_empty() {
            return Ok(());
        }
        let node = InnerNode {
            children,
            data_packs: data_packs.into_iter().collect(),
        };
        let node = self.store(node.encode()).await?;
        self.add_child(level + 1, index, node).await
    }

    async fn store(&mut self, bytes: Vec<u8>) -> Result<NodeRef, Error> {
        let id = self.hashing.node_id(&bytes);
        let node = match self.known.get(&id) {
            Some(known) => *known,
            None => {
                let place = self.packer.append(&id, Record::node(bytes)).await?;
                let node = NodeRef { id, place };
                self.known.insert(id, node);
                node
            }
        };
        self.tree_packs.insert(node.place.pack);
        Ok(node)
    }
}

/// A stored tree.
#[derive(Debug, Clone, Copy)]
pub struct Tree {
    /// Its top; `None`: the volume is all zero.
    pub top: Option<NodeRef>,
    /// Levels above the leaves.
    pub height: u32,
}

/// The leaves of a tree in the volume's order, in batches of neighbours.
///
/// A task of its own fetches them ahead: who takes them may be busy with a batch for many minutes,
/// and a request that nobody attends to in that time runs into its limit.
pub struct LeafBatches {
    batches: mpsc::Receiver<Vec<LeafAt>>,
    fetching: JoinSet<Result<(), Error>>,
}

impl LeafBatches {
    /// Begins to fetch the leaves below `parents`, or those themselves.
    fn begin(repository: Repository, parents: Vec<(u64, NodeRef)>, are_leaves: bool) -> Self {
        // One batch waits here, one is in the task's hand.
        let (sender, batches) = mpsc::channel(1);
        let mut fetching = JoinSet::new();
        fetching.spawn(async move {
            for parent in parents {
                let leaves = if are_leaves {
                    vec![parent]
                } else {
                    children(&repository, &[parent]).await?
                };
                let batch = fetch_leaves(&repository, &leaves).await?;
                if sender.send(batch).await.is_err() {
                    break;
                }
            }
            Ok(())
        });
        Self { batches, fetching }
    }

    /// The next batch; `None` after the last. An error is the last.
    pub async fn next(&mut self) -> Result<Option<Vec<LeafAt>>, Error> {
        if let Some(batch) = self.batches.recv().await {
            return Ok(Some(batch));
        }
        match self.fetching.join_next().await {
            Some(ended) => joined(ended).flatten().map(|()| None),
            None => Ok(None),
        }
    }
}

/// A leaf and what is around it.
pub struct LeafAt {
    /// Position among the leaves.
    pub index: u64,
    /// Where it lies.
    pub node: NodeRef,
    /// What is in it.
    pub leaf: Leaf,
}

impl LeafAt {
    /// Position in the volume of one of its entries.
    pub fn chunk_index(&self, entry: &Entry) -> ChunkIndex {
        ChunkIndex(self.index * LEAF_CHUNKS + u64::from(entry.position))
    }
}

impl Tree {
    /// The inner nodes, and the leaves in the volume's order.
    pub async fn leaf_batches(
        &self,
        repository: &Repository,
    ) -> Result<(Vec<NodeRef>, LeafBatches), Error> {
        if self.height > HEIGHT_MAX {
            let object = "a root";
            return Err(repository.refuse(object, FormatError::Damaged("its tree is too high")));
        }
        let mut level: Vec<(u64, NodeRef)> = self.top.map(|top| (0, top)).into_iter().collect();
        let mut inner = Vec::new();
        // Down to the parents of leaves; one of them stands for 16 GiB at 256 KiB chunks.
        for _ in 1..self.height {
            inner.extend(level.iter().map(|(_, node)| *node));
            level = children(repository, &level).await?;
        }
        let has_parents = self.height > 0;
        if has_parents {
            inner.extend(level.iter().map(|(_, node)| *node));
        }
        let batches = LeafBatches::begin(repository.clone(), level, !has_parents);
        Ok((inner, batches))
    }
}

async fn children(
    repository: &Repository,
    parents: &[(u64, NodeRef)],
) -> Result<Vec<(u64, NodeRef)>, Error> {
    let nodes: Vec<NodeRef> = parents.iter().map(|(_, node)| *node).collect();
    let mut all = Vec::new();
    for ((index, node), bytes) in parents.iter().zip(fetch_nodes(repository, &nodes).await?) {
        let inner = InnerNode::decode(&bytes).map_err(|source| refuse(repository, node, source))?;
        let first = index * INNER_CHILDREN;
        all.extend(
            inner
                .children
                .into_iter()
                .map(|(position, child)| (first + u64::from(position), child)),
        );
    }
    Ok(all)
}

async fn fetch_leaves(
    repository: &Repository,
    leaves: &[(u64, NodeRef)],
) -> Result<Vec<LeafAt>, Error> {
    let nodes: Vec<NodeRef> = leaves.iter().map(|(_, node)| *node).collect();
    let fetched = fetch_nodes(repository, &nodes).await?;
    leaves
        .iter()
        .zip(fetched)
        .map(|(&(index, node), bytes)| {
            let leaf = Leaf::decode(&bytes).map_err(|source| refuse(repository, &node, source))?;
            Ok(LeafAt { index, node, leaf })
        })
        .collect()
}

/// The checked bytes of nodes, in the order asked for; neighbours come in one request.
pub(crate) async fn fetch_nodes(
    repository: &Repository,
    nodes: &[NodeRef],
) -> Result<Vec<Bytes>, Error> {
    let wanted: Vec<(Place, usize)> = nodes
        .iter()
        .enumerate()
        .map(|(at, node)| (node.place, at))
        .collect();
    let ranges = coalesce(wanted, &Limits::NODES);
    let mut found: Vec<Bytes> = vec![Bytes::new(); nodes.len()];
    let mut fetched = stream::iter(ranges)
        .map(|range| async move {
            let bytes = fetch_range(repository, &range).await?;
            Ok::<_, Error>((range, bytes))
        })
        .buffer_unordered(FETCHES);
    while let Some((range, bytes)) = fetched.try_next().await? {
        let key = repository.pack_key(ObjectKind::TreePack, range.pack);
        for (place, at) in &range.records {
            let start = usize::try_from(u64::from(place.offset) - range.start).expect("in memory");
            let record = bytes.slice(start..start + place.stored_bytes as usize);
            found[*at] = checked(repository, &nodes[*at], key.as_ref(), record).await?;
        }
    }
    Ok(found)
}

async fn fetch_range<T>(repository: &Repository, range: &Range<T>) -> Result<Bytes, Error> {
    repository
        .fetch_range(
            &range.pack.object(ObjectKind::TreePack),
            range.start,
            range.end,
            "a backup's tree lies in it",
        )
        .await
}

/// Opens a node's record and holds the node against its id; fetches it again before it is called
/// damaged.
async fn checked(
    repository: &Repository,
    node: &NodeRef,
    key: Option<&Arc<PackKey>>,
    record: Bytes,
) -> Result<Bytes, Error> {
    let mut record = record;
    for _ in 1..FETCH_TRIES {
        if let Some(bytes) = opened(repository, node, key, record) {
            return Ok(bytes);
        }
        let place = node.place;
        let alone = Range {
            pack: place.pack,
            start: u64::from(place.offset),
            end: place.end(),
            records: vec![(place, ())],
        };
        record = fetch_range(repository, &alone).await?;
    }
    opened(repository, node, key, record).ok_or_else(|| {
        let damaged = FormatError::Damaged("a tree node's bytes do not match its id");
        refuse(repository, node, damaged)
    })
}

/// The node, if it is what it should be.
fn opened(
    repository: &Repository,
    node: &NodeRef,
    key: Option<&Arc<PackKey>>,
    record: Bytes,
) -> Option<Bytes> {
    let bytes = match Seal::of(key, &node.place, &node.id) {
        None => record,
        Some(seal) => {
            let mut record = BytesMut::from(&record[..]);
            let len = seal.open_node(&mut record).ok()?;
            record.truncate(len);
            record.freeze()
        }
    };
    (repository.hashing().node_id(&bytes) == node.id).then_some(bytes)
}

fn refuse(repository: &Repository, node: &NodeRef, source: FormatError) -> Error {
    repository.refuse(&node.place.pack.object(ObjectKind::TreePack), source)
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::Ordering, time::Duration};

    use super::*;
    use crate::{format::name::SessionId, packer::PackSizes, store::fake::FakeStore};

    /// Chunks below one parent of leaves.
    const BATCH_CHUNKS: u64 = LEAF_CHUNKS * INNER_CHILDREN;

    /// A tree with one chunk in each of `batches` parents of leaves.
    async fn write(repository: &Repository, batches: u64) -> Tree {
        let sizes = PackSizes {
            pack_bytes: 1 << 20,
            part_bytes: 1 << 20,
        };
        let session = SessionId([1; 8]);
        let packer = PackWriter::new(repository, session, ObjectKind::TreePack, sizes);
        let mut tree = TreeWriter::new(packer, repository.hashing(), batches * BATCH_CHUNKS);
        let pack = PackName::random(session, 0);
        for batch in 0..batches {
            let place = Place {
                pack,
                ordinal: 0,
                offset: 32,
                stored_bytes: 100,
            };
            let index = ChunkIndex(batch * BATCH_CHUNKS + batch);
            let id = repository.hashing().chunk_id(&batch.to_le_bytes());
            tree.push(index, id, place).await.expect("push");
        }
        let written = tree.finish().await.expect("finish");
        let (top, height) = (written.top, written.height);
        written.packer.finish().await.expect("packs");
        Tree { top, height }
    }

    #[tokio::test]
    async fn leaves_are_fetched_ahead_while_nobody_asks_and_not_without_bound() {
        let store = Arc::new(FakeStore::new());
        let repository = store.repository().await;
        let tree = write(&repository, 6).await;
        let (inner, mut batches) = tree.leaf_batches(&repository).await.expect("inner nodes");
        assert_eq!(inner.len(), 1 + 6);
        let first = batches.next().await.expect("fetched").expect("there");
        assert_eq!(first[0].index, 0);
        let begun = store.gets.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(200)).await;
        let ahead = store.gets.load(Ordering::Relaxed);
        assert!(ahead <= begun + 4, "two batches of two requests at most");
        let mut found = Vec::new();
        while let Some(batch) = batches.next().await.expect("fetched") {
            found.extend(batch.iter().map(|leaf| leaf.index));
        }
        assert_eq!(
            found,
            (1..6).map(|n| n * INNER_CHILDREN).collect::<Vec<_>>()
        );
        assert!(batches.next().await.expect("fetched").is_none());
    }

    #[tokio::test]
    async fn a_lost_leaf_is_an_error_and_not_an_early_end() {
        let store = Arc::new(FakeStore::new());
        let repository = store.repository().await;
        let tree = write(&repository, 6).await;
        let (_, mut batches) = tree.leaf_batches(&repository).await.expect("inner nodes");
        store.lose("tree/");
        let ended = loop {
            match batches.next().await {
                Ok(Some(_)) => {}
                ended => break ended,
            }
        };
        assert!(ended.is_err());
    }
}
