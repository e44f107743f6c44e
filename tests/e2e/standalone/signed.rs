//! Credentials, profiles and endpoints, the way AWS tools take them.

use std::{fs, process::Command};

use super::Bed;
use crate::{command_line::assert_failed, harness::run};

/// `list` of a repository that is there, without anything from the environment.
fn bare(bed: &Bed, arguments: &str) -> Command {
    let mut command = bed.command(&format!("list s3://backups/vms{arguments}"));
    for name in [
        "AWS_REGION",
        "AWS_ENDPOINT_URL_S3",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
    ] {
        command.env_remove(name);
    }
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_come_from_environment_profiles_and_processes() {
    let bed = Bed::with_disk().await;
    bed.lines("backup ./disk.img s3://backups/vms/monday");
    let (url, id, secret) = (
        bed.store.endpoint.url(),
        bed.store.endpoint.access_key_id().to_owned(),
        bed.store.endpoint.secret_access_key().to_owned(),
    );
    fs::create_dir(bed.path(".aws")).expect("makes a folder");
    fs::write(
        bed.path(".aws/credentials"),
        format!("[backups]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n"),
    )
    .expect("writes");
    let keys =
        format!("{{\"Version\": 1, \"AccessKeyId\": \"{id}\", \"SecretAccessKey\": \"{secret}\"}}");
    fs::write(bed.path("keys.json"), keys).expect("writes");
    fs::write(
        bed.path(".aws/config"),
        format!(
            "[profile backups]\nregion = eu-central-1\n[profile asking]\ncredential_process = cat \
             {}\n",
            bed.path("keys.json").display()
        ),
    )
    .expect("writes");

    let by_profile = |name: &str| bare(&bed, &format!(" --endpoint {url} --profile {name}"));
    let mut from_environment = bare(&bed, "");
    from_environment
        .env("AWS_PROFILE", "backups")
        .env("AWS_ENDPOINT_URL", &url);
    let mut over_environment = by_profile("backups");
    over_environment
        .env("AWS_ACCESS_KEY_ID", "NOBODY")
        .env("AWS_SECRET_ACCESS_KEY", "wrong");
    for mut command in [
        by_profile("backups"),
        by_profile("asking"),
        from_environment,
        over_environment,
    ] {
        let output = run(&mut command);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {stderr}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("monday"));
    }

    let says = "the profile \"absent\" is not in AWS's config and credentials files";
    assert_failed(&run(&mut by_profile("absent")), 4, says);
    let says = "no credentials for http://";
    assert_failed(
        &run(&mut bare(&bed, &format!(" --endpoint {url}"))),
        4,
        says,
    );
    let mut wrong = bare(&bed, &format!(" --endpoint {url}"));
    wrong
        .env("AWS_ACCESS_KEY_ID", &id)
        .env("AWS_SECRET_ACCESS_KEY", "wrong");
    assert_failed(&run(&mut wrong), 4, "denies access");
    let mut half = bare(&bed, &format!(" --endpoint {url}"));
    half.env("AWS_ACCESS_KEY_ID", &id);
    assert_failed(&run(&mut half), 2, "secret_access_key is empty");
}
