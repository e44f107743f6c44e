//! Inputs from `tests/vectors`: what others wrote as the pages of the format say.

use std::{
    fs,
    path::{Path, PathBuf},
};

use prost::Message;
use ringback_proto::repository::PackFooter;

use crate::format::{
    object::{CHECK_BYTES, HEADER_BYTES},
    pack::{TRAILER_BYTES, tail_bytes},
};

/// A fuzzer's inputs are cut to this length; longer seeds would be other ones.
pub(super) const INPUT_BYTES: usize = 8 << 10;
/// Those that are clear within the frame.
const PLAIN: [&str; 3] = ["plain", "summed", "hostile"];
const ALL: [&str; 5] = [
    "plain",
    "summed",
    "hostile",
    "encrypted",
    "summed-encrypted",
];

/// Every object there is, as it is.
pub(super) fn objects() -> Vec<Vec<u8>> {
    short(ALL.iter().flat_map(|it| below(&folder().join(it))))
}

/// The messages of the objects in this folder of all repositories, or of the object of this name.
/// Where the repository is encrypted they are sealed, unless their kind never is.
pub(super) fn messages(name: &str) -> Vec<Vec<u8>> {
    let clear = ["repository", "keys"].contains(&name);
    let repositories = if clear { &ALL[..] } else { &PLAIN[..] };
    let objects = repositories
        .iter()
        .flat_map(|it| below(&folder().join(it).join(name)));
    short(objects.map(|it| it[HEADER_BYTES..it.len() - CHECK_BYTES].to_vec()))
}

/// The footers' messages of the packs in this folder.
pub(super) fn footers(name: &str) -> Vec<Vec<u8>> {
    short(packs(name).iter().map(|pack| footer(pack).to_vec()))
}

/// The records of the packs in this folder: as they are in a pack of chunks, nodes in one of trees.
pub(super) fn records(name: &str) -> Vec<Vec<u8>> {
    short(packs(name).iter().flat_map(|pack| {
        let footer = PackFooter::decode(footer(pack)).expect("a footer");
        let mut rest = &pack[HEADER_BYTES..];
        let lengths = footer.stored_bytes.into_iter();
        let cut = lengths.map(move |bytes| rest.split_off(..bytes as usize).expect("a record"));
        cut.map(<[u8]>::to_vec).collect::<Vec<_>>()
    }))
}

fn packs(name: &str) -> Vec<Vec<u8>> {
    let folders = PLAIN.iter().map(|it| folder().join(it).join(name));
    folders.flat_map(|it| below(&it)).collect()
}

fn footer(pack: &[u8]) -> &[u8] {
    let start = pack.len() - tail_bytes(pack).expect("a pack");
    &pack[start..pack.len() - CHECK_BYTES - TRAILER_BYTES]
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors")
}

/// The files below a folder, or the file itself; none if there is neither.
fn below(path: &Path) -> Vec<Vec<u8>> {
    if path.is_file() {
        return vec![fs::read(path).expect("reads a file")];
    }
    let Ok(entries) = fs::read_dir(path) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = entries.map(|it| it.expect("an entry").path()).collect();
    paths.sort();
    paths.iter().flat_map(|it| below(it)).collect()
}

fn short(inputs: impl Iterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
    let mut inputs: Vec<_> = inputs.filter(|it| it.len() <= INPUT_BYTES).collect();
    inputs.sort();
    inputs.dedup();
    inputs
}
