//! Checks the device classes, each by itself and all together; errors are sentences.

use std::path::{Component, PathBuf};

use super::{Backing, DeviceClass, LvcreateOptions, file};
use crate::{names::check_lvm_name, volume::Attach};

const SPARE_GIB: u64 = 10;

/// The most GiB whose bytes fit into 64 bits.
const SPARE_GIB_MAX: u64 = u64::MAX >> 30;

/// A fifth of a volume is seldom overwritten while it is backed up.
const SNAPSHOT_PERCENT: u32 = 20;

/// Class names become parts of Kubernetes' annotation keys, which have at most so many bytes.
const NAME_BYTES_MAX: usize = 63;

/// Checks all classes; what they say in vain becomes a warning.
pub(super) fn check(
    classes: Vec<file::DeviceClass>,
    warnings: &mut Vec<String>,
) -> Result<Vec<DeviceClass>, String> {
    if classes.is_empty() {
        return Err("device-classes is empty; there should be at least one class".into());
    }
    let mut checked = Vec::with_capacity(classes.len());
    for (index, class) in classes.into_iter().enumerate() {
        let name = class_name(index, class.name.as_deref())?;
        if class.thin_pool.is_some() && class.r#type != Some(file::Type::Thin) {
            warnings.push(format!(
                "thin-pool of the device class {name:?} is not used: its type is not thin"
            ));
        }
        if class.stripe.is_some_and(|stripe| stripe != 0) && class.r#type == Some(file::Type::Thin)
        {
            warnings.push(format!(
                "stripe of the device class {name:?} is not used: its type is thin, and volumes \
                 lie as their pool does"
            ));
        }
        let class = device_class(&name, class)
            .map_err(|reason| format!("device class {name:?} {reason}"))?;
        checked.push(class);
    }
    check_names(&checked)?;
    check_default(&checked)?;
    check_groups(&checked)?;
    Ok(checked)
}

fn class_name(index: usize, name: Option<&str>) -> Result<String, String> {
    let name = name.unwrap_or_default();
    if name.is_empty() {
        return Err(format!("device-classes[{index}] has no name; give it one"));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let at_the_ends = |c: char| c.is_ascii_alphanumeric();
    if name.len() <= NAME_BYTES_MAX
        && name.chars().all(allowed)
        && name.starts_with(at_the_ends)
        && name.ends_with(at_the_ends)
    {
        return Ok(name.to_owned());
    }
    Err(format!(
        "device-classes[{index}].name is {name:?}; it should be at most {NAME_BYTES_MAX} letters, \
         digits, '-', '_' and '.', a letter or digit first and last"
    ))
}

/// A predicate of the class is the error.
fn device_class(name: &str, class: file::DeviceClass) -> Result<DeviceClass, String> {
    let spare_gib = class.spare_gb.unwrap_or(SPARE_GIB);
    if spare_gib > SPARE_GIB_MAX {
        return Err(format!(
            "has the spare-gb {spare_gib}; at most {SPARE_GIB_MAX} GiB fit"
        ));
    }
    Ok(DeviceClass {
        name: name.to_owned(),
        volume_group: volume_group(name, &class)?,
        default: class.default.unwrap_or_default().0,
        spare_bytes: spare_gib << 30,
        backing: backing(class)?,
    })
}

fn volume_group(name: &str, class: &file::DeviceClass) -> Result<String, String> {
    let group = match class.volume_group.as_deref() {
        None | Some("") if class.directory.is_some() => name,
        None | Some("") => {
            return Err("has no volume-group; give it one, or a directory for image files".into());
        }
        Some(group) => group,
    };
    check_lvm_name(group)
        .map_err(|reason| format!("has a volume-group, {group:?}, that {reason}"))?;
    Ok(group.to_owned())
}

fn backing(class: file::DeviceClass) -> Result<Backing, String> {
    if class.directory.is_some() {
        return directory(class);
    }
    if class.attach.is_some() {
        return Err("has attach but no directory; only image files are attached".into());
    }
    let options = LvcreateOptions {
        stripe: class.stripe.filter(|&stripe| stripe != 0),
        stripe_size: stripe_size(class.stripe_size)?,
        arguments: class.lvcreate_options.unwrap_or_default(),
    };
    match class.r#type {
        None | Some(file::Type::Thick) => Ok(Backing::Thick {
            options,
            snapshot_percent: snapshot_percent(class.snapshot_percent)?,
        }),
        Some(file::Type::Thin) if class.snapshot_percent.is_some() => Err(
            "has the type thin and snapshot-percent; snapshots of thin volumes take blocks of \
             their pool as they need them: leave snapshot-percent out"
                .into(),
        ),
        Some(file::Type::Thin) => thin(class.thin_pool, options),
    }
}

fn snapshot_percent(percent: Option<u64>) -> Result<u32, String> {
    match percent {
        None => Ok(SNAPSHOT_PERCENT),
        Some(percent @ 1..=100) => Ok(u32::try_from(percent).expect("at most 100")),
        Some(percent) => Err(format!(
            "has the snapshot-percent {percent}; it should be 1 to 100 percent of the volume"
        )),
    }
}

