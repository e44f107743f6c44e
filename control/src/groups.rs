//! Device classes and the volume groups behind them.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use futures::future::join_all;
use tonic::Code;

use crate::{
    config::{Backing, Config, DeviceClass},
    failure::Failure,
    names::VolumeName,
    request::{ClassRef, VolumeHandle},
    volume::{
        self, Changes, Directory, FreeSpace, LayoutOptions, Soon, Volume, VolumeGroup,
        lvm::{self, Lvm, Provision},
    },
};

/// The configured classes, each with its group.
pub struct Groups {
    classes: Vec<Class>,
    directories: Vec<Arc<Directory>>,
    volume_groups: Vec<Arc<lvm::Group>>,
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
    /// Opens every configured group. `changes` are told of what groups do by themselves.
    pub async fn open(config: &Config, changes: &Changes) -> Result<Self, Failure> {
        let mut opened = Opened {
            changes: changes.clone(),
            ..Opened::default()
        };
        let mut classes = Vec::new();
        for class in &config.device_classes {
            classes.push(Class {
                config: Arc::new(class.clone()),
                group: opened.group_of(class, &config.lvm_command_prefix).await?,
            });
        }
        Ok(Self {
            classes,
            directories: opened.directories.into_values().collect(),
            volume_groups: opened.volume_groups.into_values().collect(),
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
    /// Several groups that have it are an error; none is `None`. A group that cannot be asked matters
    /// only when no other one has it.
    pub async fn find(&self, handle: &VolumeHandle) -> Result<Option<Located>, Failure> {
        let mut found: Vec<Located> = Vec::new();
        let mut unknown = Vec::new();
        let mut failed = None;
        for class in &self.classes {
            let group_name = &class.config.volume_group;
            let other = handle
                .group
                .as_ref()
                .is_some_and(|wanted| wanted != group_name);
            if other || found.iter().any(|it| it.group_name == *group_name) {
                continue;
            }
            match class.group.get_soon(&handle.volume).await {
                Ok(Soon::Found(volume)) => found.push(class.located(volume)),
                Ok(Soon::Absent) => {}
                Ok(Soon::Unknown) => unknown.push(class),
                Err(error) => failed = Some(error),
            }
        }
        // A group in the midst of a change is waited for only when no other one has it, either.
        for class in unknown {
            if !found.is_empty() {
                break;
            }
            match class.group.get(&handle.volume).await {
                Ok(volume) => found.extend(volume.map(|it| class.located(it))),
                Err(error) => failed = Some(error),
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
        match (found.pop(), failed) {
            (None, Some(error)) => Err(Failure::new(
                Code::Unavailable,
                format!(
                    "whether there is a volume {:?} is not known: {error}",
                    handle.as_str()
                ),
            )),
            (found, _) => Ok(found),
        }
    }

    /// Waits until nothing is done to the volume groups any more, also what nobody else waits for.
    pub async fn at_rest(&self) {
        join_all(self.volume_groups.iter().map(|group| group.at_rest())).await;
    }

    /// Gives the block devices of Directory groups up, for those who leave nothing behind.
    pub async fn detach_all(&self) -> Result<(), volume::Error> {
        for directory in &self.directories {
            directory.detach_all().await?;
        }
        Ok(())
    }
}

/// Groups that are open already: classes share them.
#[derive(Default)]
struct Opened {
    changes: Changes,
    directories: HashMap<PathBuf, Arc<Directory>>,
    volume_groups: HashMap<String, Arc<lvm::Group>>,
}

impl Opened {
    async fn group_of(
        &mut self,
        class: &DeviceClass,
        lvm_prefix: &[String],
    ) -> Result<Arc<dyn VolumeGroup>, volume::Error> {
        let provision = match &class.backing {
            Backing::Directory { directory, attach } => {
                if let Some(group) = self.directories.get(directory) {
                    return Ok(Arc::clone(group) as _);
                }
                let group = Arc::new(Directory::open(directory, *attach, &self.changes).await?);
                let path = directory.clone();
                self.directories.insert(path, Arc::clone(&group));
                return Ok(group);
            }
            Backing::Thick {
                snapshot_percent, ..
            } => Provision::Thick {
                snapshot_percent: *snapshot_percent,
            },
            Backing::Thin {
                pool,
                overprovision_ratio,
                ..
            } => Provision::Thin {
                pool: pool.clone(),
                overprovision_ratio: *overprovision_ratio,
            },
        };
        let name = &class.volume_group;
        let group = match self.volume_groups.get(name) {
            Some(group) => Arc::clone(group),
            None => {
                let group = lvm::Group::open(name, lvm_prefix, &self.changes).await?;
                self.volume_groups.insert(name.clone(), Arc::clone(&group));
                group
            }
        };
        Ok(Arc::new(Lvm::of(&group, provision).await?))
    }
}

impl Class {
    fn located(&self, volume: Volume) -> Located {
        Located {
            group_name: self.config.volume_group.clone(),
            group: Arc::clone(&self.group),
            volume,
        }
    }

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
                Backing::Thick { options, .. } | Backing::Thin { options, .. } => LayoutOptions {
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

    /// What is free of the group's room when this class's spare is subtracted.
    pub fn free_bytes(&self, free: &FreeSpace) -> u64 {
        without_spare(free, self.config.spare_bytes)
    }
}

/// The spare is there for snapshots: what ours take is taken from it first, so that a backup does
/// not change what is free as long as the spare is enough for it.
fn without_spare(free: &FreeSpace, spare_bytes: u64) -> u64 {
    let without_snapshots = free.free_bytes.saturating_add(free.snapshots_bytes);
    let spared = without_snapshots.saturating_sub(spare_bytes);
    spared.min(free.free_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::NewVolume;

    #[tokio::test]
    async fn a_group_that_cannot_be_asked_matters_only_when_no_other_one_has_the_volume() {
        let folder = tempfile::tempdir().expect("a folder");
        let class = |name: &str| {
            let place = folder.path().join(name).display().to_string();
            format!(
                "- {{ name: {name}, directory: {place}, attach: never, spare-gb: 0, default: {} }}\n",
                name == "odd"
            )
        };
        let text = format!("device-classes:\n{}{}", class("odd"), class("even"));
        let config = Config::parse(&text).expect("a configuration");
        let groups = Groups::open(&config, &Changes::default())
            .await
            .expect("opens");
        let name = VolumeName::parse("data").expect("a name");
        for class in groups.classes() {
            let new = NewVolume {
                name: name.clone(),
                size_bytes: 4096,
                tags: Vec::new(),
                layout: LayoutOptions::default(),
            };
            class.group.create(new).await.expect("creates");
        }
        let record = folder.path().join("odd/volumes/data/volume.json");
        std::fs::write(record, "{").expect("damages it");

        let handle = VolumeHandle::parse("data").expect("a handle");
        let found = groups.find(&handle).await.expect("it is known");
        assert_eq!(found.expect("there").group_name, "even");
        let even = &groups.classes()[1].group;
        even.remove(&name).await.expect("removes");
        let failure = groups.find(&handle).await.err().expect("it is not known");
        assert_eq!(failure.code, Code::Unavailable);
        assert!(
            failure
                .message
                .starts_with("whether there is a volume \"data\" is not known: "),
            "{failure}"
        );
    }

    #[test]
    fn snapshots_of_ours_are_taken_from_the_spare_first() {
        let free = |free_bytes, snapshots_bytes| FreeSpace {
            free_bytes,
            size_bytes: 1000,
            snapshots_bytes,
            pool: None,
        };
        assert_eq!(without_spare(&free(500, 0), 100), 400);
        assert_eq!(without_spare(&free(440, 60), 100), 400);
        assert_eq!(without_spare(&free(350, 150), 100), 350);
        assert_eq!(without_spare(&free(350, 150), 0), 350);
        assert_eq!(without_spare(&free(50, 0), 100), 0);
    }
}
