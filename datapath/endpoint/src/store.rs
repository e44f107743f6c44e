//! What the endpoint holds: buckets, their objects and multipart uploads, all under one lock.
//!
//! Ordering rule: bodies are received and sealed outside the lock; conditions are checked and
//! objects appear, are replaced and go within one and the same hold of it. That makes every
//! operation on keys linearizable.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use s3s::dto::{ETag, ETagCondition, Timestamp};
use s3s::{S3Error, S3Result, s3_error};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::checksums::Checksums;
use crate::content::{Content, Draft, Reader};
use crate::folder::Folder;

/// What is known of an object besides its bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Attributes {
    pub(crate) key: String,
    /// Unique to this version of the object, without quotes.
    pub(crate) etag: String,
    pub(crate) modified: SystemTime,
    pub(crate) content_type: Option<String>,
    pub(crate) metadata: HashMap<String, String>,
    pub(crate) checksums: Checksums,
    /// Whether the digests are those of the parts' digests.
    pub(crate) composite: bool,
}

impl Attributes {
    pub(crate) fn etag(&self) -> ETag {
        ETag::Strong(self.etag.clone())
    }

    pub(crate) fn modified(&self) -> Timestamp {
        self.modified.into()
    }
}

#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) attributes: Attributes,
    pub(crate) content: Content,
}

/// A multipart upload under way.
#[derive(Debug)]
pub(crate) struct Upload {
    pub(crate) created: SystemTime,
    pub(crate) content_type: Option<String>,
    pub(crate) metadata: HashMap<String, String>,
    pub(crate) checksum_algorithm: Option<String>,
    /// Whether the object gets digests of its parts' digests.
    pub(crate) composite: bool,
    pub(crate) parts: BTreeMap<i32, Arc<Part>>,
}

#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) etag: String,
    pub(crate) modified: SystemTime,
    pub(crate) checksums: Checksums,
    pub(crate) draft: Draft,
}

/// Names an upload. Sorts by key, then by age, as uploads are listed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct UploadName {
    pub(crate) key: String,
    pub(crate) id: String,
}

#[derive(Debug)]
pub(crate) struct Bucket {
    pub(crate) created: SystemTime,
    pub(crate) objects: BTreeMap<String, Arc<Object>>,
    pub(crate) uploads: BTreeMap<UploadName, Upload>,
}

impl Bucket {
    fn new(created: SystemTime) -> Self {
        Self {
            created,
            objects: BTreeMap::new(),
            uploads: BTreeMap::new(),
        }
    }

    pub(crate) fn object(&self, key: &str) -> S3Result<&Arc<Object>> {
        self.objects
            .get(key)
            .ok_or_else(|| s3_error!(NoSuchKey, "The specified key does not exist."))
    }

    pub(crate) fn upload(&mut self, name: &UploadName) -> S3Result<&mut Upload> {
        self.uploads
            .get_mut(name)
            .ok_or_else(|| s3_error!(NoSuchUpload, "The specified upload does not exist."))
    }
}

/// What a writer demands of the object that its own would replace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Precondition {
    None,
    /// `If-None-Match: *`
    Absent,
    /// `If-Match: "etag"`
    Unchanged(ETag),
}

impl Precondition {
    pub(crate) fn new(
        if_none_match: Option<ETagCondition>,
        if_match: Option<ETagCondition>,
    ) -> S3Result<Self> {
        match (if_none_match, if_match) {
            (None, None) => Ok(Self::None),
            (Some(ETagCondition::Any), None) => Ok(Self::Absent),
            (None, Some(ETagCondition::ETag(etag))) => Ok(Self::Unchanged(etag)),
            // S3 has no others for writes.
            _ => Err(s3_error!(
                NotImplemented,
                "this condition is not supported for writes"
            )),
        }
    }

    pub(crate) fn check(&self, current: Option<&Object>) -> S3Result<()> {
        match (self, current) {
            (Self::None, _) | (Self::Absent, None) => Ok(()),
            (Self::Unchanged(etag), Some(object)) if *etag == object.attributes.etag() => Ok(()),
            (Self::Unchanged(_), None) => {
                Err(s3_error!(NoSuchKey, "The specified key does not exist."))
            }
            _ => Err(s3_error!(
                PreconditionFailed,
                "At least one of the pre-conditions you specified did not hold"
            )),
        }
    }
}

/// The state of the endpoint.
#[derive(Debug)]
pub(crate) struct Store {
    /// `None`: the bytes stay in memory.
    folder: Option<Folder>,
    ids: AtomicU64,
    buckets: Mutex<BTreeMap<String, Bucket>>,
}

impl Store {
    pub(crate) fn in_memory() -> Self {
        Self::new(None, BTreeMap::new())
    }

    /// Takes up the objects that are in the folder.
    pub(crate) fn in_folder(folder: Folder) -> Result<Self, Error> {
        let mut buckets = BTreeMap::new();
        for (name, created) in folder.buckets()? {
            let mut bucket = Bucket::new(created);
            for object in folder.objects(&name)? {
                bucket
                    .objects
                    .insert(object.attributes.key.clone(), Arc::new(object));
            }
            buckets.insert(name, bucket);
        }
        Ok(Self::new(Some(folder), buckets))
    }

