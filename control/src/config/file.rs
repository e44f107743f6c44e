//! The file as it is written: every key that may be there, none that must.

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, Visitor},
};

#[derive(Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    expecting = "a mapping"
)]
pub(super) struct Config {
    pub(super) socket_name: Option<String>,
    pub(super) device_classes: Option<Vec<DeviceClass>>,
    pub(super) lvcreate_option_classes: Option<Vec<OptionClass>>,
    pub(super) lvm_command_prefix: Option<Vec<String>>,
    pub(super) s3: Option<S3>,
    pub(super) datapath: Option<Datapath>,
    pub(super) backup: Option<BackupScripts>,
    pub(super) restore: Option<RestoreScript>,
}

#[derive(Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    expecting = "a mapping"
)]
pub(super) struct DeviceClass {
    pub(super) name: Option<String>,
    pub(super) volume_group: Option<String>,
    pub(super) default: Option<Flag>,
    pub(super) spare_gb: Option<u64>,
    pub(super) stripe: Option<u32>,
    pub(super) stripe_size: Option<String>,
    pub(super) lvcreate_options: Option<Vec<String>>,
    pub(super) r#type: Option<Type>,
    pub(super) thin_pool: Option<ThinPool>,
    pub(super) snapshot_percent: Option<u64>,
    pub(super) directory: Option<String>,
    pub(super) attach: Option<Attach>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Type {
    // TopoLVM takes the empty text for it, too.
    #[serde(alias = "")]
    Thick,
    Thin,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Attach {
    Auto,
    Never,
}

#[derive(Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    expecting = "a mapping"
)]
pub(super) struct ThinPool {
    pub(super) name: Option<String>,
    pub(super) overprovision_ratio: Option<f64>,
}

#[derive(Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    expecting = "a mapping"
)]
pub(super) struct OptionClass {
    pub(super) name: Option<String>,
    pub(super) options: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    expecting = "a mapping"
)]
pub(super) struct S3 {
    pub(super) region: Option<String>,
    pub(super) require_verify_tls: Option<Flag>,
    pub(super) ca_file: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    expecting = "a mapping"
)]
pub(super) struct Datapath {
    pub(super) memory_mib: Option<u64>,
    pub(super) backups_max: Option<u64>,
    pub(super) restores_max: Option<u64>,
    pub(super) io_engine: Option<Engine>,
    pub(super) direct_io: Option<Flag>,
    pub(super) queue_depth: Option<u64>,
    pub(super) part_mib: Option<u64>,
    pub(super) pack_mib: Option<u64>,
    pub(super) packs_min: Option<u64>,
    pub(super) parts_in_flight: Option<u64>,
    pub(super) cache_directory: Option<String>,
    pub(super) cache_mib: Option<u64>,
    pub(super) compression: Option<String>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Engine {
    IoUring,
    Sync,
}

/// The scripts of the daemon that this one replaces.
#[derive(Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    expecting = "a mapping"
)]
pub(super) struct BackupScripts {
    pub(super) script_path: Option<IgnoredAny>,
    pub(super) workdir: Option<IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(
    deny_unknown_fields,
    rename_all = "kebab-case",
    expecting = "a mapping"
)]
pub(super) struct RestoreScript {
    pub(super) script_path: Option<IgnoredAny>,
}

/// A boolean by any of YAML 1.1's names, for TopoLVM reads the file as YAML 1.1.
#[derive(Clone, Copy, Default)]
pub(super) struct Flag(pub(super) bool);

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FlagVisitor)
    }
}

struct FlagVisitor;

impl Visitor<'_> for FlagVisitor {
    type Value = Flag;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("true or false")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Flag, E> {
        Ok(Flag(value))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Flag, E> {
        match text {
            "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Ok(Flag(true)),
            "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Ok(Flag(false)),
            other => Err(E::invalid_type(serde::de::Unexpected::Str(other), &self)),
        }
    }
}
