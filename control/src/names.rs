//! The names that callers choose: volumes and tags, held to LVM's rules and to ours.
//!
//! A name that parses here is taken by every LVM2 release; whether it is free, and whether it
//! fits into a group, is asked elsewhere ([`VolumeName::fits`]).

use std::fmt;

use ringback_datapath::store::location::InvalidLocation;

/// Longest LVM name, and longest device-mapper name: 128 bytes with C's closing zero.
const NAME_BYTES_MAX: usize = 128 - 1;

/// So much room a volume's name leaves: a name of what is under way (`.ringback-rXXXXXXXX`), hyphens
/// doubled, and what LVM appends to device-mapper names (`-real`, `-cow`), take no more.
pub const SUFFIX_BYTES_MAX: usize = 24;

/// Volume names that begin so are ours.
pub const RESERVED_PREFIX: &str = ".ringback";

/// Tags that begin so are ours.
pub const RESERVED_TAG_PREFIX: &str = "ringback";

/// LVM's own limit on a tag.
const TAG_BYTES_MAX: usize = 1024;

/// Longest value that an error repeats: errors travel in HTTP/2 headers of a few KiB.
const SHOWN_CHARS_MAX: usize = 160;

/// Prefixes of LVM2's own volumes.
const LVM_PREFIXES: [&str; 2] = ["pvmove", "snapshot"];

/// What LVM2 puts into the names of its hidden volumes (`lib/misc/lvm-string.c` of 2.03).
const LVM_INFIXES: [&str; 17] = [
    "_cdata", "_cmeta", "_corig", "_cpool", "_cvol", "_imeta", "_iorig", "_mimage", "_mlog",
    "_pmspare", "_rimage", "_rmeta", "_tdata", "_tmeta", "_vdata", "_vorigin", "_wcorig",
];

/// A part of a request that cannot be served as it stands. Its text is a sentence: the field,
/// its value, what is wrong with it and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// The field's path as on the wire, `backup.data_source.s3.path`.
    pub field: String,
    /// Its value, shortened and without credentials; `None` where there is none to show.
    pub value: Option<String>,
    /// What is wrong and what would be right, a predicate of the field.
    pub reason: String,
}

impl Invalid {
    /// A field whose value is wrong.
    pub fn new(field: &str, value: impl fmt::Display, reason: impl Into<String>) -> Self {
        Self {
            field: field.to_owned(),
            value: Some(shortened(&value.to_string())),
            reason: reason.into(),
        }
    }

    /// A field that is absent, or whose value must not be shown.
    pub fn of_field(field: &str, reason: impl Into<String>) -> Self {
        Self {
            field: field.to_owned(),
            value: None,
            reason: reason.into(),
        }
    }

    /// The same, of a field by another name.
    #[must_use]
    pub fn named(self, field: &str) -> Self {
        Self {
            field: field.to_owned(),
            ..self
        }
    }

    /// The same, of a field within the message at `path`.
    #[must_use]
    pub fn within(self, path: &str) -> Self {
        Self {
            field: format!("{path}.{}", self.field),
            ..self
        }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{} {value:?} {}", self.field, self.reason),
            None => write!(f, "{} {}", self.field, self.reason),
        }
    }
}

impl std::error::Error for Invalid {}

