//! Index segments that count.

use std::collections::HashMap;

use futures::{StreamExt, stream};

use super::{Damage, Finding};
use crate::{
    error::Error,
    format::name::{ObjectKind, PackName, pack_table},
    index::fetch_segment,
    log::{Committed, Log},
    repository::Repository,
};

/// Segments fetched at once.
const FETCHES: usize = 4;

/// Looks at the segments that came with these backups, or at all if these are all backups. A lost
/// one costs work and no data.
pub(super) async fn check_segments(
    repository: &Repository,
    log: &Log,
    backups: &[Committed],
    found: &mut (dyn FnMut(Finding) + Send),
) -> Result<(), Error> {
    let came_with: HashMap<PackName, &Committed> = backups
        .iter()
        .flat_map(|it| {
            let names = pack_table(&it.commit.segments).unwrap_or_default();
            names.into_iter().map(move |name| (name, it))
        })
        .collect();
    let all = backups.len() == log.commits().len();
    let wanted = log.segments().iter().copied();
    let wanted = wanted.filter(|name| all || came_with.contains_key(name));
    let mut fetched = stream::iter(wanted)
        .map(|name| async move { (name, fetch_segment(repository, name).await) })
        .buffered(FETCHES);
    while let Some((name, segment)) = fetched.next().await {
        let Err(error) = segment else { continue };
        let mut damage = Damage::of(name.object(ObjectKind::IndexSegment), error)?;
        damage.reason += "; no data is lost by it, later backups deduplicate less";
        found(match came_with.get(&name) {
            Some(committed) => damage.finding(committed, None),
            None => damage.of_nobody(),
        });
    }
    Ok(())
}
