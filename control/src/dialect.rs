//! The two dialects of the lvmd protocol, read into one set of requests of our own and answered
//! by replies that both can read. Nothing else in the daemon knows that there are two.
//!
//! The *seed's* dialect carries `size_gb`, and a `DataSource` in field 5 of CreateLVRequest. That
//! of *current* TopoLVM carries `size_bytes`, and a string in field 5. A request with
//! `size_bytes` other than 0 is of the current dialect (TopoLVM 0.25 to 0.36.0 sets both sizes),
//! one with `size_gb` alone of the seed's.

use prost::{Message, bytes::Bytes};
use ringback_datapath::{
    crypt::Passphrase,
    store::{
        Authorities,
        location::{BackupPath, Credentials, Endpoint, Proxy, Secret, StoreConfig},
    },
};
use ringback_proto::lvmd::{self, data_source};
use zeroize::Zeroizing;

use crate::{
    names::{Invalid, Tag, VolumeName},
    request::{
        ClassRef, CreateBackup, CreateSnapshot, CreateVolume, DataSource, RemoveVolume,
        ResizeVolume, ShrinkRule, VolumeHandle, VolumeInfo, VolumeSize, gib_floor,
    },
};

/// Longest name of a backup; Kubernetes' own have at most 253 bytes.
const BACKUP_NAME_BYTES_MAX: usize = 1024;

#[derive(Clone, Copy)]
enum Dialect {
    Seed,
    Current,
}

impl TryFrom<lvmd::CreateLvRequest> for CreateVolume {
    type Error = Invalid;

    fn try_from(request: lvmd::CreateLvRequest) -> Result<Self, Invalid> {
        let (dialect, size) = sized(request.size_gb, request.size_bytes)?;
        let field_5 = request.data_source_or_option_class;
        let (option_class, source) = match dialect {
            Dialect::Seed => (None, field_5.as_deref().map(seed_data_source).transpose()?),
            Dialect::Current => (field_5.map(option_class).transpose()?.flatten(), None),
        };
        Ok(Self {
            name: VolumeName::parse(&request.name)?,
            size,
            tags: tags(&request.tags)?,
            device_class: request.device_class.into(),
            option_class,
            source,
        })
    }
}

impl TryFrom<lvmd::CreateLvSnapshotRequest> for CreateSnapshot {
    type Error = Invalid;

    fn try_from(request: lvmd::CreateLvSnapshotRequest) -> Result<Self, Invalid> {
        Ok(Self {
            name: VolumeName::parse(&request.name)?,
            tags: tags(&request.tags)?,
            device_class: request.device_class.into(),
            source: VolumeName::parse(&request.source_volume)
                .map_err(|invalid| invalid.named("source_volume"))?,
            writable: writable(&request.access_type)?,
            size: match request.size_bytes {
                0 => None,
                bytes => Some(size_of_bytes(bytes)?),
            },
        })
    }
}

impl TryFrom<lvmd::RemoveLvRequest> for RemoveVolume {
    type Error = Invalid;

    fn try_from(request: lvmd::RemoveLvRequest) -> Result<Self, Invalid> {
        Ok(Self {
            name: VolumeName::parse(&request.name)?,
            device_class: request.device_class.into(),
        })
    }
}

impl TryFrom<lvmd::ResizeLvRequest> for ResizeVolume {
    type Error = Invalid;

    fn try_from(request: lvmd::ResizeLvRequest) -> Result<Self, Invalid> {
        let (dialect, size) = sized(request.size_gb, request.size_bytes)?;
        Ok(Self {
            name: VolumeName::parse(&request.name)?,
            device_class: request.device_class.into(),
            size,
            shrink: match dialect {
                Dialect::Seed => ShrinkRule::Refuse,
                Dialect::Current => ShrinkRule::Keep,
            },
        })
    }
}

impl TryFrom<lvmd::CreateBackupRequest> for CreateBackup {
    type Error = Invalid;