impl From<InvalidLocation> for Invalid {
    fn from(invalid: InvalidLocation) -> Self {
        Self::new(invalid.field, invalid.value, invalid.reason)
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// The name of a logical volume or image file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeName(String);

impl VolumeName {
    /// Takes what LVM takes as a volume's name, except names kept by LVM or by ringback.
    pub fn parse(name: &str) -> Result<Self, Invalid> {
        check_volume_name(name).map_err(|reason| Invalid::new("name", name, reason))?;
        Ok(Self(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the device-mapper name of this volume in the group `group`, hyphens doubled, has
    /// room for [`SUFFIX_BYTES_MAX`] bytes more.
    pub fn fits(&self, group: &str) -> Result<(), Invalid> {
        let mapped = mapped_bytes(group) + "-".len() + mapped_bytes(&self.0) + SUFFIX_BYTES_MAX;
        if mapped <= NAME_BYTES_MAX {
            return Ok(());
        }
        let excess = mapped - NAME_BYTES_MAX;
        Err(Invalid::new(
            "name",
            &self.0,
            format!(
                "is {excess} bytes too long in the volume group {group:?}: the device-mapper \
                 name, hyphens doubled, with {SUFFIX_BYTES_MAX} bytes for temporary names, has \
                 at most {NAME_BYTES_MAX}"
            ),
        ))
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for VolumeName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// Length in a device-mapper name, where a single hyphen separates group and volume.
fn mapped_bytes(name: &str) -> usize {
    name.len() + name.matches('-').count()
}

fn check_volume_name(name: &str) -> Result<(), String> {
    check_lvm_name(name)?;
    if name.starts_with(RESERVED_PREFIX) {
        return Err(format!(
            "begins with {RESERVED_PREFIX:?}, which ringback keeps for itself; choose another name"
        ));
    }
    if let Some(prefix) = LVM_PREFIXES.iter().find(|p| name.starts_with(**p)) {
        return Err(format!(
            "begins with {prefix:?}, which LVM keeps for itself; choose another name"
        ));
    }
    match LVM_INFIXES.iter().find(|infix| name.contains(**infix)) {
        Some(infix) => Err(format!(
            "contains {infix:?}, which LVM keeps for its hidden volumes; choose another name"
        )),
        None => Ok(()),
    }
}

/// Whether LVM takes the text as a name of anything (a group, a pool, a volume); the error is a
/// predicate of the name.
pub fn check_lvm_name(name: &str) -> Result<(), String> {
    const WANTED: &str = "an LVM name takes the letters A to Z and a to z, digits, '_', '.', '+' \
                          and '-'";
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '+' | '-');
    if name.is_empty() {
        return Err(format!("is empty; {WANTED}"));
    }
    if name.len() > NAME_BYTES_MAX {
        let bytes = name.len();
        return Err(format!(
            "has {bytes} bytes; an LVM name has at most {NAME_BYTES_MAX}"
        ));
    }
    if let Some(odd) = name.chars().find(|&c| !allowed(c)) {
        return Err(format!("has the character {odd:?}; {WANTED}"));
    }
    if name == "." || name == ".." {
        return Err("means a directory; choose another name".into());
    }
    if name.starts_with('-') {
        return Err("begins with a hyphen; begin it with a letter or digit".into());
    }
    Ok(())
}

/// A tag that the caller puts on a volume.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(String);

impl Tag {
    /// Takes what LVM takes as a tag, except tags kept by ringback.
    pub fn parse(tag: &str) -> Result<Self, Invalid> {
        check_tag(tag).map_err(|reason| Invalid::new("tags", tag, reason))?;
        Ok(Self(tag.to_owned()))
    }

    /// The tag.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check_tag(tag: &str) -> Result<(), String> {
    const WANTED: &str = "an LVM tag takes the letters A to Z and a to z, digits and any of \
                          _ + . - / = ! : & #";
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_+.-/=!:&#".contains(c);
    if tag.is_empty() {
        return Err(format!("is empty; {WANTED}"));
    }
    if tag.len() > TAG_BYTES_MAX {
        let bytes = tag.len();
        return Err(format!(
            "has {bytes} bytes; an LVM tag has at most {TAG_BYTES_MAX}"
        ));
    }
    if let Some(odd) = tag.chars().find(|&c| !allowed(c)) {
        return Err(format!("has the character {odd:?}; {WANTED}"));
    }
    if tag.starts_with('-') {
        return Err("begins with a hyphen; begin it with another character".into());
    }
    if tag.starts_with(RESERVED_TAG_PREFIX) {
        return Err(format!(
            "begins with {RESERVED_TAG_PREFIX:?}; such tags are ringback's own, choose another"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
