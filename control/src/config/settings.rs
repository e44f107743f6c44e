//! Checks the file's settings other than its device classes; errors are sentences.

use std::{
    collections::HashSet,
    env,
    ops::RangeInclusive,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use ringback_datapath::{ring::IoEngine, settings::CacheSettings, store::Authorities};

use super::{Config, DatapathSettings, MIB_SHIFT, OptionClass, S3Settings, classes, file};

const DEFAULT_SOCKET: &str = "/run/topolvm/lvmd.sock";

/// Copies of index segments, unless systemd (`CacheDirectory=`) or the file names another place.
const DEFAULT_CACHE: &str = "/var/cache/ringback";

/// `sun_path` has 108 bytes, one of them C's closing zero.
const SOCKET_BYTES_MAX: usize = 108 - 1;

/// Usual size of a chunk: what one read or write of the queue holds.
const CHUNK_KIB: u32 = 256;

/// One part is filled, one is sealed, one is on its way.
const PARTS_MIN: u32 = 3;

/// What the copies of segments take: 36 bytes per chunk, so that these tell of 7 TiB.
pub(crate) const CACHE_MIB: u32 = 1024;

pub(super) fn check(file: file::Config) -> Result<Config, String> {
    let mut warnings = script_warnings(
        &file.backup.unwrap_or_default(),
        &file.restore.unwrap_or_default(),
    );
    Ok(Config {
        socket_name: socket(file.socket_name)?,
        device_classes: classes::check(file.device_classes.unwrap_or_default(), &mut warnings)?,
        option_classes: option_classes(file.lvcreate_option_classes.unwrap_or_default())?,
        lvm_command_prefix: lvm_command_prefix(file.lvm_command_prefix.unwrap_or_default())?,
        s3: s3(file.s3.unwrap_or_default())?,
        datapath: datapath(&file.datapath.unwrap_or_default())?,
        warnings,
    })
}

fn script_warnings(backup: &file::BackupScripts, restore: &file::RestoreScript) -> Vec<String> {
    [
        ("backup.script-path", backup.script_path.is_some()),
        ("backup.workdir", backup.workdir.is_some()),
        ("restore.script-path", restore.script_path.is_some()),
    ]
    .into_iter()
    .filter(|(_, present)| *present)
    .map(|(key, _)| format!("{key} is not used: ringback needs no scripts; it can be removed"))
    .collect()
}

fn socket(name: Option<String>) -> Result<PathBuf, String> {
    let path = PathBuf::from(name.unwrap_or_else(|| DEFAULT_SOCKET.to_owned()));
    match path.as_os_str().as_bytes().len() {
        0 => Err("socket-name is empty; it should be a path, or absent".into()),
        1..=SOCKET_BYTES_MAX => Ok(path),
        bytes => Err(format!(
            "socket-name has {bytes} bytes; a socket's path has at most {SOCKET_BYTES_MAX}"
        )),
    }
}

fn option_classes(classes: Vec<file::OptionClass>) -> Result<Vec<OptionClass>, String> {
    let mut names = HashSet::new();
    let mut checked = Vec::with_capacity(classes.len());
    for (index, class) in classes.into_iter().enumerate() {
        let name = class.name.unwrap_or_default();
        if name.is_empty() {
            return Err(format!(
                "lvcreate-option-classes[{index}] has no name; give it one"
            ));
        }
        if !names.insert(name.clone()) {
            return Err(format!(
                "lvcreate-option-classes has {name:?} twice; names should be unique"
            ));
        }
        checked.push(OptionClass {
            name,
            options: class.options.unwrap_or_default(),
        });
    }
    Ok(checked)
}

fn lvm_command_prefix(prefix: Vec<String>) -> Result<Vec<String>, String> {
    match prefix.first() {
        Some(command) if command.is_empty() => Err(
            "lvm-command-prefix begins with an empty text; it should begin with a command".into(),
        ),
        _ => Ok(prefix),
    }
}

fn s3(settings: file::S3) -> Result<S3Settings, String> {
    let ca_file = settings.ca_file.filter(|path| !path.is_empty());
    let authorities = ca_file.map(|path| Authorities::read(Path::new(&path)));
    Ok(S3Settings {
        region: settings.region.filter(|region| !region.is_empty()),
        require_verify_tls: settings.require_verify_tls.unwrap_or_default().0,
        authorities: authorities
            .transpose()
            .map_err(|error| format!("s3.ca-file {error}"))?
            .unwrap_or_default(),
    })
}

fn datapath(file: &file::Datapath) -> Result<DatapathSettings, String> {
    let settings = DatapathSettings {
        memory_mib: number("memory-mib", file.memory_mib, 512, 32..=1 << 20)?,
        backups_max: number("backups-max", file.backups_max, 2, 1..=64)?,
        restores_max: number("restores-max", file.restores_max, 2, 1..=64)?,
        io_engine: match file.io_engine {
            None | Some(file::Engine::IoUring) => IoEngine::Uring,
            Some(file::Engine::Sync) => IoEngine::Sync,
        },
        direct_io: file.direct_io.is_none_or(|flag| flag.0),
        queue_depth: number("queue-depth", file.queue_depth, 32, 1..=1024)?,
        // S3 refuses parts under 5 MiB but for the last; each job holds several of them in memory.
        part_mib: number("part-mib", file.part_mib, 8, 5..=128)?,
        pack_mib: number("pack-mib", file.pack_mib, 128, 5..=4096)?,
        packs_min: number("packs-min", file.packs_min, 64, 1..=4096)?,
        parts_in_flight: number("parts-in-flight", file.parts_in_flight, 8, 1..=64)?,
        index_cache: index_cache(file)?,
    };
    check_together(&settings)?;
    Ok(settings)
}

fn index_cache(file: &file::Datapath) -> Result<Option<CacheSettings>, String> {
    let folder = match &file.cache_directory {
        Some(directory) if !Path::new(directory).is_absolute() => {
            return Err(format!(
                "datapath.cache-directory is {directory:?}; it should be an absolute path"
            ));
        }
        Some(directory) => directory.into(),
        None => usual_cache(),
    };
    let mib = number("cache-mib", file.cache_mib, CACHE_MIB, 0..=1 << 20)?;
    Ok((mib > 0).then(|| CacheSettings {
        folder,
        bytes_max: u64::from(mib) << MIB_SHIFT,
    }))
}

/// What systemd made for the daemon, else the usual place.
fn usual_cache() -> PathBuf {
    env::var_os("CACHE_DIRECTORY")
        .and_then(|folders| env::split_paths(&folders).next())
        .filter(|folder| folder.is_absolute())
        .unwrap_or_else(|| DEFAULT_CACHE.into())
}

impl Default for DatapathSettings {
    fn default() -> Self {
        datapath(&file::Datapath::default()).expect("the defaults go together")
    }
}

fn number(
    key: &str,
    value: Option<u64>,
    default: u32,
    range: RangeInclusive<u32>,
) -> Result<u32, String> {
    let Some(value) = value else {
        return Ok(default);
    };
    u32::try_from(value)
        .ok()
        .filter(|value| range.contains(value))
        .ok_or_else(|| {
            let (least, most) = range.into_inner();
            format!("datapath.{key} is {value}; it should be {least} to {most}")
        })
}

fn check_together(settings: &DatapathSettings) -> Result<(), String> {
    let DatapathSettings {
        memory_mib: memory,
        backups_max: backups,
        restores_max: restores,
        queue_depth: depth,
        part_mib: part,
        pack_mib: pack,
        ..
    } = settings;
    if pack < part {
        return Err(format!(
            "datapath.pack-mib is {pack} and part-mib {part}; a pack should hold at least one part"
        ));
    }
    let queue = (depth * CHUNK_KIB).div_ceil(1024);
    let per_job = PARTS_MIN * part + queue;
    let jobs = backups + restores;
    // A quarter is for indexes.
    let least = (per_job * jobs).div_ceil(3) * 4;
    if *memory < least {
        return Err(format!(
            "datapath.memory-mib is {memory}; it should be at least {least}, so that each of \
             {jobs} jobs (backups-max, restores-max) has room for {PARTS_MIN} parts of {part} MiB \
             (part-mib) and {depth} reads of {CHUNK_KIB} KiB (queue-depth)"
        ));
    }
    Ok(())
}
