//! The configuration file, `/etc/topolvm/lvmd.yaml`: TopoLVM's keys and our own.
//!
//! What is read here has been checked whole: a [`Config`] has one default class, names that are
//! unique and settings that go together. Whether groups and pools exist is asked elsewhere.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use ringback_datapath::{
    codec::Compression, ring::IoEngine, settings::CacheSettings, store::Authorities,
};

use crate::{request::ClassRef, volume::Attach};

mod classes;
mod file;
mod sentence;
mod settings;

pub(crate) use settings::CACHE_MIB;

const MIB_SHIFT: u32 = 20;

/// The configuration of the daemon.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where the gRPC socket is to be.
    pub socket_name: PathBuf,
    /// The device classes; exactly one is the default.
    pub device_classes: Vec<DeviceClass>,
    /// What a request's option class stands for.
    pub option_classes: Vec<OptionClass>,
    /// How `lvm` is called, the command itself included; empty: as is usual.
    pub lvm_command_prefix: Vec<String>,
    /// Rules for stores.
    pub s3: S3Settings,
    /// Bounds of the data path.
    pub datapath: DatapathSettings,
    /// Sentences about what the file says in vain.
    pub warnings: Vec<String>,
}

/// A name for a place where volumes are made, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceClass {
    /// Unique.
    pub name: String,
    /// The volume group; that of a directory is known by this name, too.
    pub volume_group: String,
    /// Whether it serves requests that name no class.
    pub default: bool,
    /// Room that is reported as taken.
    pub spare_bytes: u64,
    /// What its volumes are made of.
    pub backing: Backing,
}

/// What the volumes of a class are made of.
#[derive(Debug, Clone, PartialEq)]
pub enum Backing {
    /// Extents of the volume group.
    Thick {
        /// How they are made.
        options: LvcreateOptions,
        /// How large a backup's snapshot is, in percent of its volume: 1 to 100.
        snapshot_percent: u32,
    },
    /// Blocks of a thin pool in the volume group.
    Thin {
        /// The pool's name.
        pool: String,
        /// How many times the pool's size may be promised, at least 1.
        overprovision_ratio: f64,
        /// How they are made.
        options: LvcreateOptions,
    },
    /// Image files.
    Directory {
        /// An absolute path.
        directory: PathBuf,
        /// Whether images become block devices.
        attach: Attach,
    },
}

/// How a class has its volumes made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LvcreateOptions {
    /// Number of stripes, as of `lvcreate -i`.
    pub stripe: Option<u32>,
    /// Size of a stripe, as of `lvcreate -I`.
    pub stripe_size: Option<String>,
    /// More arguments.
    pub arguments: Vec<String>,
}

/// Arguments of lvcreate that a request can ask for, instead of its device class's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionClass {
    /// Unique.
    pub name: String,
    /// The arguments.
    pub options: Vec<String>,
}

/// Rules for stores.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct S3Settings {
    /// The region of stores; `None`: from the environment, else found out.
    pub region: Option<String>,
    /// Whether requests that accept any certificate are refused.
    pub require_verify_tls: bool,
    /// Trusted beside the system's; read when the configuration is.
    pub authorities: Authorities,
}

/// Bounds of the data path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatapathSettings {
    /// Memory for the buffers and indexes of all jobs together.
    pub memory_mib: u32,
    /// Backups that move data at a time; more of them wait.
    pub backups_max: u32,
    /// Restores that move data at a time; more of them wait.
    pub restores_max: u32,
    /// What moves blocks from and to the devices.
    pub io_engine: IoEngine,
    /// Whether they pass the page cache by; false only to see what that is good for.
    pub direct_io: bool,
    /// Reads or writes in flight on one device.
    pub queue_depth: u32,
    /// Size of an upload's parts.
    pub part_mib: u32,
    /// Size at which a pack is closed.
    pub pack_mib: u32,
    /// A backup cuts its data into at least so many packs, unless they get very small.
    pub packs_min: u32,
    /// Parts in flight to or from the store.
    pub parts_in_flight: u32,
    /// Where copies of index segments are kept; `None`: nowhere.
    pub index_cache: Option<CacheSettings>,
    /// How hard new chunks are compressed.
    pub compression: Compression,
}

impl DatapathSettings {
    /// Buffers of one job, in bytes: three quarters of the memory, shared out.
    pub fn buffer_bytes(&self) -> u64 {
        let jobs = u64::from(self.backups_max + self.restores_max);
        (u64::from(self.memory_mib) << MIB_SHIFT) / 4 * 3 / jobs
    }

    /// The index of one backup, in bytes: one quarter of the memory, shared out.
    pub fn index_bytes(&self) -> u64 {
        (u64::from(self.memory_mib) << MIB_SHIFT) / 4 / u64::from(self.backups_max)
    }

    /// Size of a part, in bytes.
    pub fn part_bytes(&self) -> u64 {
        u64::from(self.part_mib) << MIB_SHIFT
    }

    /// Size of a pack, in bytes.
    pub fn pack_bytes(&self) -> u64 {
        u64::from(self.pack_mib) << MIB_SHIFT
    }
}

impl Config {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text).map_err(|error| error.in_file(path))
    }

    /// Reads the text of a file.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let file: Option<file::Config> =
            serde_norway::from_str(text).map_err(|error| sentence::of(&error))?;
        settings::check(file.unwrap_or_default()).map_err(ConfigError::of_whole_file)
    }

    /// The class that a request names, if there is one.
    pub fn device_class(&self, class: &ClassRef) -> Option<&DeviceClass> {
        self.device_classes.iter().find(|candidate| match class {
            ClassRef::Default => candidate.default,
            ClassRef::Named(name) => candidate.name == *name,
        })
    }

    /// The option class of this name.
    pub fn option_class(&self, name: &str) -> Option<&OptionClass> {
        self.option_classes.iter().find(|class| class.name == name)
    }
}

/// Why a configuration cannot be used.
#[derive(Debug)]
pub enum ConfigError {
    /// The file cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file says what cannot be.
    Invalid {
        /// The file, where the text came from one.
        path: Option<PathBuf>,
        /// The line, where one is at fault.
        line: Option<usize>,
        /// A sentence that names the key and what would be right.
        reason: String,
    },
}

impl ConfigError {
    fn of_whole_file(reason: String) -> Self {
        Self::Invalid {
            path: None,
            line: None,
            reason,
        }
    }

    fn in_file(self, file: &Path) -> Self {
        match self {
            Self::Invalid { line, reason, .. } => Self::Invalid {
                path: Some(file.to_owned()),
                line,
                reason,
            },
            unreadable @ Self::Unreadable { .. } => unreadable,
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, source } => {
                write!(f, "{}: cannot be read: {source}", path.display())
            }
            Self::Invalid { path, line, reason } => {
                if let Some(path) = path {
                    write!(f, "{}: ", path.display())?;
                }
                if let Some(line) = line {
                    write!(f, "line {line}: ")?;
                }
                f.write_str(reason)
            }
        }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable { source, .. } => Some(source),
            Self::Invalid { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests;