fn directory(class: file::DeviceClass) -> Result<Backing, String> {
    if class.r#type == Some(file::Type::Thin) {
        return Err(
            "has a directory and the type thin; image files are sparse, but thin pools of them \
             are not there yet: leave the type out"
                .into(),
        );
    }
    for (key, present) in [
        ("stripe", class.stripe.is_some_and(|stripe| stripe != 0)),
        (
            "stripe-size",
            class.stripe_size.is_some_and(|size| !size.is_empty()),
        ),
        (
            "lvcreate-options",
            class.lvcreate_options.is_some_and(|all| !all.is_empty()),
        ),
        ("snapshot-percent", class.snapshot_percent.is_some()),
    ] {
        if present {
            return Err(format!(
                "has a directory and {key}; image files are not made by lvcreate: leave {key} out"
            ));
        }
    }
    let directory = PathBuf::from(class.directory.unwrap_or_default());
    let climbs = directory
        .components()
        .any(|part| part == Component::ParentDir);
    if !directory.is_absolute() || climbs {
        return Err(format!(
            "has the directory {directory:?}; it should be an absolute path without \"..\""
        ));
    }
    Ok(Backing::Directory {
        directory,
        attach: match class.attach {
            None | Some(file::Attach::Auto) => Attach::Auto,
            Some(file::Attach::Never) => Attach::Never,
        },
    })
}

fn thin(pool: Option<file::ThinPool>, options: LvcreateOptions) -> Result<Backing, String> {
    let Some(pool) = pool else {
        return Err("has the type thin but no thin-pool; give it one".into());
    };
    let name = pool.name.unwrap_or_default();
    check_lvm_name(&name).map_err(|reason| format!("has a thin-pool.name that {reason}"))?;
    let ratio = pool
        .overprovision_ratio
        .ok_or("has no thin-pool.overprovision-ratio; it should be a number, 1.0 or more")?;
    if !ratio.is_finite() || ratio < 1.0 {
        return Err(format!(
            "has the thin-pool.overprovision-ratio {ratio}; it should be 1.0 or more"
        ));
    }
    Ok(Backing::Thin {
        pool: name,
        overprovision_ratio: ratio,
        options,
    })
}

/// A number and, perhaps, one of LVM's units.
fn stripe_size(size: Option<String>) -> Result<Option<String>, String> {
    let Some(size) = size.filter(|size| !size.is_empty()) else {
        return Ok(None);
    };
    let number = size
        .strip_suffix(|c: char| "kmgtpebsKMGTPEBS".contains(c))
        .unwrap_or(&size);
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!(
            "has the stripe-size {size:?}; it should be a number and a unit, as in \"64k\""
        ));
    }
    Ok(Some(size))
}

fn check_names(classes: &[DeviceClass]) -> Result<(), String> {
    for (index, class) in classes.iter().enumerate() {
        if classes[..index]
            .iter()
            .any(|other| other.name == class.name)
        {
            return Err(format!(
                "device-classes has {:?} twice; names should be unique",
                class.name
            ));
        }
    }
    Ok(())
}

fn check_default(classes: &[DeviceClass]) -> Result<(), String> {
    let defaults: Vec<&str> = classes
        .iter()
        .filter(|class| class.default)
        .map(|class| class.name.as_str())
        .collect();
    match defaults[..] {
        [_] => Ok(()),
        [] => Err("no device class is the default; exactly one should have default: true".into()),
        _ => Err(format!(
            "the device classes {} are all the default; exactly one should have default: true",
            defaults.join(", ")
        )),
    }
}

/// Two classes never count the same room as their own, and a group's name means one place.
fn check_groups(classes: &[DeviceClass]) -> Result<(), String> {
    for (index, class) in classes.iter().enumerate() {
        for other in &classes[..index] {
            if let Some(reason) = clash(other, class) {
                return Err(format!(
                    "device classes {:?} and {:?} {reason}",
                    other.name, class.name
                ));
            }
        }
    }
    Ok(())
}

/// Why the two cannot both be; a predicate of them.
fn clash(one: &DeviceClass, other: &DeviceClass) -> Option<String> {
    let same_group = one.volume_group == other.volume_group;
    let group = &one.volume_group;
    match (&one.backing, &other.backing) {
        (
            Backing::Directory {
                directory: a,
                attach,
            },
            Backing::Directory {
                directory: b,
                attach: other_attach,
            },
        ) => match (a == b, same_group) {
            (true, false) => Some(format!(
                "share the directory {a:?} but not the volume-group; it should be the same"
            )),
            (false, true) => Some(format!(
                "share the volume-group {group:?} but not the directory; it should be the same"
            )),
            (true, true) if attach != other_attach => Some(format!(
                "share the directory {a:?} but differ in attach; it should be the same"
            )),
            _ => None,
        },
        (Backing::Directory { .. }, _) | (_, Backing::Directory { .. }) => same_group.then(|| {
            format!(
                "share the volume-group {group:?}, but only one has a directory; name one of the \
                 groups differently"
            )
        }),
        (Backing::Thick { .. }, Backing::Thick { .. }) => same_group.then(|| {
            format!("share the volume-group {group:?}; thick classes should have one each")
        }),
        (Backing::Thin { pool: a, .. }, Backing::Thin { pool: b, .. }) => (same_group && a == b)
            .then(|| {
                format!("share the thin pool \"{group}/{a}\"; thin classes should have one each")
            }),
        _ => None,
    }
}
