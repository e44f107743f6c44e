//! Pages of a sorted map of keys, as ListObjectsV2 defines them: prefix, delimiter, tokens.

use std::collections::BTreeMap;
use std::ops::Bound;

use s3s::{S3Result, s3_error};

/// One line of a listing: a key, or all keys up to a delimiter rolled into one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Key(String),
    Prefix(String),
}

impl Entry {
    /// Opaque to clients, as tokens should be.
    pub(crate) fn to_token(&self) -> String {
        match self {
            Self::Key(key) => format!("6b{}", hex::encode(key)),
            Self::Prefix(prefix) => format!("70{}", hex::encode(prefix)),
        }
    }

    pub(crate) fn from_token(token: &str) -> S3Result<Self> {
        let invalid = || {
            s3_error!(
                InvalidArgument,
                "The continuation token provided is incorrect"
            )
        };
        let bytes = hex::decode(token).map_err(|_| invalid())?;
        let text = String::from_utf8(bytes).map_err(|_| invalid())?;
        match text.split_at_checked(1) {
            Some(("k", key)) => Ok(Self::Key(key.to_owned())),
            Some(("p", prefix)) => Ok(Self::Prefix(prefix.to_owned())),
            _ => Err(invalid()),
        }
    }
}

/// A stretch of a listing.
pub(crate) struct Page {
    pub(crate) entries: Vec<Entry>,
    /// Whether there is more.
    pub(crate) truncated: bool,
}

/// The entries that follow `after`, at most `len_max` of them.
pub(crate) fn page<T>(
    keys: &BTreeMap<String, T>,
    prefix: &str,
    delimiter: Option<&str>,
    after: Option<Entry>,
    len_max: usize,
) -> Page {
    let mut entries = Vec::new();
    let mut last = after;
    // A page of nothing says that there is nothing more, or clients would ask forever.
    while len_max > 0
        && let Some(entry) = next_entry(keys, prefix, delimiter, last.as_ref())
    {
        if entries.len() == len_max {
            return Page {
                entries,
                truncated: true,
            };
        }
        last = Some(entry.clone());
        entries.push(entry);
    }
    Page {
        entries,
        truncated: false,
    }
}

fn next_entry<T>(
    keys: &BTreeMap<String, T>,
    prefix: &str,
    delimiter: Option<&str>,
    after: Option<&Entry>,
) -> Option<Entry> {
    // Beyond all keys that were rolled into a prefix: no character comes after the last one, so
    // that only keys which have that very character in this place are left, and those are passed
    // over one by one.
    let beyond;
    let (bound, passed) = match after {
        None => (Bound::Included(prefix), None),
        Some(Entry::Key(key)) if key.as_str() < prefix => (Bound::Included(prefix), None),
        Some(Entry::Key(key)) => (Bound::Excluded(key.as_str()), None),
        Some(Entry::Prefix(passed)) => {
            beyond = format!("{passed}{}", char::MAX);
            (Bound::Included(beyond.as_str()), Some(passed.as_str()))
        }
    };
    let key = keys
        .range::<str, _>((bound, Bound::Unbounded))
        .map(|(key, _)| key)
        .find(|key| passed.is_none_or(|passed| !key.starts_with(passed)))?;
    let rest = key.strip_prefix(prefix)?;
    Some(
        match delimiter.and_then(|delimiter| Some(rest.find(delimiter)? + delimiter.len())) {
            Some(rolled_len) => Entry::Prefix(key[..prefix.len() + rolled_len].to_owned()),
            None => Entry::Key(key.clone()),
        },
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// Lists everything, in pages of `len_max`, going through tokens as clients do.
    fn list(keys: &[&str], prefix: &str, delimiter: Option<&str>, len_max: usize) -> Vec<String> {
        let keys: BTreeMap<String, ()> = keys.iter().map(|key| ((*key).to_owned(), ())).collect();
        let (mut lines, mut after) = (Vec::new(), None);
        loop {
            let page = page(&keys, prefix, delimiter, after.take(), len_max);
            assert!(page.entries.len() <= len_max);
            lines.extend(page.entries.iter().map(|entry| match entry {
                Entry::Key(key) => key.clone(),
                Entry::Prefix(prefix) => format!("{prefix}*"),
            }));
            if !page.truncated {
                return lines;
            }
            after = page
                .entries
                .last()
                .map(|entry| Entry::from_token(&entry.to_token()).unwrap());
        }
    }

    #[test]
    fn pages_of_any_length_hold_the_same_entries() {
        let keys = [
            "a",
            "a/1",
            "a/2",
            "a/\u{10ffff}x",
            "a0",
            "b/1/x",
            "b/2",
            "c",
            "ä/1",
        ];
        let rolled = ["a", "a/*", "a0", "b/*", "c", "ä/*"];
        for len_max in 1..12 {
            assert_eq!(list(&keys, "", None, len_max), keys);
            assert_eq!(list(&keys, "", Some("/"), len_max), rolled);
            assert_eq!(
                list(&keys, "a/", Some("/"), len_max),
                ["a/1", "a/2", "a/\u{10ffff}x"]
            );
            assert_eq!(list(&keys, "b/", Some("/"), len_max), ["b/1/*", "b/2"]);
            assert_eq!(list(&keys, "b", Some("/"), len_max), ["b/*"]);
            assert!(list(&keys, "d", Some("/"), len_max).is_empty());
        }
    }
}
