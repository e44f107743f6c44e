//! Device classes and the volume groups behind them.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use tonic::Code;

use crate::{
    config::{Backing, Config, DeviceClass},
    failure::Failure,
    names::VolumeName,
    request::{ClassRef, VolumeHandle},
    volume::{self, Directory, FreeSpace, LayoutOptions, Volume, VolumeGroup},
};

/// The configured classes, each with its group.
pub struct Groups {
    classes: Vec<Class>,
    directories: Vec<Arc<Directory>>,
}

/// A device class and the group that its volumes live in.
#[derive(Clone)]
pub struct Class {
    /// As configured.
    pub config: Arc<DeviceClass>,
    /// Shared with the other classes of that group.
    pub group: Arc<dyn VolumeGroup>,
}

/// A volume and where it was found.
#[derive(Clone)]
pub struct Located {
    /// Name of its group.
    pub group_name: String,
    /// Its group.
    pub group: Arc<dyn VolumeGroup>,
    /// What it is.
    pub volume: Volume,
}

impl Groups {
    /// Opens every configured group.
    pub async fn open(config: &Config) -> Result<Self, Failure> {
        let mut opened: HashMap<PathBuf, Arc<Directory>> = HashMap::new();
        let mut classes = Vec::new();
        for class in &config.device_classes {
            let Backing::Directory { directory, attach } = &class.backing else {
                return Err(Failure::new(
                    Code::Unimplemented,
                    format!(
                        "device class {:?} uses the LVM volume group {:?}; this version of \
                         ringback serves classes with `directory: PATH` only",
                        class.name, class.volume_group
                    ),
                ));
            };
            let group = match opened.get(directory) {
                Some(group) => Arc::clone(group),
                None => {
                    let group = Arc::new(Directory::open(directory, *attach).await?);
                    opened.insert(directory.clone(), Arc::clone(&group));
                    group
                }
            };
            classes.push(Class {
                config: Arc::new(class.clone()),
                group,
            });
        }
        Ok(Self {
            classes,
            directories: opened.into_values().collect(),
        })
    }

    /// The class that a request names.
    pub fn class(&self, class: &ClassRef) -> Result<&Class, Failure> {
        let found = match class {
            ClassRef::Default => self.classes.iter().find(|it| it.config.default),
            ClassRef::Named(name) => self.classes.iter().find(|it| it.config.name == *name),
        };
        found.ok_or_else(|| {
            let names: Vec<&str> = self.classes.iter().map(|it| &it.config.name[..]).collect();
            let wanted = match class {
                ClassRef::Default => "a default device class".to_owned(),
                ClassRef::Named(name) => format!("device_class {name:?}"),
            };
            Failure::new(
                Code::NotFound,
                format!(
                    "{wanted} is not configured; there are: {}",
                    names.join(", ")
                ),
            )
        })
    }

    /// All classes, in the order configured.
    pub fn classes(&self) -> &[Class] {
        &self.classes
    }

    /// The volume that a handle names: in the group that it names, or in whichever has it.
    ///
    /// Several groups that have it are an error; none is `None`.
    pub async fn find(&self, handle: &VolumeHandle) -> Result<Option<Located>, Failure> {
        let mut found: Vec<Located> = Vec::new();
        for class in &self.classes {
            let group_name = &class.config.volume_group;
            let other = handle
                .group
                .as_ref()
                .is_some_and(|wanted| wanted != group_name);
            if other || found.iter().any(|it| it.group_name == *group_name) {
                continue;
            }
            if let Some(volume) = class.group.get(&handle.volume).await? {
                found.push(Located {
                    group_name: group_name.clone(),
                    group: Arc::clone(&class.group),
                    volume,
                });
            }
        }
        if found.len() > 1 {
            let groups: Vec<&str> = found.iter().map(|it| &it.group_name[..]).collect();
            return Err(Failure::new(
                Code::InvalidArgument,
                format!(
                    "backup.volume_handle {:?} is in several volume groups ({}); it should be \
                     group/volume",
                    handle.as_str(),
                    groups.join(", ")
                ),
            ));
        }
        Ok(found.pop())
    }

    /// Gives the block devices of Directory groups up, for those who leave nothing behind.
    pub async fn detach_all(&self) -> Result<(), volume::Error> {
        for directory in &self.directories {
            directory.detach_all().await?;
        }
        Ok(())
    }
}

impl Class {
    /// Checks that the name fits this class's group, device-mapper name included.
    pub fn check_name(&self, name: &VolumeName) -> Result<(), Failure> {
        name.fits(&self.config.volume_group).map_err(Into::into)
    }

    /// How volumes of this class are laid out.
    pub fn layout(
        &self,
        config: &Config,
        option_class: Option<&str>,
    ) -> Result<LayoutOptions, Failure> {
        let Some(name) = option_class else {
            return Ok(match &self.config.backing {
                Backing::Thick(options) | Backing::Thin { options, .. } => LayoutOptions {
                    stripes: options.stripe,
                    stripe_size: options.stripe_size.clone(),
                    lvcreate_options: options.arguments.clone(),
                },
                Backing::Directory { .. } => LayoutOptions::default(),
            });
        };
        let class = config.option_class(name).ok_or_else(|| {
            let classes = &config.option_classes;
            let names: Vec<&str> = classes.iter().map(|class| &class.name[..]).collect();
            let there_are = match names.join(", ") {
                none if none.is_empty() => "none".to_owned(),
                names => names,
            };
            let unknown = "is not configured (lvcreate-option-classes); there are:";
            Failure::new(
                Code::Internal,
                format!("lvcreate_option_class {name:?} {unknown} {there_are}"),
            )
        })?;
        Ok(LayoutOptions {
            lvcreate_options: class.options.clone(),
            ..LayoutOptions::default()
        })
    }

    /// The group's room, this class's spare subtracted from what is free.
    pub async fn free(&self) -> Result<FreeSpace, Failure> {
        let free = self.group.free().await?;
        Ok(FreeSpace {
            free_bytes: free.free_bytes.saturating_sub(self.config.spare_bytes),
            ..free
        })
    }
}
