//! What a file may not say, and the sentences that say so.

use std::io::Write;

use proptest::prelude::*;

use super::*;

/// The sentence with which a text is refused.
fn refusal(text: &str) -> String {
    Config::parse(text).expect_err(text).to_string()
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_its_neighbours() {
    let in_class = refusal(&class_with("  spare_gb: 10\n"));
    assert!(
        in_class.starts_with(
            "line 5: unknown key \"spare_gb\" in device-classes[0]; known keys are name, "
        ),
        "{in_class}"
    );
    assert!(in_class.contains("spare-gb, "), "{in_class}");
    let at_top = refusal(&class_with("sockets: x\n"));
    assert!(
        at_top.starts_with("line 5: unknown key \"sockets\"; known keys are "),
        "{at_top}"
    );
    let in_section = refusal(&class_with("restore:\n  workdir: /\n"));
    assert_eq!(
        in_section,
        "line 6: unknown key \"workdir\" in restore; known keys are script-path"
    );
}

#[test]
fn a_file_of_authorities_that_cannot_be_used_is_named_with_what_it_should_be() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ca.pem").display().to_string();
    let refusal = || refusal(&class_with(&format!("s3: {{ca-file: {path}}}\n")));
    let begins = format!("s3.ca-file {path}: ");
    for (content, says) in [
        (None, "cannot be read: No such file or directory"),
        (
            Some(""),
            "has no certificate; it should have those of one or more authorities",
        ),
        (Some("not PEM at all"), "has no certificate"),
        (
            Some("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
            "has no certificate",
        ),
        (
            Some("-----BEGIN CERTIFICATE-----\n????\n-----END CERTIFICATE-----\n"),
            "is not in PEM form",
        ),
        (
            Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            "certificate 1 in it cannot be used",
        ),
    ] {
        if let Some(content) = content {
            std::fs::write(&path, content).expect("writes the file");
        }
        let refusal = refusal();
        assert!(refusal.starts_with(&begins), "{refusal}");
        assert!(refusal.contains(says), "{says}: {refusal}");
    }
    let empty = Config::parse(&class_with("s3: {ca-file: ''}\n")).expect("means none");
    assert_eq!(empty.s3, S3Settings::default());
}

#[test]
fn a_wrong_type_is_named_with_its_line_and_what_would_be_right() {
    for (keys, says) in [
        (
            "  spare-gb: ten\n",
            "line 5: device-classes[0].spare-gb is the string \"ten\"; it should be a whole number, \
             0 or more",
        ),
        (
            "  stripe: -1\n",
            "line 5: device-classes[0].stripe is the integer -1; it should be a whole number, 0 or \
             more",
        ),
        (
            "  lvcreate-options: --thin\n",
            "line 5: device-classes[0].lvcreate-options is the string \"--thin\"; it should be a list",
        ),
        (
            "  type: fat\n",
            "line 5: device-classes[0].type is \"fat\"; it should be thick or thin",
        ),
        (
            "  attach: [a]\n",
            "line 5: device-classes[0].attach is a list; it should be a text",
        ),
        (
            "socket-name: [a]\n",
            "line 5: socket-name is a list; it should be a text",
        ),
        (
            "s3:\n  require-verify-tls: maybe\n",
            "line 6: s3.require-verify-tls is the string \"maybe\"; it should be true or false",
        ),
        (
            "s3: eu\n",
            "line 5: s3 is the string \"eu\"; it should be a mapping",
        ),
        (
            "datapath: {io-engine: aio}\n",
            "line 5: datapath.io-engine is \"aio\"; it should be io_uring or sync",
        ),
        (
            "  name: hdd\n",
            "line 2: device-classes[0] has the key \"name\" twice; it should be there once",
        ),
    ] {
        assert_eq!(refusal(&class_with(keys)), says);
    }
    assert_eq!(
        refusal("[]"),
        "line 1: the file is a list; it should be a mapping"
    );
}

#[test]
fn what_is_not_yaml_is_refused_with_its_line() {
    assert!(refusal("socket-name:\n  a: b: c\n").starts_with("line 2: "));
    assert!(refusal("device-classes:\n- \"a\n").starts_with("line 3: "));
}

#[test]
fn a_class_that_cannot_be_is_refused_with_what_would_be_right() {
    for (class, says) in [
        ("{volume-group: vg}", "device-classes[0] has no name"),
        (
            "{name: '', volume-group: vg}",
            "device-classes[0] has no name",
        ),
        (
            "{name: a b, volume-group: vg}",
            "device-classes[0].name is \"a b\"; it should be",
        ),
        (
            "{name: a-, volume-group: vg}",
            "a letter or digit first and last",
        ),
        (
            "{name: a}",
            "\"a\" has no volume-group; give it one, or a directory",
        ),
        (
            "{name: a, volume-group: a/b}",
            "has a volume-group, \"a/b\", that has the character",
        ),
        (
            "{name: a, volume-group: vg, type: thin}",
            "has the type thin but no thin-pool",
        ),
        (
            "{name: a, volume-group: vg, type: thin, thin-pool: {}}",
            "thin-pool.name that is empty",
        ),
        (
            "{name: a, volume-group: vg, type: thin, thin-pool: {name: p}}",
            "has no thin-pool.overprovision-ratio",
        ),
        (
            "{name: a, volume-group: vg, type: thin, \
             thin-pool: {name: p, overprovision-ratio: 0.9}}",
            "the thin-pool.overprovision-ratio 0.9; it should be 1.0 or more",
        ),
        (
            "{name: a, volume-group: vg, type: thin, \
             thin-pool: {name: p, overprovision-ratio: .nan}}",
            "it should be 1.0 or more",
        ),
        (
            "{name: a, directory: /d, type: thin}",
            "thin pools of them are not there yet",
        ),
        ("{name: a, directory: d}", "should be an absolute path"),
        ("{name: a, directory: ''}", "should be an absolute path"),
        ("{name: a, directory: /d/../e}", "without \"..\""),
        ("{name: a, directory: /d, stripe: 2}", "leave stripe out"),
        (
            "{name: a, volume-group: vg, attach: auto}",
            "has attach but no directory",
        ),
        (
            "{name: a, volume-group: vg, stripe-size: 64 KiB}",
            "as in \"64k\"",
        ),
        (
            "{name: a, volume-group: vg, spare-gb: 99999999999}",
            "has the spare-gb 99999999999",
        ),
    ] {
        let error = refusal(&format!("device-classes: [{class}]"));
        assert!(error.contains(says), "{class}: {error}");
    }
}

#[test]
fn classes_that_cannot_be_together_are_refused() {
    let thin = "type: thin, thin-pool: {name: p, overprovision-ratio: 1}";
    for (a, b, says) in [
        (
            "name: a, volume-group: x",
            "name: a, volume-group: y",
            "has \"a\" twice",
        ),
        (
            "name: b, volume-group: x",
            "name: a, volume-group: x",
            "share the volume-group \"x\"",
        ),
        (
            &format!("name: a, volume-group: x, {thin}"),
            &format!("name: b, volume-group: x, {thin}"),
            "share the thin pool \"x/p\"",
        ),
        (
            "name: a, directory: /d",
            "name: b, directory: /d/",
            "share the directory \"/d\" but not the volume-group",
        ),
        (
            "name: a, directory: /d, volume-group: x",
            "name: b, directory: /e, volume-group: x",
            "share the volume-group \"x\" but not the directory",
        ),
        (
            "name: a, directory: /d, volume-group: x",
            "name: b, directory: /d, volume-group: x, attach: never",
            "differ in attach",
        ),
        (
            "name: a, directory: /d",
            "name: b, volume-group: a",
            "only one has a directory",
        ),
    ] {
        let error = refusal(&format!(
            "device-classes: [{{{a}, default: true}}, {{{b}}}]"
        ));
        assert!(error.contains(says), "{a}; {b}: {error}");
    }
    // A directory may be shared, and a group may serve thick and thin volumes.
    for (a, b) in [
        (
            "name: a, directory: /d, volume-group: x",
            "name: b, directory: /d, volume-group: x",
        ),
        (
            "name: a, volume-group: x",
            &format!("name: b, volume-group: x, {thin}"),
        ),
    ] {
        Config::parse(&format!(
            "device-classes: [{{{a}, default: true}}, {{{b}}}]"
        ))
        .expect("both can be");
    }
}

#[test]
fn exactly_one_class_is_the_default() {
    let none = refusal("device-classes: [{name: a, volume-group: x}]");
    assert!(none.contains("no device class is the default"), "{none}");
    let two = refusal(
        "device-classes: [{name: a, volume-group: x, default: true}, \
         {name: b, volume-group: y, default: true}]",
    );
    assert!(two.contains("a, b are all the default"), "{two}");
    for text in [
        "",
        "# nothing\n",
        "socket-name: /run/x.sock\n",
        "device-classes: []",
    ] {
        assert!(
            refusal(text).contains("there should be at least one class"),
            "{text:?}"
        );
    }
}

#[test]
fn settings_outside_their_range_are_refused() {
    let long = format!("socket-name: /{}\n", "x".repeat(107));
    for (keys, says) in [
        (
            "datapath: {compression: zstd-20}\n",
            "datapath.compression is \"zstd-20\"; it should be auto, none, lz4, or zstd-1 to zstd-19",
        ),
        (
            "datapath: {part-mib: 4}\n",
            "datapath.part-mib is 4; it should be 5 to 128",
        ),
        (
            "datapath: {queue-depth: 0}\n",
            "datapath.queue-depth is 0; it should be 1 to 1024",
        ),
        (
            "datapath: {backups-max: 5000000000}\n",
            "datapath.backups-max is 5000000000; it should",
        ),
        (
            "datapath: {pack-mib: 7}\n",
            "a pack should hold at least one part",
        ),
        (
            "datapath: {memory-mib: 171}\n",
            "datapath.memory-mib is 171; it should be at least 172, so that each of 4 jobs \
             (backups-max, restores-max) has room for 3 parts of 8 MiB (part-mib) and 32 reads of \
             256 KiB (queue-depth)",
        ),
        (
            "lvcreate-option-classes: [{options: []}]\n",
            "lvcreate-option-classes[0] has no name",
        ),
        (
            "lvcreate-option-classes: [{name: a}, {name: a}]\n",
            "has \"a\" twice",
        ),
        ("lvm-command-prefix: ['']\n", "should begin with a command"),
        ("socket-name: ''\n", "socket-name is empty"),
        (&long, "socket-name has 108 bytes"),
    ] {
        let error = refusal(&class_with(keys));
        assert!(error.contains(says), "{error}");
    }
    Config::parse(&class_with("datapath: {memory-mib: 172}\n")).expect("just enough");
}

#[test]
fn an_error_names_the_file() {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(b"\nsocket: x\n").expect("written");
    let error = Config::load(file.path())
        .expect_err("unknown key")
        .to_string();
    let begins = format!("{}: line 2: unknown key \"socket\"", file.path().display());
    assert!(error.starts_with(&begins), "{error}");

    file.as_file_mut().set_len(0).expect("emptied");
    let error = Config::load(file.path())
        .expect_err("no classes")
        .to_string();
    let begins = format!("{}: device-classes is empty", file.path().display());
    assert!(error.starts_with(&begins), "{error}");

    let error = Config::load(Path::new("/nowhere/lvmd.yaml"))
        .expect_err("absent")
        .to_string();
    assert!(
        error.starts_with("/nowhere/lvmd.yaml: cannot be read: "),
        "{error}"
    );
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "[a-z0-9:\\-\\[\\]{},'\"#&*!?|> \n\t.]{0,80}") {
        let _ = Config::parse(&text);
        let _ = Config::parse(&class_with(&text));
    }
}
