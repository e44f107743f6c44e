//! Footers of packs: what lies in them, for whoever does not know it from a tree or an index.

use ringback_proto::repository::PackFooter;

use crate::{
    error::Error,
    format::{
        FormatError,
        name::{ObjectKind, PackName},
        object::HEADER_BYTES,
        pack::{read_footer, tail_bytes},
    },
    repository::Repository,
};

/// As much of a pack's end as usually holds its footer.
const TAIL_BYTES: u64 = 32 << 10;

/// Reads the footer of a pack of this length.
pub(crate) async fn fetch_footer(
    repository: &Repository,
    kind: ObjectKind,
    name: PackName,
    bytes: u64,
) -> Result<PackFooter, Error> {
    let object = name.object(kind);
    let refuse = |source| repository.refuse(&object, source);
    let range = async |start, end| {
        let why = "it was there a moment ago";
        repository.fetch_range(&object, start, end, why).await
    };
    let header = HEADER_BYTES as u64;
    if bytes < header {
        return Err(refuse(FormatError::Damaged("shorter than a header")));
    }
    let head = range(0, header).await?;
    let mut tail_start = bytes.saturating_sub(TAIL_BYTES).max(header);
    loop {
        let tail = range(tail_start, bytes).await?;
        let read = read_footer(kind, name, repository.domain(), &head, &tail, bytes);
        if let Some(footer) = read.map_err(refuse)? {
            return Ok(footer);
        }
        let needed = tail_bytes(&tail).map_err(refuse)? as u64;
        tail_start = bytes
            .checked_sub(needed)
            .filter(|&start| (header..tail_start).contains(&start))
            .ok_or_else(|| refuse(FormatError::Damaged("its footer is longer than it is")))?;
    }
}
