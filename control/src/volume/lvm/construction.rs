//! Volumes while they are being made, and the step that publishes them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use ringback_datapath::restore::Ground;

use super::{
    Lvm, Pending, Provision,
    command::Call,
    complaint,
    group::{Group, Reservation},
    node,
    ours::{KEPT_INACTIVE, Purpose},
    pressure::{LeftPart, Pressure},
    report::Report,
};
use crate::{
    names::{Tag, VolumeName},
    volume::{Error, LayoutOptions, NewSnapshot, NewVolume, Volume},
};

/// A volume under a name of ours. While it exists, the name that it will take is reserved;
/// dropped unpublished, it goes.
#[derive(Debug)]
pub(super) struct Construction {
    /// `None` once somebody else answers for what becomes of the volume.
    reservation: Option<Reservation>,
    purpose: Purpose,
    temporary: String,
    node: PathBuf,
    size_bytes: u64,
}

/// Makes a volume under its name, in one transaction of LVM. To be called in turn.
pub(super) async fn create(lvm: &Lvm, new: &NewVolume) -> Result<Volume, Error> {
    let report = lvm.group.report().await?;
    let _reservation = lvm.group.reserve(&report, &new.name)?;
    let size_bytes = granted_bytes(lvm, &report, new.size_bytes, &new.layout);
    lvm.require_free(&report, size_bytes)?;
    // Signatures of what had these extents before are wiped: whoever mounts the volume would take
    // them for its filesystem.
    let call =
        lvcreate(lvm, new.name.as_str(), size_bytes, &new.tags).options(["--wipesignatures", "y"]);
    let call = laid_out(lvm, call, &new.layout).name(lvm.group.name());
    lvm.group.makes_one();
    let created = lvm.group.change(&call).await;
    created.map_err(complaint::about(&new.name, report.extent_bytes))?;
    lvm.group.published(&new.name).await
}

/// Makes a volume to restore to. To be called in turn.
pub(super) async fn begin_restore(lvm: &Lvm, new: &NewVolume) -> Result<Pending, Error> {
    let report = lvm.group.report().await?;
    let construction = Construction::reserve(lvm, &report, &new.name, Purpose::Restore)?;
    let size_bytes = granted_bytes(lvm, &report, new.size_bytes, &new.layout);
    lvm.require_free(&report, size_bytes)?;
    // Nothing is wiped or zeroed here: all of it will be written, or zeroed, by the restore.
    let call = lvcreate(lvm, &construction.temporary, size_bytes, &new.tags).options([
        "--wipesignatures",
        "n",
        "--addtag",
        Purpose::Restore.tag(),
    ]);
    let call = call.options(KEPT_INACTIVE);
    let call = match &*lvm.provision {
        Provision::Thick { .. } if !new.layout.says(["-Z", "--zero"]) => {
            call.options(["--zero", "n"])
        }
        _ => call,
    };
    let pressure = match &*lvm.provision {
        Provision::Thick { .. } => None,
        Provision::Thin { pool, .. } => {
            Some(Pressure::of(&lvm.group, pool, LeftPart::BY_RESTORE).await)
        }
    };
    let call = laid_out(lvm, call, &new.layout).name(lvm.group.name());
    let construction = construction.make(&call, report.extent_bytes).await?;
    Ok(Pending {
        ground: ground(lvm, &construction).await?,
        construction,
        pressure,
    })
}

/// Makes a snapshot that is a volume of its own. To be called in turn.
pub(super) async fn snapshot(lvm: &Lvm, new: &NewSnapshot) -> Result<Volume, Error> {
    let report = lvm.group.report().await?;
    let source = lvm.find(&report, &new.source)?;
    let size_bytes = report.whole_extents(new.size_bytes.unwrap_or(source.size_bytes));
    if size_bytes < source.size_bytes {
        return Err(Error::TooSmall {
            name: new.source.clone(),
            size_bytes: source.size_bytes,
        });
    }
    let construction = Construction::reserve(lvm, &report, &new.name, Purpose::Snapshot)?;
    lvm.require_free(&report, size_bytes)?;
    let permission = if new.writable { "rw" } else { "r" };
    let call = Call::new("lvcreate")
        .options(["--yes", "--snapshot", "--permission", permission])
        .options(KEPT_INACTIVE)
        .options(["--name", &construction.temporary])
        .options(["--addtag", Purpose::Snapshot.tag()])
        .options(tag_options(&new.tags))
        .name(lvm.group.full_name(new.source.as_str()));
    let source_bytes = source.size_bytes;
    lvm.group.makes_one();
    let construction = construction.make(&call, report.extent_bytes).await?;
    if size_bytes > source_bytes {
        let grown = lvm.group.extend(&construction.temporary, size_bytes).await;
        if let Err(trouble) = grown {
            let error = complaint::about(&new.name, report.extent_bytes)(trouble);
            return Err(construction.given_up(error).await);
        }
    }
    construction.publish().await
}

/// `lvcreate` of a volume that has nobody's content.
fn lvcreate(lvm: &Lvm, name: &str, size_bytes: u64, tags: &[Tag]) -> Call {
    let size = format!("{size_bytes}b");
    let call = Call::new("lvcreate").options(["--yes", "--name", name]);
    let call = match &*lvm.provision {
        Provision::Thick { .. } => call.options(["--size", &size]),
        Provision::Thin { pool, .. } => call.options(["--virtualsize", &size, "--thinpool", pool]),
    };
    call.options(tag_options(tags))
}

