//! What each chunk size would save and cost, on images of one volume taken one after the other.
//!
//! Nothing is modelled that can be counted: every image is cut, hashed and deduplicated at every
//! size, new chunks are compressed one by one, and laid into packs as a backup would, so that the
//! requests of a restore can be planned by the code that restores.

mod size;

use std::{
    fs::File,
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use clap::Args;
use serde::Serialize;

use self::size::Measurement;
pub use self::size::{Costs, Image, SizeResults};
use crate::{
    error::{Error, Located},
    units::{MIB, bytes},
};

/// Smallest and largest chunk size of the format, as powers of two.
const SIZES: std::ops::RangeInclusive<u32> = 16..=22;

/// Tell from images of one volume, oldest first, what each chunk size would save and cost.
#[derive(Args)]
pub struct ChunkSizes {
    /// The images.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// Write all figures.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What is written with `--json`.
#[derive(Debug, Serialize)]
struct Results<'a> {
    images: &'a [PathBuf],
    sizes: &'a [SizeResults],
}

impl ChunkSizes {
    /// Measures, and prints the table.
    pub fn run(&self) -> Result<(), Error> {
        let sizes = measure(&self.images)?;
        println!("{}", render(&sizes));
        if let Some(path) = &self.json {
            let file = File::create(path).at("make", path)?;
            let results = Results {
                images: &self.images,
                sizes: &sizes,
            };
            serde_json::to_writer(file, &results)
                .map_err(std::io::Error::from)
                .at("write", path)?;
        }
        Ok(())
    }
}

/// All sizes on these images, as many at once as there are cores.
pub fn measure(images: &[PathBuf]) -> Result<Vec<SizeResults>, Error> {
    let sizes: Vec<u32> = SIZES.map(|power| 1 << power).collect();
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    let worker = || -> Result<(), Error> {
        while let Some(&size) = sizes.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut measurement = Measurement::new(size);
            for image in images {
                measurement.add(image)?;
            }
            let results = measurement.finish();
            done.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(results);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(worker)).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("a worker returns its errors"))
    })?;
    let mut results = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|size| size.chunk_bytes);
    Ok(results)
}

/// The figures in Markdown, a row for each size.
pub fn render(sizes: &[SizeResults]) -> String {
    const HEAD: [&str; 11] = [
        "chunk",
        "first: new MiB",
        "lz4",
        "zstd 1",
        "later: new MiB",
        "lz4",
        "zstd 1",
        "metadata MiB",
        "GETs of a restore",
        "fetched MiB",
        "index per TiB",
    ];
    let line = |cells: Vec<String>| format!("| {} |", cells.join(" | "));
    let mut lines = vec![
        line(HEAD.map(str::to_owned).to_vec()),
        line(vec!["---:".to_owned(); HEAD.len()]),
    ];
    lines.extend(sizes.iter().map(|size| line(row(size))));
    lines.join("\n")
}

fn row(size: &SizeResults) -> Vec<String> {
    let mib = |count: u64| format!("{:.1}", count as f64 / MIB as f64);
    let first = size.images.first().copied().unwrap_or_default();
    let later = size
        .images
        .iter()
        .skip(1)
        .copied()
        .fold(Image::default(), Image::plus);
    let mut cells = vec![bytes(f64::from(size.chunk_bytes))];
    for image in [first, later] {
        cells.extend([image.new_bytes, image.lz4_bytes, image.zstd_bytes].map(mib));
    }
    cells.push(mib(later.metadata_bytes));
    cells.push(size.restore_requests.to_string());
    cells.push(mib(size.restore_bytes));
    cells.push(bytes(size.costs.index_memory_per_tib as f64));
    cells
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::patterns;

    #[test]
    fn smaller_chunks_store_less_of_small_changes_and_need_more_index() {
        let folder = tempfile::tempdir().expect("a folder");
        let paths = ["one", "two"].map(|name| folder.path().join(name));
        let mut image = vec![0; 16 << 20];
        // The last 4 MiB stay zero; a chunk of the first 8 MiB comes twice.
        patterns::random("chunk sizes", 1, &mut image[..8 << 20]);
        image.copy_within(0..4 << 20, 8 << 20);
        std::fs::write(&paths[0], &image).expect("writes");
        image[5 << 20] ^= 1;
        std::fs::write(&paths[1], &image).expect("writes");

        let sizes = measure(&paths).expect("measured");
        assert_eq!(sizes.len(), 7);
        for size in &sizes {
            let [first, second] = &size.images[..] else {
                panic!("two images")
            };
            assert_eq!(first.data_bytes, 12 << 20, "{size:?}");
            assert_eq!(first.zero_bytes, 4 << 20);
            assert_eq!(first.new_bytes, 8 << 20, "what comes twice is stored once");
            assert_eq!(
                second.new_bytes,
                u64::from(size.chunk_bytes),
                "one chunk changed"
            );
            assert!(second.metadata_bytes > 0 && first.zstd_bytes > 8 << 20);
            assert!(size.restore_bytes >= 8 << 20);
        }
        let index: Vec<_> = sizes
            .iter()
            .map(|it| it.costs.index_memory_per_tib)
            .collect();
        assert!(
            index.windows(2).all(|pair| pair[0] == 2 * pair[1]),
            "{index:?}"
        );
        assert_eq!(render(&sizes).lines().count(), 2 + 7);
    }
}
