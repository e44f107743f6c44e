//! `ringback lv`: volumes.

use clap::Subcommand;
use ringback_proto::lvmd::{
    CreateLvRequest, CreateLvSnapshotRequest, Empty, GetFreeBytesRequest, GetLvListRequest,
    LogicalVolume, RemoveLvRequest, ResizeLvRequest, WatchItem, WatchResponse,
};
use serde_json::{Value, json};

use super::{Client, Context, exit::CliError, output};
use crate::jobs::Bytes;

/// Manage logical volumes.
#[derive(Subcommand)]
pub(crate) enum Lv {
    /// Make an empty volume.
    Create {
        /// Its name.
        name: String,
        /// Its size, such as 10GiB.
        #[arg(long, short, value_parser = parse_size)]
        size: i64,
        /// Tags to put on it.
        #[arg(long = "tag", value_name = "TAG")]
        tags: Vec<String>,
        /// Device class; without it the default one.
        #[arg(long, default_value = "", hide_default_value = true)]
        class: String,
    },
    /// Remove a volume.
    Remove {
        /// Its name.
        name: String,
        /// Device class; without it the default one.
        #[arg(long, default_value = "", hide_default_value = true)]
        class: String,
    },
    /// Grow a volume.
    Resize {
        /// Its name.
        name: String,
        /// Its new size, such as 20GiB.
        #[arg(long, short, value_parser = parse_size)]
        size: i64,
        /// Device class; without it the default one.
        #[arg(long, default_value = "", hide_default_value = true)]
        class: String,
    },
    /// Make a snapshot that is a volume of its own.
    Snapshot {
        /// The volume to take it of.
        source: String,
        /// The snapshot's name.
        name: String,
        /// Make it read-only.
        #[arg(long)]
        read_only: bool,
        /// Device class; without it the default one.
        #[arg(long, default_value = "", hide_default_value = true)]
        class: String,
    },
    /// List the volumes of a device class.
    List {
        /// Device class; without it the default one.
        #[arg(long, default_value = "", hide_default_value = true)]
        class: String,
    },
    /// Show the free bytes of a device class.
    Free {
        /// Device class; without it the default one.
        #[arg(long, default_value = "", hide_default_value = true)]
        class: String,
    },
    /// Show the free bytes of all device classes, again after every change.
    Watch,
}

impl Lv {
    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        let mut client = Client::connect(&context.socket).await?;
        match self {
            Self::Create {
                name,
                size,
                tags,
                class,
            } => {
                let request = CreateLvRequest {
                    name,
                    size_bytes: size,
                    tags,
                    device_class: class,
                    ..CreateLvRequest::default()
                };
                let volume = client.lv.create_lv(request).await?.into_inner().volume;
                show(context, &[volume.unwrap_or_default()]);
            }
            Self::Remove { name, class } => {
                let request = RemoveLvRequest {
                    name,
                    device_class: class,
                };
                client.lv.remove_lv(request).await?;
                if context.json {
                    output::json(&json!({}));
                }
            }
            Self::Resize { name, size, class } => {
                let request = ResizeLvRequest {
                    name,
                    size_bytes: size,
                    device_class: class,
                    ..ResizeLvRequest::default()
                };
                let size_bytes = client.lv.resize_lv(request).await?.into_inner().size_bytes;
                if context.json {
                    output::json(&json!({ "size_bytes": size_bytes }));
                } else {
                    output::line(&Bytes(size_bytes.unsigned_abs()).to_string());
                }
            }
            Self::Snapshot {
                source,
                name,
                read_only,
                class,
            } => {
                let request = CreateLvSnapshotRequest {
                    name,
                    source_volume: source,
                    device_class: class,
                    access_type: if read_only { "ro" } else { "rw" }.to_owned(),
                    ..CreateLvSnapshotRequest::default()
                };
                let made = client.lv.create_lv_snapshot(request).await?.into_inner();
                show(context, &[made.snapshot.unwrap_or_default()]);
            }
            Self::List { class } => {
                let request = GetLvListRequest {
                    device_class: class,
                };
                let volumes = client.vg.get_lv_list(request).await?.into_inner().volumes;
                show(context, &volumes);
            }
            Self::Free { class } => {
                let request = GetFreeBytesRequest {
                    device_class: class,
                };
                let free = client.vg.get_free_bytes(request).await?.into_inner();
                if context.json {
                    output::json(&json!({ "free_bytes": free.free_bytes }));
                } else {
                    output::line(&Bytes(free.free_bytes).to_string());
                }
            }
            Self::Watch => watch(context, client).await?,
        }
        Ok(())
    }
}