fn tag_options(tags: &[Tag]) -> impl Iterator<Item = &str> {
    tags.iter().flat_map(|tag| ["--addtag", tag.as_str()])
}

/// Stripes are a matter of the pool where there is one; LVM refuses them then.
fn laid_out(lvm: &Lvm, call: Call, layout: &LayoutOptions) -> Call {
    let call = call.options(layout.lvcreate_options.iter().map(String::as_str));
    if matches!(&*lvm.provision, Provision::Thin { .. }) {
        return call;
    }
    let call = match &layout.stripes {
        Some(stripes) => call.options(["--stripes", &stripes.to_string()]),
        None => call,
    };
    match &layout.stripe_size {
        Some(size) if layout.stripes.is_some() => call.options(["--stripesize", size]),
        _ => call,
    }
}

/// What LVM makes of a size: whole extents, on each stripe as many as on the others.
pub(super) fn granted_bytes(
    lvm: &Lvm,
    report: &Report,
    size_bytes: u64,
    layout: &LayoutOptions,
) -> u64 {
    let stripes = match &*lvm.provision {
        Provision::Thick { .. } => layout.stripes().max(1),
        Provision::Thin { .. } => 1,
    };
    report.whole_stripes(size_bytes, stripes)
}

/// What a volume that was just made holds.
async fn ground(lvm: &Lvm, made: &Construction) -> Result<Ground, Error> {
    let Provision::Thin { pool, .. } = &*lvm.provision else {
        return Ok(Ground::Stale);
    };
    let report = lvm.group.report().await?;
    match report.find(&made.temporary) {
        Some(row) if row.zeroes_blocks() => Ok(Ground::Zeros),
        _ => match lvm.group.pool_block_bytes(pool).await? {
            0 => Ok(Ground::Stale),
            bytes => Ok(Ground::StaleBlocks(bytes)),
        },
    }
}

impl Construction {
    /// Takes the name, which nothing has yet.
    fn reserve(
        lvm: &Lvm,
        report: &Report,
        name: &VolumeName,
        purpose: Purpose,
    ) -> Result<Construction, Error> {
        Ok(Construction {
            reservation: Some(lvm.group.reserve(report, name)?),
            purpose,
            temporary: purpose.random_name()?,
            node: PathBuf::new(),
            size_bytes: 0,
        })
    }

    /// Makes the volume and waits for its device. A failure leaves nothing of it.
    async fn make(mut self, call: &Call, extent_bytes: u64) -> Result<Construction, Error> {
        match self.try_make(call, extent_bytes).await {
            Ok((node, size_bytes)) => {
                self.node = node;
                self.size_bytes = size_bytes;
                Ok(self)
            }
            Err(error) => Err(self.given_up(error).await),
        }
    }

    async fn try_make(&self, call: &Call, extent_bytes: u64) -> Result<(PathBuf, u64), Error> {
        let made = self.group().change(call).await;
        made.map_err(complaint::about(self.name(), extent_bytes))?;
        let report = self.group().report().await?;
        let row = report.find(&self.temporary);
        let row = row.ok_or_else(|| Error::NotFound(self.name().clone()))?;
        Ok((node::of(row).await?, row.size_bytes))
    }

    /// Removes what there may be of it, because of this error.
    async fn given_up(self, error: Error) -> Error {
        let temporary = self.temporary.clone();
        if let Err(left) = self.discard().await {
            tracing::warn!(volume = temporary, "removing it is tried again: {left}");
        }
        error
    }

    pub(super) fn node(&self) -> &Path {
        &self.node
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub(super) fn group(&self) -> &Arc<Group> {
        self.reservation().group()
    }

    pub(super) fn name(&self) -> &VolumeName {
        self.reservation().name()
    }

    fn reservation(&self) -> &Reservation {
        let reservation = self.reservation.as_ref();
        reservation.expect("it is given up by those that consume the construction")
    }

    /// Gives the volume its name: from the rename on it is there, for good. To be called in turn.
    pub(super) async fn publish(mut self) -> Result<Volume, Error> {
        let (group, name) = (Arc::clone(self.group()), self.name().clone());
        group.look_first().await;
        let rename = Call::new("lvrename")
            .name(group.name())
            .name(&self.temporary)
            .name(name.as_str());
        if let Err(trouble) = group.change(&rename).await {
            let error = complaint::about(&name, 1)(trouble);
            return Err(self.given_up(error).await);
        }
        self.reservation = None;
        if let Err(trouble) = group.unmark(name.as_str(), self.purpose).await {
            let error = Error::from(trouble);
            tracing::warn!(volume = %name, "its tag is left for the next start: {error}");
        }
        group.published(&name).await
    }

    /// Removes it and waits for its room. To be called in turn.
    pub(super) async fn discard(mut self) -> Result<(), Error> {
        let group = Arc::clone(self.group());
        let reservation = self.reservation.take();
        let removed = group.remove_own(&self.temporary).await;
        drop(reservation);
        removed
    }
}

impl Drop for Construction {
    fn drop(&mut self) {
        let Some(reservation) = self.reservation.take() else {
            return;
        };
        let temporary = std::mem::take(&mut self.temporary);
        let group = Arc::clone(reservation.group());
        group.in_turn_aside(|group| async move {
            if let Err(error) = group.remove_own(&temporary).await {
                tracing::warn!(volume = temporary, "removing it is tried again: {error}");
            }
            drop(reservation);
        });
    }
}
