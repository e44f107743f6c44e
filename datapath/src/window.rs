//! Chunks between dedupe's decision and their place in the tree, in the volume's order.
//!
//! New chunks are compressed side by side; what is known waits behind them for its turn. A chunk
//! that equals a new one before it waits for that one's place: it is stored once.
//!
//! Ordering rule: chunks leave in the order in which they came.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use futures::{Stream, TryStreamExt};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::{
    arena::Arena,
    chunk::{ChunkId, ChunkIndex, EncodedChunk, Hashed, HashedChunk, NewChunk},
    codec::{Compression, Compressor, Effort, Pace, WaitFor},
    error::Error,
    format::pack::Place,
    progress::Progress,
    stages::Stage,
    store::ObjectStore,
    tasks::joined,
};

/// Chunks in the window: known ones take little memory, but not none.
const CHUNKS_MAX: usize = 512;

/// Chunks whose places are being found out.
pub(crate) struct Window {
    chunks: VecDeque<Waiting>,
    /// New ones whose place is not known yet, by id.
    new: HashMap<ChunkId, Arc<OnceLock<Place>>>,
    /// Not at work.
    compressors: Vec<Compressor>,
    pace: Pace,
    signs: Signs,
    progress: Arc<Progress>,
    /// No chunk comes any more.
    is_last_in: bool,
}

/// By what one sees whether the store keeps up.
pub(crate) struct Signs {
    arena: Arena,
    store: Arc<dyn ObjectStore>,
    /// Until so much was sent, nobody knows how fast the store is.
    proof_bytes: u64,
}

impl Signs {
    /// Those of a backup that begins now, with its chunks in slots of `arena`. The store's speed is
    /// known when it has acknowledged a part.
    pub(crate) fn new(arena: Arena, store: &Arc<dyn ObjectStore>, part_bytes: u32) -> Self {
        Self {
            arena,
            store: Arc::clone(store),
            proof_bytes: store.meter().sent() + u64::from(part_bytes),
        }
    }

    /// Whether it has all transfers that it may have, or every buffer that others wait for.
    fn store_is_behind(&self) -> bool {
        let throttle = self.store.throttle();
        throttle.under_way() >= throttle.limit() || !self.arena.has_free_slot()
    }

    /// Whether it would have taken more, if there had been more.
    fn store_idles(&self) -> bool {
        let throttle = self.store.throttle();
        throttle.under_way() * 2 < throttle.limit() && self.store.meter().sent() >= self.proof_bytes
    }
}

/// What a backup does next.
pub(crate) enum Step {
    /// Decide about a chunk of the volume.
    Decide(Hashed),
    /// Deal with a chunk whose turn it is.
    Settle(Turn),
}

struct Waiting {
    index: ChunkIndex,
    id: ChunkId,
    content: Content,
}

enum Content {
    Known(Place),
    Same(Arc<OnceLock<Place>>),
    Encoding(JoinHandle<(EncodedChunk, Compressor)>),
    New(EncodedChunk),
}

/// A chunk whose turn it is.
pub(crate) struct Turn {
    pub(crate) index: ChunkIndex,
    pub(crate) id: ChunkId,
    pub(crate) content: Settled,
}

/// What is to be done about a chunk.
pub(crate) enum Settled {
    /// It lies here.
    Known(Place),
    /// It is to be stored; then its place is to be [told](Window::tell).
    New(EncodedChunk),
}

impl Window {
    /// A window that compresses at most so many chunks at a time.
    pub(crate) fn new(
        compressors: usize,
        compression: Compression,
        signs: Signs,
        progress: &Arc<Progress>,
    ) -> Self {
        Self {
            chunks: VecDeque::new(),
            new: HashMap::new(),
            compressors: (0..compressors.max(1)).map(|_| Compressor::new()).collect(),
            pace: Pace::new(compression),
            signs,
            progress: Arc::clone(progress),
            is_last_in: false,
        }
    }