async fn watch(context: &Context, mut client: Client) -> Result<(), CliError> {
    let mut states = client.vg.watch(Empty {}).await?.into_inner();
    loop {
        tokio::select! {
            state = states.message() => match state? {
                Some(state) => show_spaces(context, &state),
                None => return Ok(()),
            },
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
        if output::is_closed() {
            return Ok(());
        }
    }
}

fn show_spaces(context: &Context, state: &WatchResponse) {
    if context.json {
        let items: Vec<Value> = state
            .items
            .iter()
            .map(|item| {
                let pool = item.thin_pool.as_ref();
                json!({
                    "device_class": item.device_class,
                    "free_bytes": item.free_bytes,
                    "size_bytes": item.size_bytes,
                    "thin_pool": pool.map(|pool| json!({
                        "overprovision_bytes": pool.overprovision_bytes,
                        "size_bytes": pool.size_bytes,
                        "data_percent": pool.data_percent,
                        "metadata_percent": pool.metadata_percent,
                    })),
                })
            })
            .collect();
        return output::json(&json!({ "free_bytes": state.free_bytes, "items": items }));
    }
    let shown: Vec<String> = state.items.iter().map(describe_space).collect();
    output::line(&shown.join(", "));
}

fn describe_space(item: &WatchItem) -> String {
    let class = &item.device_class;
    match &item.thin_pool {
        None => format!(
            "{class} {} free of {}",
            Bytes(item.free_bytes),
            Bytes(item.size_bytes)
        ),
        // Its free bytes are those of the group around the pool.
        Some(pool) => format!(
            "{class} {} to promise, {:.1} % of {} in use (metadata {:.1} %)",
            Bytes(pool.overprovision_bytes),
            pool.data_percent,
            Bytes(pool.size_bytes),
            pool.metadata_percent
        ),
    }
}

fn show(context: &Context, volumes: &[LogicalVolume]) {
    if context.json {
        let all: Vec<Value> = volumes.iter().map(to_json).collect();
        return output::json(&Value::Array(all));
    }
    let rows: Vec<[String; 5]> = volumes
        .iter()
        .map(|volume| {
            [
                volume.name.clone(),
                Bytes(volume.size_bytes.unsigned_abs()).to_string(),
                format!("{}:{}", volume.dev_major, volume.dev_minor),
                volume.path.clone(),
                volume.tags.join(","),
            ]
        })
        .collect();
    output::table(["NAME", "SIZE", "DEVICE", "PATH", "TAGS"], &[1, 2], &rows);
}

/// A volume as `--json` shows it.
pub(crate) fn to_json(volume: &LogicalVolume) -> Value {
    let tags: Vec<&String> = volume.tags.iter().filter(|tag| !tag.is_empty()).collect();
    json!({
        "name": volume.name,
        "size_bytes": volume.size_bytes,
        "dev_major": volume.dev_major,
        "dev_minor": volume.dev_minor,
        "path": volume.path,
        "attr": volume.attr,
        "tags": tags,
    })
}

/// Parses `4096`, `512MiB`, `10G`; all units are powers of 1024.
pub(crate) fn parse_size(text: &str) -> Result<i64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit {
        "" | "B" => 0,
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        "T" | "TiB" => 40,
        _ => {
            return Err(format!(
                "{unit:?} is no unit; it should be KiB, MiB, GiB, TiB or nothing"
            ));
        }
    };
    let number: i64 = number
        .parse()
        .map_err(|_| "should be a number and a unit, such as 10GiB".to_owned())?;
    number
        .checked_mul(1 << shift)
        .filter(|&bytes| bytes > 0)
        .ok_or_else(|| "should be over 0 and under 8 EiB".to_owned())
}

#[cfg(test)]
mod tests {
    use ringback_proto::lvmd::ThinPoolItem;

    use super::*;

    #[test]
    fn of_a_thin_class_the_room_of_its_pool_is_shown() {
        let mut item = WatchItem {
            device_class: "ssd".to_owned(),
            free_bytes: 1 << 30,
            size_bytes: 4 << 30,
            thin_pool: None,
        };
        assert_eq!(describe_space(&item), "ssd 1.0 GiB free of 4.0 GiB");
        item.thin_pool = Some(ThinPoolItem {
            data_percent: 58.59,
            metadata_percent: 11.04,
            overprovision_bytes: 10 << 30,
            size_bytes: 2 << 30,
        });
        assert_eq!(
            describe_space(&item),
            "ssd 10.0 GiB to promise, 58.6 % of 2.0 GiB in use (metadata 11.0 %)"
        );
    }

    #[test]
    fn sizes_are_numbers_with_binary_units() {
        for (text, bytes) in [
            ("1", 1),
            ("2KiB", 2 << 10),
            ("3M", 3 << 20),
            ("10GiB", 10 << 30),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "0", "GiB", "1.5GiB", "-1", "1GB", "9000000TiB", "1 GiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