    fn new(folder: Option<Folder>, buckets: BTreeMap<String, Bucket>) -> Self {
        // Ids go on from the wall clock, so that they are unique and sort by age beyond a restart.
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let ids = u64::try_from(since_epoch.as_nanos()).unwrap_or(0);
        Self {
            folder,
            ids: AtomicU64::new(ids),
            buckets: Mutex::new(buckets),
        }
    }

    pub(crate) fn folder(&self) -> Option<&Folder> {
        self.folder.as_ref()
    }

    /// An id that this store has not used before, in 16 hexadecimal digits.
    pub(crate) fn next_id(&self) -> String {
        format!("{:016x}", self.ids.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn with_buckets<T>(
        &self,
        apply: impl FnOnce(&mut BTreeMap<String, Bucket>) -> T,
    ) -> T {
        // A panic in another request has not left the maps half changed: each change is one
        // insertion or removal.
        apply(&mut self.buckets.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Runs `apply` on one bucket under the lock.
    pub(crate) fn with_bucket<T>(
        &self,
        name: &str,
        apply: impl FnOnce(&mut Bucket) -> S3Result<T>,
    ) -> S3Result<T> {
        self.with_buckets(|buckets| {
            let missing = || s3_error!(NoSuchBucket, "The specified bucket does not exist");
            apply(buckets.get_mut(name).ok_or_else(missing)?)
        })
    }

    pub(crate) fn create_bucket(&self, name: &str) -> S3Result<()> {
        if !s3s::path::check_bucket_name(name) {
            return Err(s3_error!(
                InvalidBucketName,
                "The specified bucket is not valid."
            ));
        }
        self.with_buckets(|buckets| {
            if buckets.contains_key(name) {
                return Err(s3_error!(BucketAlreadyOwnedByYou));
            }
            if let Some(folder) = &self.folder {
                folder
                    .create_bucket(name)
                    .map_err(S3Error::internal_error)?;
            }
            buckets.insert(name.to_owned(), Bucket::new(SystemTime::now()));
            Ok(())
        })
    }

    pub(crate) fn ensure_bucket(&self, name: &str) -> S3Result<()> {
        let exists = self.with_buckets(|buckets| buckets.contains_key(name));
        if exists {
            Ok(())
        } else {
            self.create_bucket(name)
        }
    }

    /// Finds an object and takes hold of its bytes: both of the same version.
    pub(crate) fn open(&self, bucket: &str, key: &str) -> S3Result<(Arc<Object>, Reader)> {
        self.with_bucket(bucket, |bucket| {
            let object = bucket.object(key)?;
            let reader = object.content.open().map_err(S3Error::internal_error)?;
            Ok((Arc::clone(object), reader))
        })
    }

    /// The last step before [`insert`](Self::insert): writes the attributes next to the bytes,
    /// where they live in a file.
    pub(crate) fn seal(&self, draft: Draft, attributes: Attributes) -> S3Result<Sealed> {
        if let Draft::File { file, len } = &draft {
            Folder::seal(file, *len, &attributes).map_err(S3Error::internal_error)?;
        }
        Ok(Sealed { draft, attributes })
    }

    /// Makes an object appear, or replaces it. `bucket` is the one called `bucket_name`, locked by
    /// the caller.
    pub(crate) fn insert(
        &self,
        bucket_name: &str,
        bucket: &mut Bucket,
        sealed: Sealed,
    ) -> S3Result<()> {
        let Sealed { draft, attributes } = sealed;
        let content = match (draft, &self.folder) {
            (Draft::Memory(rope), _) => Content::Memory(rope),
            (Draft::File { file, len }, Some(folder)) => {
                let path = match bucket
                    .objects
                    .get(&attributes.key)
                    .map(|object| &object.content)
                {
                    Some(Content::File { path, .. }) => path.clone(),
                    _ => folder.place(bucket_name, &attributes.key, &attributes.etag),
                };
                file.persist(&path).map_err(S3Error::internal_error)?;
                Content::File { path, len }
            }
            (Draft::File { .. }, None) => {
                return Err(s3_error!(
                    InternalError,
                    "a file in a store without a folder"
                ));
            }
        };
        bucket.objects.insert(
            attributes.key.clone(),
            Arc::new(Object {
                attributes,
                content,
            }),
        );
        Ok(())
    }

    /// Removes an object; whether there was one does not matter, as in S3.
    pub(crate) fn delete(&self, bucket: &mut Bucket, key: &str) -> S3Result<()> {
        if let Some(Content::File { path, .. }) =
            bucket.objects.get(key).map(|object| &object.content)
        {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(S3Error::internal_error(error));
                }
                _ => {}
            }
        }
        bucket.objects.remove(key);
        Ok(())
    }
}

/// An object complete in itself, which has only to be put into its place.
#[derive(Debug)]
pub(crate) struct Sealed {
    draft: Draft,
    pub(crate) attributes: Attributes,
}