    fn try_from(request: lvmd::CreateBackupRequest) -> Result<Self, Invalid> {
        let backup = request.backup.ok_or_else(|| {
            Invalid::of_field(
                "backup",
                "is absent; it should say what to back up, and where to",
            )
        })?;
        let within_backup = |invalid: Invalid| invalid.within("backup");
        check_backup_name(&backup.name).map_err(within_backup)?;
        let source = backup.data_source.ok_or_else(|| {
            Invalid::of_field(
                "backup.data_source",
                "is absent; it should say where to back up to",
            )
        })?;
        Ok(Self {
            name: backup.name,
            volume_handle: VolumeHandle::parse(&backup.volume_handle).map_err(within_backup)?,
            source: data_source(source).map_err(within_backup)?,
        })
    }
}

/// The device class that a GetLVList names.
impl From<lvmd::GetLvListRequest> for ClassRef {
    fn from(request: lvmd::GetLvListRequest) -> Self {
        request.device_class.into()
    }
}

/// The device class that a GetFreeBytes names.
impl From<lvmd::GetFreeBytesRequest> for ClassRef {
    fn from(request: lvmd::GetFreeBytesRequest) -> Self {
        request.device_class.into()
    }
}

/// The way to the store that `s3` describes, and the passphrase of the repository there. The path is
/// not looked at. Errors name the fields of `s3`; region and authorities are left for the
/// configuration.
pub fn store(s3: data_source::S3) -> Result<(StoreConfig, Option<Passphrase>), Invalid> {
    let (id, key) = (secret(s3.access_key_id), secret(s3.secret_access_key));
    let (token, encryption_key) = (secret(s3.session_token), secret(s3.encryption_key));
    let passphrase = encryption_key.map(Passphrase::new).transpose();
    let http_proxy = Zeroizing::new(s3.http_proxy);
    let https_proxy = Zeroizing::new(s3.https_proxy);
    let store = StoreConfig {
        endpoint: Endpoint::parse(&s3.endpoint)?,
        region: None,
        verify_tls: s3.verify_tls,
        authorities: Authorities::default(),
        http_proxy: Proxy::parse("http_proxy", &http_proxy)?,
        https_proxy: Proxy::parse("https_proxy", &https_proxy)?,
        credentials: credentials(id, key, token)?,
    };
    let passphrase =
        passphrase.map_err(|odd| Invalid::of_field("encryption_key", odd.to_string()))?;
    Ok((store, passphrase))
}

/// A volume as the answer to its creation shows it, in both dialects' fields.
pub fn volume_reply(volume: &VolumeInfo) -> lvmd::LogicalVolume {
    lvmd::LogicalVolume {
        name: volume.name.clone(),
        size_gb: gib_floor(volume.size_bytes),
        dev_major: volume.dev.0,
        dev_minor: volume.dev.1,
        tags: volume.tags.clone(),
        size_bytes: int64(volume.size_bytes),
        path: volume.path.clone(),
        attr: volume.attr.clone(),
    }
}

/// A volume as GetLVList shows it: one without tags has one tag, the empty one, for so does the
/// stock lvmd (it splits LVM's comma-separated list).
pub fn listed_volume(volume: &VolumeInfo) -> lvmd::LogicalVolume {
    let mut listed = volume_reply(volume);
    if listed.tags.is_empty() {
        listed.tags.push(String::new());
    }
    listed
}

/// The answer to a resize: the size that the volume has now.
pub fn resize_reply(size_bytes: u64) -> lvmd::ResizeLvResponse {
    lvmd::ResizeLvResponse {
        size_bytes: int64(size_bytes),
    }
}