    /// Waits for the next step: the first chunk's turn before one that comes in, for it holds
    /// memory; `None` when all is done. Whoever stops waiting loses nothing.
    pub(crate) async fn next(
        &mut self,
        mut hashed: impl Stream<Item = Result<Hashed, Error>> + Unpin,
    ) -> Result<Option<Step>, Error> {
        while !(self.chunks.is_empty() && self.is_last_in) {
            let (what, since) = (self.what_is_waited_for(), Instant::now());
            let (has_first, takes) = (!self.chunks.is_empty(), self.has_room() && !self.is_last_in);
            let step = tokio::select! {
                biased;
                first = self.wait_for_first(), if has_first => {
                    first?;
                    self.take_first().map(Step::Settle)
                }
                hashed = hashed.try_next(), if takes => hashed?.map(Step::Decide),
            };
            self.pace.waited(what, since.elapsed());
            match step {
                Some(step) => return Ok(Some(step)),
                None => self.is_last_in = true,
            }
        }
        Ok(None)
    }

    fn what_is_waited_for(&self) -> WaitFor {
        if self.signs.store_is_behind() {
            WaitFor::Store
        } else if !self.has_room() && self.signs.store_idles() {
            WaitFor::Compression
        } else {
            WaitFor::Nothing
        }
    }

    /// Whether it takes a chunk, whichever it is.
    fn has_room(&self) -> bool {
        self.chunks.len() < CHUNKS_MAX && !self.compressors.is_empty()
    }

    /// Takes in a chunk that lies here.
    pub(crate) fn push_known(&mut self, index: ChunkIndex, id: ChunkId, place: Place) {
        self.push(index, id, Content::Known(place));
    }

    /// Takes in a chunk that dedupe does not know; `true` when an equal one is on its way already.
    ///
    /// # Panics
    /// When there is no room.
    pub(crate) fn push_unknown(&mut self, chunk: HashedChunk) -> bool {
        let (index, id) = (chunk.index(), chunk.id());
        if let Some(place) = self.new.get(&id) {
            let same = Content::Same(Arc::clone(place));
            self.push(index, id, same);
            return true;
        }
        self.new.insert(id, Arc::default());
        let content = self.encode(chunk.into_new());
        self.push(index, id, content);
        false
    }

    fn encode(&mut self, chunk: NewChunk) -> Content {
        let effort = self.pace.effort();
        if effort == Effort::None {
            return Content::New(chunk.into_raw());
        }
        let mut compressor = self.compressors.pop().expect("there is room");
        let progress = Arc::clone(&self.progress);
        Content::Encoding(spawn_blocking(move || {
            let _inside = progress.enter(Stage::Compress);
            let encoded = chunk.compress(effort, &mut compressor);
            (encoded, compressor)
        }))
    }

    fn push(&mut self, index: ChunkIndex, id: ChunkId, content: Content) {
        self.chunks.push_back(Waiting { index, id, content });
    }

    /// Waits until the first chunk, if there is one, can be dealt with.
    async fn wait_for_first(&mut self) -> Result<(), Error> {
        if let Some(first) = self.chunks.front_mut()
            && let Content::Encoding(task) = &mut first.content
        {
            let (encoded, compressor) = joined(task.await)?;
            self.compressors.push(compressor);
            first.content = Content::New(encoded);
        }
        Ok(())
    }

    /// Takes out the first chunk, which was waited for.
    fn take_first(&mut self) -> Option<Turn> {
        let Waiting { index, id, content } = self.chunks.pop_front()?;
        let content = match content {
            Content::Known(place) => Settled::Known(place),
            Content::Same(place) => {
                Settled::Known(*place.get().expect("the new one came before, and was told"))
            }
            Content::New(encoded) => Settled::New(encoded),
            Content::Encoding(_) => unreachable!("the first chunk was waited for"),
        };
        Some(Turn { index, id, content })
    }

