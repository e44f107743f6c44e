//! Encrypted repositories without a daemon, and their passphrases.

use std::process::Output;

use super::*;

impl Bed {
    /// A command that knows this passphrase.
    fn knowing(&self, passphrase: &str, arguments: &str) -> Output {
        let mut command = self.command(arguments);
        run(command.env("RINGBACK_PASSPHRASE", passphrase))
    }

    /// One that knows a new passphrase, too.
    fn renewing(&self, passphrase: &str, new: &str, arguments: &str) -> Output {
        let mut command = self.command(arguments);
        command.env("RINGBACK_NEW_PASSPHRASE", new);
        run(command.env("RINGBACK_PASSPHRASE", passphrase))
    }

    #[track_caller]
    fn slots(&self, passphrase: &str) -> Vec<Value> {
        let arguments = "key list s3://backups/vms --json";
        let listed = command_line::json(arguments, self.knowing(passphrase, arguments));
        listed.as_array().expect("a list").clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_backup_makes_the_round_trip_and_needs_its_passphrase() {
    let bed = Bed::with_disk().await;
    fs::write(bed.path("passphrase"), "first\n").expect("written");
    let folder = bed.path("stick");
    fs::create_dir(&folder).expect("made");
    for place in [
        "s3://backups/vms".to_owned(),
        format!("file://{}", folder.display()),
    ] {
        let backup = format!("backup ./disk.img {place}/monday");
        command_line::lines(&backup, bed.knowing("first", &backup));
        let list = format!("list {place}");
        let listed = command_line::lines(&list, bed.knowing("first", &list));
        assert_eq!(listed.len(), 2, "{listed:?}");
        bed.lines(&format!(
            "show {place}/monday --passphrase-file ./passphrase"
        ));
        bed.lines(&format!(
            "verify {place} --data --passphrase-file ./passphrase"
        ));
        let restored = bed.path("again.img");
        bed.lines(&format!(
            "restore {place}/monday ./again.img --passphrase-file ./passphrase"
        ));
        let (original, again) = (bed.path("disk.img"), restored.display().to_string());
        assert_same_content(&original.display().to_string(), &again);
        fs::remove_file(restored).expect("removed");

        for arguments in [
            format!("list {place}"),
            format!("verify {place}"),
            format!("restore {place}/monday ./other.img"),
            format!("backup ./disk.img {place}/tuesday"),
            format!("key list {place}"),
        ] {
            bed.assert_fails(&arguments, 4, "is encrypted; give its passphrase");
            let wrong = bed.knowing("second", &arguments);
            assert_failed(&wrong, 4, "the passphrase is none of those that open");
        }
    }
    bed.lines("backup ./disk.img s3://backups/plain/monday");
    let refused = bed.knowing("first", "restore s3://backups/plain/monday ./other.img");
    assert_failed(&refused, 4, "is not encrypted");
    bed.assert_fails(
        "key list s3://backups/plain",
        7,
        "is not encrypted, so it has no keys",
    );
    bed.assert_fails(
        "list s3://backups/vms --passphrase-file ./none",
        3,
        "cannot read the passphrase in ./none",
    );
    assert!(!bed.path("other.img").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn passphrases_are_added_listed_changed_and_removed() {
    let bed = Bed::with_disk().await;
    let backup = "backup ./disk.img s3://backups/vms/monday";
    command_line::lines(backup, bed.knowing("first", backup));
    let add = "key add s3://backups/vms --label laptop";
    let added = command_line::lines(add, bed.renewing("first", "second", add));
    let slots = bed.slots("second");
    assert_eq!(slots.len(), 2, "{slots:?}");
    let own = slots
        .iter()
        .find(|slot| slot["in_use"] == true)
        .expect("own");
    let first = slots
        .iter()
        .find(|slot| slot["in_use"] == false)
        .expect("other");
    assert_eq!(
        (&own["label"], &first["label"]),
        (&"laptop".into(), &"first".into())
    );
    let id = own["slot"].as_str().expect("an id");
    assert!(added[0].ends_with(id), "{added:?}");
    let list = "key list s3://backups/vms";
    let table = command_line::lines(list, bed.knowing("second", list)).join("\n");
    assert!(table.contains("laptop  (in use now)"), "{table}");

    let again = bed.renewing("first", "second", add);
    assert_failed(&again, 7, "is that of key slot");
    let without = bed.knowing("first", "key passwd s3://backups/vms");
    assert_failed(&without, 2, "there is no new passphrase");
    let remove = format!("key remove s3://backups/vms {id}");
    let in_use = bed.knowing("second", &remove);
    assert_failed(&in_use, 7, "pass --force");

    fs::write(bed.path("new"), "third\n").expect("written");
    let passwd = "key passwd s3://backups/vms --new-passphrase-file ./new";
    command_line::lines(passwd, bed.knowing("second", passwd));
    assert_failed(&bed.knowing("second", list), 4, "is none of those");
    let first = first["slot"].as_str().expect("an id");
    let remove = format!("key remove s3://backups/vms {first} --json");
    let removed = command_line::json(&remove, bed.knowing("third", &remove));
    assert_eq!(removed["removed"], *first);
    assert_failed(&bed.knowing("first", list), 4, "is none of those");
    let slots = bed.slots("third");
    assert_eq!(slots.len(), 1, "{slots:?}");
    assert_eq!(slots[0]["label"], "laptop");
    let last = slots[0]["slot"].as_str().expect("an id");
    let remove = format!("key remove s3://backups/vms {last} --force");
    assert_failed(&bed.knowing("third", &remove), 7, "is the last");
    let absent = bed.knowing("third", &format!("key remove s3://backups/vms {first}"));
    assert_failed(&absent, 3, "has no key slot");
    let nonsense = bed.knowing("third", "key remove s3://backups/vms laptop");
    assert_failed(&nonsense, 2, "is no key slot's id");
    let restore = "restore s3://backups/vms/monday ./again.img";
    command_line::lines(restore, bed.knowing("third", restore));
}