/// No device has more than `i64::MAX` bytes: the kernel's own offsets end there.
fn int64(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn sized(size_gb: u64, size_bytes: i64) -> Result<(Dialect, VolumeSize), Invalid> {
    match (size_gb, size_bytes) {
        (0, 0) => Err(Invalid::of_field(
            "size_gb and size_bytes",
            "are both 0; one of them should be the volume's size",
        )),
        (gib, 0) => Ok((Dialect::Seed, VolumeSize::from_gib(gib)?)),
        (_, bytes) => Ok((Dialect::Current, size_of_bytes(bytes)?)),
    }
}

fn size_of_bytes(bytes: i64) -> Result<VolumeSize, Invalid> {
    match u64::try_from(bytes) {
        Ok(bytes) => VolumeSize::from_bytes(bytes),
        Err(_) => Err(Invalid::new(
            "size_bytes",
            bytes,
            "is negative; it should be over 0",
        )),
    }
}

fn tags(tags: &[String]) -> Result<Vec<Tag>, Invalid> {
    tags.iter().map(|tag| Tag::parse(tag)).collect()
}

fn writable(access_type: &str) -> Result<bool, Invalid> {
    match access_type {
        "ro" => Ok(false),
        "rw" => Ok(true),
        other => Err(Invalid::new(
            "access_type",
            other,
            "is unknown; it should be \"ro\" or \"rw\"",
        )),
    }
}

fn check_backup_name(name: &str) -> Result<(), Invalid> {
    let refuse = |reason: String| Err(Invalid::new("name", name, reason));
    if name.is_empty() {
        return refuse("is empty; a backup is asked for again by its name".into());
    }
    if name.len() > BACKUP_NAME_BYTES_MAX {
        return refuse(format!(
            "has {} bytes; a backup's name has at most {BACKUP_NAME_BYTES_MAX}",
            name.len()
        ));
    }
    Ok(())
}

/// Field 5 in the current dialect: TopoLVM's `lvcreate_option_class`; empty means none.
fn option_class(field_5: Bytes) -> Result<Option<String>, Invalid> {
    match String::from_utf8(field_5.into()) {
        // An encoded DataSource can be UTF-8, but not without control characters.
        Ok(class) if !class.contains(char::is_control) => {
            Ok(Some(class).filter(|class| !class.is_empty()))
        }
        _ => Err(Invalid::of_field(
            "lvcreate_option_class",
            "is not UTF-8 text; with size_bytes set, field 5 should be the name of an option \
             class (a request for a restore sets size_gb and data_source, not size_bytes)",
        )),
    }
}

/// Field 5 in the seed's dialect. It is never ignored: an empty volume in the place of a restored
/// one would be formatted.
fn seed_data_source(field_5: &[u8]) -> Result<DataSource, Invalid> {
    let message = lvmd::DataSource::decode(field_5).map_err(|_| not_a_data_source())?;
    // The names of some option classes happen to decode, to a message without known fields.
    if message.r#type.is_none() && is_text(field_5) {
        return Err(not_a_data_source());
    }
    data_source(message)
}

fn is_text(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(u8::is_ascii_graphic)
}

fn not_a_data_source() -> Invalid {
    Invalid::of_field(
        "data_source",
        "cannot be decoded; with size_gb alone it should be a DataSource message, but old TopoLVM \
         releases (before 0.25, without size_bytes) send the name of an lvcreate-option-class \
         there: upgrade TopoLVM, or use a storage class without an option class",
    )
}

fn data_source(message: lvmd::DataSource) -> Result<DataSource, Invalid> {
    let Some(data_source::Type::S3(s3)) = message.r#type else {
        return Err(Invalid::of_field(
            "data_source.s3",
            "is absent; a data source should say where in S3 its backup lies",
        ));
    };
    let within_s3 = |invalid: Invalid| invalid.within("data_source.s3");
    let backup = BackupPath::parse(&s3.path);
    let (store, encryption_key) = store(s3).map_err(within_s3)?;
    Ok(DataSource {
        synchronous: message.synchronous_restore,
        backup: backup.map_err(|invalid| within_s3(invalid.into()))?,
        store,
        encryption_key,
    })
}

fn credentials(
    id: Option<Secret>,
    key: Option<Secret>,
    session_token: Option<Secret>,
) -> Result<Credentials, Invalid> {
    let missing = |field, given| {
        Err(Invalid::of_field(
            field,
            format!(
                "is empty though {given} is set; static credentials take access_key_id and \
                 secret_access_key, with all three fields empty the default chain is asked"
            ),
        ))
    };
    match (id, key, session_token) {
        (Some(access_key_id), Some(secret_access_key), session_token) => Ok(Credentials::Static {
            access_key_id,
            secret_access_key,
            session_token,
        }),
        (None, None, None) => Ok(Credentials::Chain),
        (None, None, Some(_)) => missing("access_key_id", "session_token"),
        (Some(_), None, _) => missing("secret_access_key", "access_key_id"),
        (None, Some(_), _) => missing("access_key_id", "secret_access_key"),
    }
}

/// Takes the text itself, so that no copy of it stays behind.
fn secret(text: String) -> Option<Secret> {
    (!text.is_empty()).then(|| Secret::new(text))
}

#[cfg(test)]
mod tests;
