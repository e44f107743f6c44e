//! Bytes of an object, piece by piece.

use std::{fs::File, io, os::unix::fs::FileExt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    super::{Download, StoreError},
    FolderStore,
};

/// What a call brings at most: enough for a disk to be at its best.
const PIECE_BYTES: u64 = 1 << 20;

/// See the module.
pub(super) struct FileDownload {
    store: FolderStore,
    object: String,
    position: u64,
    end: u64,
    file: Option<Arc<File>>,
}

impl FileDownload {
    /// Bytes `start..end` of an object, or all of it.
    pub(super) async fn open(
        store: &FolderStore,
        object: &str,
        range: Option<(u64, u64)>,
    ) -> Result<Self, StoreError> {
        let mut download = Self {
            store: store.clone(),
            object: object.to_owned(),
            position: range.map_or(0, |(start, _)| start),
            end: range.map_or(0, |(_, end)| end),
            file: None,
        };
        if range.is_some_and(|(start, end)| start >= end) {
            return Ok(download);
        }
        let name = object.to_owned();
        let opened = store.call(move |root| root.open_object(&name)).await?;
        let (file, bytes) = opened;
        if range.is_none() {
            download.end = bytes;
        } else if bytes < download.end {
            return Err(store.root.too_short(object));
        }
        download.file = Some(Arc::new(file));
        Ok(download)
    }

    /// Bytes that are still to come.
    pub(super) fn left(&self) -> u64 {
        self.end.saturating_sub(self.position)
    }
}

#[async_trait]
impl Download for FileDownload {
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        let Some(file) = self.file.clone().filter(|_| self.left() > 0) else {
            return Ok(None);
        };
        let (object, position) = (self.object.clone(), self.position);
        let wanted = usize::try_from(self.left().min(PIECE_BYTES)).expect("a piece");
        let piece = self.store.call(move |root| {
            let mut piece = vec![0; wanted];
            match read(&file, &mut piece, position) {
                Ok(0) => Err(root.too_short(&object)),
                Ok(len) => {
                    piece.truncate(len);
                    Ok(Bytes::from(piece))
                }
                Err(error) => Err(root.unreadable(&object, &error)),
            }
        });
        let piece = piece.await?;
        self.position += piece.len() as u64;
        self.store.meter.add_received(piece.len() as u64);
        Ok(Some(piece))
    }
}

fn read(file: &File, piece: &mut [u8], position: u64) -> io::Result<usize> {
    loop {
        match file.read_at(piece, position) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}
