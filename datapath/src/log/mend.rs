//! Entries that mend a repository: packs that are marked, index segments that take others' place.
//!
//! Neither can do harm beside running backups or another repair: to mark a pack twice, or to list
//! it in two segments, changes nothing.

use std::collections::BTreeSet;

use ringback_proto::repository::{Damage, Segments, log_entry::Kind};

use super::Log;
use crate::{
    error::Error,
    format::name::{PackName, join_names},
};

/// Names in one entry: 3.5 KiB of its 4.
const NAMES_MAX: usize = 150;

impl Log {
    /// Marks data packs as damaged, those that are not yet; how many entries that took.
    pub(crate) async fn mark(&mut self, packs: &BTreeSet<PackName>) -> Result<usize, Error> {
        let new: Vec<PackName> = packs.difference(self.marked()).copied().collect();
        for packs in new.chunks(NAMES_MAX) {
            let packs = join_names(packs);
            self.append_entry(|_| {
                Ok(Kind::Damage(Damage {
                    packs: packs.clone(),
                }))
            })
            .await?;
        }
        Ok(new.len().div_ceil(NAMES_MAX))
    }

    /// Appends an entry that marks no packs.
    pub(super) async fn mark_nothing(&mut self) -> Result<(), Error> {
        let nothing = Kind::Damage(Damage::default());
        self.append_entry(|_| Ok(nothing.clone())).await.map(drop)
    }

    /// Puts index segments, which are durable, in the place of others; how many entries that took.
    /// New ones enter first, so that at no time less is known than before.
    pub(crate) async fn exchange_segments(
        &mut self,
        added: &[PackName],
        dropped: &[PackName],
    ) -> Result<usize, Error> {
        let names: Vec<(bool, PackName)> = added
            .iter()
            .map(|name| (true, *name))
            .chain(dropped.iter().map(|name| (false, *name)))
            .collect();
        for part in names.chunks(NAMES_MAX) {
            let of = |wanted: bool| {
                join_names(
                    part.iter()
                        .filter(|(is_added, _)| *is_added == wanted)
                        .map(|(_, name)| name),
                )
            };
            let segments = Segments {
                added: of(true),
                dropped: of(false),
            };
            self.append_entry(|_| Ok(Kind::Segments(segments.clone())))
                .await?;
        }
        Ok(names.len().div_ceil(NAMES_MAX))
    }
}
