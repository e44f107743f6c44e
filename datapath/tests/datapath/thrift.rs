//! What a backup sends after little has changed, counted in the packs themselves.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    os::unix::fs::FileExt,
};

use ringback_datapath::{
    format::{
        name::{ObjectKind, PackName},
        object::RepositoryId,
        pack::read_footer,
        tree::{INNER_CHILDREN, LEAF_CHUNKS},
    },
    store::ObjectStore,
};

use crate::support::{Bed, noise};

const CHUNK: u64 = 64 << 10;
/// Chunks below a parent of leaves.
const PARENT_CHUNKS: u64 = LEAF_CHUNKS * INNER_CHILDREN;
const HEADER_BYTES: usize = 32;

/// How many records each pack of this kind has, by the footers.
async fn records(bed: &Bed, kind: ObjectKind, folder: &str) -> BTreeMap<String, usize> {
    let repository = bed.repository().await;
    let store: &dyn ObjectStore = repository.store().as_ref();
    let mut found = BTreeMap::new();
    for listed in store.list(folder, None).await.expect("list") {
        let bytes = store.get(&listed.name).await.expect("get");
        let name = PackName::parse(kind, &listed.name).expect("a pack");
        let head = &bytes[..HEADER_BYTES];
        let id = RepositoryId(*head.last_chunk().expect("an id ends the header"));
        let footer = read_footer(kind, name, id, head, &bytes, listed.bytes)
            .expect("a sound footer")
            .expect("all of the pack is there");
        found.insert(listed.name, footer.stored_bytes.len());
    }
    found
}

/// Records of chunks and of nodes in packs that were not there before.
struct Sent {
    before: [BTreeMap<String, usize>; 2],
}

impl Sent {
    async fn all(bed: &Bed) -> [BTreeMap<String, usize>; 2] {
        [
            records(bed, ObjectKind::DataPack, "data/").await,
            records(bed, ObjectKind::TreePack, "tree/").await,
        ]
    }

    async fn from_here(bed: &Bed) -> Self {
        Self {
            before: Self::all(bed).await,
        }
    }

    async fn until_here(self, bed: &Bed) -> [usize; 2] {
        let now = Self::all(bed).await;
        [0, 1].map(|kind| {
            let is_new = |pack: &&String| !self.before[kind].contains_key(*pack);
            now[kind]
                .keys()
                .filter(is_new)
                .map(|pack| now[kind][pack])
                .sum()
        })
    }
}

/// Nodes above these chunks, by level: a chunk has one leaf, and a leaf one parent.
fn nodes_above(chunks: &BTreeSet<u64>, height: u32) -> usize {
    let mut nodes: BTreeSet<u64> = chunks.iter().map(|chunk| chunk / LEAF_CHUNKS).collect();
    let mut all = nodes.len();
    for _ in 0..height {
        nodes = nodes.iter().map(|node| node / INNER_CHILDREN).collect();
        all += nodes.len();
    }
    all
}

/// A volume of so many chunks, with data in these, is backed up, changed and backed up again.
async fn changes_cost_what_they_are(chunks: u64, data: &[std::ops::Range<u64>], height: u32) {
    let bed = Bed::new().await;
    let volume = bed.volume("volume", chunks * CHUNK, &[]);
    let file = File::options().write(true).open(&volume).expect("open");
    let write = |seed: u64, chunk: u64| {
        let bytes = noise(seed, usize::try_from(CHUNK).expect("small"));
        file.write_all_at(&bytes, chunk * CHUNK).expect("write");
    };
    let filled: Vec<u64> = data.iter().cloned().flatten().collect();
    filled.iter().for_each(|&chunk| write(chunk, chunk));
    bed.backup(&volume, "before").await.expect("backup");

    for (round, changes) in [1usize, 7, 40].into_iter().enumerate() {
        let drawn = noise(round as u64, 8 * changes);
        let changed: BTreeSet<u64> = drawn
            .as_chunks::<8>()
            .0
            .iter()
            .map(|bytes| u64::from_le_bytes(*bytes) % filled.len() as u64)
            .map(|at| filled[usize::try_from(at).expect("small")])
            .collect();
        let seed = (round as u64 + 1) << 40;
        changed.iter().for_each(|&chunk| write(seed + chunk, chunk));
        let sent = Sent::from_here(&bed).await;
        bed.backup(&volume, &round.to_string())
            .await
            .expect("backup");
        let [sent_chunks, sent_nodes] = sent.until_here(&bed).await;
        assert_eq!(sent_chunks, changed.len(), "height {height}");
        let root = 1;
        assert_eq!(
            sent_nodes,
            nodes_above(&changed, height) + root,
            "{} changes, height {height}",
            changed.len()
        );
    }

    let sent = Sent::from_here(&bed).await;
    bed.backup(&volume, "same").await.expect("backup");
    assert_eq!(sent.until_here(&bed).await, [0, 1], "only another root");
}

#[tokio::test(flavor = "multi_thread")]
async fn n_changed_chunks_cost_n_chunks_and_their_leaf_in_a_tree_of_one_leaf() {
    changes_cost_what_they_are(400, &[0..300, 399..400], 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn n_changed_chunks_cost_n_chunks_their_leaves_and_the_parent_in_a_tree_of_height_1() {
    changes_cost_what_they_are(2100, &[0..400, 1500..1900, 2099..2100], 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn n_changed_chunks_cost_n_chunks_their_leaves_and_all_ancestors_in_a_tree_of_height_2() {
    let chunks = 2 * PARENT_CHUNKS + 1000;
    let data = [
        0..200,
        PARENT_CHUNKS - 100..PARENT_CHUNKS + 200,
        chunks - 600..chunks - 400,
    ];
    changes_cost_what_they_are(chunks, &data, 2).await;
}
