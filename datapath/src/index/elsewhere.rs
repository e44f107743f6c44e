//! Where else a chunk lies, for those who found it damaged where a backup's tree names it.
//!
//! Segments are read one by one and only what was asked for is kept: of a chunk that is wanted every
//! place counts, and the table for deduplication knows one of each.

use std::collections::{HashMap, HashSet};

use futures::{StreamExt, stream};
use ringback_proto::repository::IndexSegment;

use super::{FETCHES, object_of, places_in, segment::fetch_segment};
use crate::{
    chunk::ChunkId,
    error::{Error, ErrorKind},
    format::{FormatError, pack::Place},
    log::Log,
    repository::Repository,
};

/// Where the live segments say that these chunks lie: those of the newest segments first, those in
/// marked packs last. What is there was not looked at. A segment that is damaged is left out.
pub(crate) async fn places_of(
    repository: &Repository,
    log: &Log,
    chunks: &HashSet<ChunkId>,
) -> Result<HashMap<ChunkId, Vec<Place>>, Error> {
    let mut places = HashMap::new();
    let mut fetched = stream::iter(log.segments().iter().rev().copied())
        .map(|name| async move { (name, fetch_segment(repository, name).await) })
        .buffered(FETCHES);
    while let Some((name, fetched)) = fetched.next().await {
        let taken = fetched.and_then(|(_, segment)| {
            take(&segment, chunks, &mut places)
                .map_err(|source| repository.refuse(&object_of(name), source))
        });
        match taken {
            Err(error) if error.kind() == ErrorKind::Damaged => {
                tracing::warn!(%error, "looking for other copies without an index segment");
            }
            taken => taken?,
        }
    }
    for places in places.values_mut() {
        places.sort_by_key(|place: &Place| log.marked().contains(&place.pack));
    }
    Ok(places)
}

fn take(
    segment: &IndexSegment,
    chunks: &HashSet<ChunkId>,
    places: &mut HashMap<ChunkId, Vec<Place>>,
) -> Result<(), FormatError> {
    for pack in &segment.packs {
        for (id, place) in places_in(pack)? {
            if chunks.contains(&id) {
                places.entry(id).or_default().push(place);
            }
        }
    }
    Ok(())
}
