//! The messages and services of ringback, generated from the schemas beside this crate.
//!
//! [`lvmd`] is the lvmd protocol in both its dialects, [`control`] what the command line asks
//! beyond it, [`repository`] what lies in the store.
//!
//! Types that carry credentials have no `Debug`.

#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]

use std::fmt;

pub use proto as lvmd;
pub use ringback::{repository::v1 as repository, v1 as control};

// The modules nest as the schemas' packages do, for generated code refers across them.
#[doc(hidden)]
pub mod proto {
    tonic::include_proto!("proto");
}

#[doc(hidden)]
pub mod ringback {
    pub mod v1 {
        tonic::include_proto!("ringback.v1");
    }
    pub mod repository {
        pub mod v1 {
            tonic::include_proto!("ringback.repository.v1");
        }
    }
}

/// The schemas as published, an encoded `FileDescriptorSet`, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Shows where, never with what credentials, also where they do not belong.
impl fmt::Debug for lvmd::data_source::S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3")
            .field("path", &bare(&self.path))
            .field("endpoint", &bare(&self.endpoint))
            .field("verify_tls", &self.verify_tls)
            .finish_non_exhaustive()
    }
}

/// The text from its last `@` on: what stands before a host can be credentials.
fn bare(text: &str) -> &str {
    text.rfind('@').map_or(text, |at| &text[at..])
}

/// Leaves field 5 out: undecoded, it may hold credentials.
impl fmt::Debug for lvmd::CreateLvRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateLvRequest")
            .field("name", &self.name)
            .field("size_gb", &self.size_gb)
            .field("size_bytes", &self.size_bytes)
            .field("tags", &self.tags)
            .field("device_class", &self.device_class)
            .finish_non_exhaustive()
    }
}

/// Shows nothing of them.
impl fmt::Debug for repository::Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(***)")
    }
}
