//! What one would write in a shell: `dd | zstd | aws s3 cp`, all of it every time.

use super::{Bed, Contender, VOLUME_NAME, backup_name, first_line};
use crate::{measure::process::Launch, results::Phase};

pub(super) struct Pipeline;

impl Contender for Pipeline {
    fn name(&self) -> &'static str {
        "dd-zstd-aws"
    }

    fn about(&self) -> &'static str {
        "dd | zstd -1 | aws s3 cp: compresses, no dedupe, no encryption, all of it every time"
    }

    fn version(&self) -> Option<String> {
        let aws = first_line(&Launch::new("aws").arg("--version"))?;
        let zstd = first_line(&Launch::new("zstd").arg("--version"))?;
        let aws = aws.split(' ').next().unwrap_or_default().to_owned();
        let version = zstd
            .split(['v', ','])
            .find(|word| word.starts_with(char::is_numeric));
        Some(format!(
            "{aws}, zstd {}",
            version.unwrap_or("of unknown version")
        ))
    }

    fn fills_target(&self) -> bool {
        true
    }

    fn launch(&self, phase: Phase, bed: &Bed) -> Launch {
        let script = match phase {
            Phase::Restore => {
                r#"aws s3 cp "$OBJECT" - --endpoint-url "$URL" |
                   zstd -d -q |
                   dd of="$TARGET" bs=8M iflag=fullblock oflag=direct conv=notrunc,sparse status=none"#
            }
            _ => {
                r#"dd if="$VOLUME" bs=8M iflag=direct status=none |
                   zstd -1 -T0 -q |
                   aws s3 cp - "$OBJECT" --endpoint-url "$URL" --expected-size "$BYTES""#
            }
        };
        let object = format!("{}/{VOLUME_NAME}-{}.zst", bed.s3_path(), backup_name(phase));
        Launch::shell(script)
            .envs(bed.address.environment())
            .env("AWS_CONFIG_FILE", "/dev/null")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("OBJECT", object)
            .env("URL", &bed.address.url)
            .env("VOLUME", &bed.volume.path)
            .env("TARGET", bed.target())
            .env("BYTES", bed.volume.bytes.to_string())
    }
}