    /// Tells where the new chunk that was taken out last lies, and how long the store made wait
    /// for it.
    pub(crate) fn tell(&mut self, id: &ChunkId, place: Place, chunk_bytes: u64, took: Duration) {
        self.pace.waited(WaitFor::Store, took);
        self.pace.stored(chunk_bytes);
        if let Some(told) = self.new.remove(id) {
            told.set(place).expect("a chunk is stored once");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypt::Hashing;
    use crate::{
        chunk::RawChunk,
        format::name::{PackName, SessionId},
        store::fake::FakeStore,
    };

    const CHUNK_BYTES: usize = 64 << 10;

    /// Of a store that keeps up.
    fn calm(arena: &Arena) -> Signs {
        let store: Arc<dyn ObjectStore> = Arc::new(FakeStore::new());
        Signs::new(arena.clone(), &store, 0)
    }

    fn place(ordinal: u32) -> Place {
        Place {
            pack: PackName::random(SessionId([1; 8]), 0),
            ordinal,
            offset: 32,
            stored_bytes: 10,
        }
    }

    async fn chunk(arena: &Arena, index: u64, fill: u8) -> Hashed {
        let mut slot = arena.acquire().await;
        slot.fill(fill);
        let raw = RawChunk {
            index: ChunkIndex(index),
            slot,
            len: CHUNK_BYTES,
        };
        raw.hash(&Hashing::PLAIN)
    }

    /// A window that holds chunks of these fills, one behind the other; dedupe knows those of 9.
    async fn filled(arena: &Arena, compression: Compression, fills: &[u8]) -> Window {
        let mut window = Window::new(fills.len(), compression, calm(arena), &Arc::default());
        for (at, &fill) in fills.iter().enumerate() {
            match chunk(arena, at as u64, fill).await {
                Hashed::Data(known) if fill == 9 => {
                    window.push_known(known.index(), known.id(), place(99));
                }
                Hashed::Data(chunk) => {
                    let is_same = fills[..at].contains(&fill);
                    assert_eq!(window.push_unknown(chunk), is_same, "{at}");
                }
                Hashed::Zero(..) => panic!("not zero"),
            }
        }
        window
    }

    #[tokio::test]
    async fn equal_new_chunks_get_one_place_and_all_keep_their_order() {
        let fills = [7, 8, 7, 9, 8, 6, 7];
        for compression in ["none", "lz4", "zstd-3", "auto"] {
            let compression = compression.parse().expect("a compression");
            let arena = Arena::new(fills.len(), CHUNK_BYTES).expect("mmap");
            let mut window = filled(&arena, compression, &fills).await;
            let (mut seen, mut stored) = (Vec::new(), 0);
            let mut no_more = futures::stream::empty();
            while let Some(step) = window.next(&mut no_more).await.expect("no error") {
                let Step::Settle(turn) = step else {
                    panic!("nothing comes in");
                };
                let place = match turn.content {
                    Settled::Known(place) => place,
                    Settled::New(encoded) => {
                        assert_eq!(encoded.id, turn.id);
                        stored += 1;
                        let place = place(stored);
                        window.tell(&turn.id, place, encoded.bytes, Duration::ZERO);
                        place
                    }
                };
                seen.push((turn.index.0, place.ordinal));
            }
            let expected = [(0, 1), (1, 2), (2, 1), (3, 99), (4, 2), (5, 3), (6, 1)];
            assert_eq!(seen, expected, "{compression}");
            assert!(window.new.is_empty());
            assert_eq!(window.compressors.len(), fills.len());
            for _ in fills {
                assert!(futures::FutureExt::now_or_never(arena.acquire()).is_some());
            }
        }
    }

    #[tokio::test]
    async fn a_store_is_behind_with_all_transfers_or_buffers_and_idles_when_it_took_a_part() {
        let arena = Arena::new(1, CHUNK_BYTES).expect("mmap");
        let store: Arc<dyn ObjectStore> = Arc::new(FakeStore::new());
        let signs = Signs::new(arena.clone(), &store, 100);
        assert!(
            !signs.store_is_behind() && !signs.store_idles(),
            "not known yet"
        );
        store.meter().add_sent(100);
        assert!(!signs.store_is_behind() && signs.store_idles());

        let slot = arena.acquire().await;
        assert!(signs.store_is_behind());
        drop(slot);
        let throttle = store.throttle();
        let mut transfers = Vec::new();
        while transfers.len() < throttle.limit() {
            assert!(!signs.store_is_behind());
            transfers.push(throttle.acquire().await);
            assert_eq!(signs.store_idles(), transfers.len() * 2 < throttle.limit());
        }
        assert!(signs.store_is_behind());
    }

    #[tokio::test]
    async fn no_more_chunks_are_compressed_at_a_time_than_it_has_compressors() {
        let arena = Arena::new(8, CHUNK_BYTES).expect("mmap");
        let lz4 = Compression::Fixed(Effort::Lz4);
        let mut window = Window::new(2, lz4, calm(&arena), &Arc::default());
        for fill in [7, 8] {
            assert!(window.has_room());
            let Hashed::Data(new) = chunk(&arena, fill.into(), fill).await else {
                panic!("not zero");
            };
            window.push_unknown(new);
        }
        assert!(!window.has_room());
        window.wait_for_first().await.expect("compressed");
        assert!(window.has_room());
    }
}
