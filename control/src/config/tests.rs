use super::*;

mod refusals;

/// A whole file around the keys of one thick default class.
fn class_with(keys: &str) -> String {
    format!("device-classes:\n- name: ssd\n  volume-group: vg\n  default: true\n{keys}")
}

fn only_class(text: &str) -> DeviceClass {
    Config::parse(text).expect("valid").device_classes.remove(0)
}

#[test]
fn a_file_of_todays_topolvm_loads_as_it_is() {
    let config = Config::parse(
        r#"
# the socket of lvmd
socket-name: /run/topolvm/lvmd.sock
lvm-command-prefix: [/usr/bin/nsenter, -m, -u, -i, -n, -p, -t, "1", /sbin/lvm]
device-classes:
  - name: ssd
    volume-group: myvg1
    default: true
    spare-gb: 10
    stripe: 2
    stripe-size: "64K"
    lvcreate-options:
      - --type=raid1
      - --cachesize
      - 10
  - name: ssd-thin
    volume-group: myvg1
    type: thin
    spare-gb: 0
    thin-pool:
      name: thinpool
      overprovision-ratio: 10
  - name: hdd
    volume-group: hdd-vg
    type: ""
    default: no
    stripe:
lvcreate-option-classes:
  - name: raid10
    options: [--type=raid10]
"#,
    )
    .expect("valid");
    assert_eq!(config.socket_name, Path::new("/run/topolvm/lvmd.sock"));
    assert_eq!(config.lvm_command_prefix.len(), 9);
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);

    let [ssd, thin, hdd] = &config.device_classes[..] else {
        panic!("three classes: {:?}", config.device_classes);
    };
    assert_eq!((ssd.default, ssd.spare_bytes), (true, 10 << 30));
    assert_eq!(
        ssd.backing,
        Backing::Thick {
            options: LvcreateOptions {
                stripe: Some(2),
                stripe_size: Some("64K".into()),
                arguments: vec!["--type=raid1".into(), "--cachesize".into(), "10".into()],
            },
            snapshot_percent: 20,
        }
    );
    assert_eq!((thin.default, thin.spare_bytes), (false, 0));
    assert_eq!(
        thin.backing,
        Backing::Thin {
            pool: "thinpool".into(),
            overprovision_ratio: 10.0,
            options: LvcreateOptions::default(),
        }
    );
    assert_eq!((hdd.default, hdd.spare_bytes), (false, 10 << 30));
    assert_eq!(
        hdd.backing,
        Backing::Thick {
            options: LvcreateOptions::default(),
            snapshot_percent: 20,
        }
    );

    let raid = config.option_class("raid10").expect("configured");
    assert_eq!(raid.options, ["--type=raid10"]);
    assert_eq!(config.option_class("raid1"), None);
}

#[test]
fn what_the_file_does_not_say_has_a_default() {
    let config = Config::parse(&class_with("")).expect("valid");
    assert_eq!(config.socket_name, Path::new("/run/topolvm/lvmd.sock"));
    assert_eq!(config.s3, S3Settings::default());
    assert_eq!(
        config.datapath,
        DatapathSettings {
            memory_mib: 512,
            backups_max: 2,
            restores_max: 2,
            io_engine: IoEngine::Uring,
            direct_io: true,
            queue_depth: 32,
            part_mib: 8,
            pack_mib: 128,
            packs_min: 64,
            parts_in_flight: 8,
            index_cache: Some(CacheSettings {
                folder: "/var/cache/ringback".into(),
                bytes_max: 1 << 30,
            }),
            compression: Compression::Auto,
        }
    );
    assert_eq!(config.datapath.buffer_bytes(), 96 << 20);
    assert_eq!(config.datapath.index_bytes(), 64 << 20);
    assert_eq!(
        config.datapath.pack_bytes(),
        16 * config.datapath.part_bytes()
    );
}

#[test]
fn our_own_sections_are_read() {
    let config = Config::parse(&class_with(
        "s3: {region: eu-central-1, require-verify-tls: true}\n\
         datapath: {io-engine: sync, memory-mib: 100, part-mib: 5, backups-max: 1,\n\
         \x20 compression: zstd-3}\n",
    ))
    .expect("valid");
    assert_eq!(config.s3.region.as_deref(), Some("eu-central-1"));
    assert!(config.s3.require_verify_tls);
    assert_eq!(config.datapath.io_engine, IoEngine::Sync);
    assert_eq!(config.datapath.compression.to_string(), "zstd-3");
    assert_eq!(
        (config.datapath.memory_mib, config.datapath.part_mib),
        (100, 5)
    );
}

#[test]
fn copies_of_segments_go_where_the_file_says_or_nowhere() {
    let cache = |keys: &str| {
        let text = class_with(&format!("datapath: {{{keys}}}\n"));
        Config::parse(&text).map(|config| config.datapath.index_cache)
    };
    let elsewhere = CacheSettings {
        folder: "/srv/cache".into(),
        bytes_max: 64 << 20,
    };
    let found = cache("cache-directory: /srv/cache, cache-mib: 64").expect("valid");
    assert_eq!(found, Some(elsewhere));
    assert_eq!(cache("cache-mib: 0").expect("valid"), None);
    for (keys, says) in [
        (
            "cache-directory: here",
            "is \"here\"; it should be an absolute path",
        ),
        (
            "cache-directory: ''",
            "is \"\"; it should be an absolute path",
        ),
        ("cache-mib: 1048577", "it should be 0 to 1048576"),
    ] {
        let error = cache(keys).expect_err(keys).to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn a_directory_class_is_its_own_group_unless_it_names_one() {
    let class = only_class("device-classes: [{name: dir, default: true, directory: /srv/a}]");
    assert_eq!(class.volume_group, "dir");
    assert_eq!(
        class.backing,
        Backing::Directory {
            directory: "/srv/a".into(),
            attach: Attach::Auto,
        }
    );
    let class = only_class(
        "device-classes: [{name: dir, default: true, directory: /srv/a, volume-group: vg, \
         attach: never}]",
    );
    assert_eq!(class.volume_group, "vg");
    assert!(matches!(
        class.backing,
        Backing::Directory {
            attach: Attach::Never,
            ..
        }
    ));
}

#[test]
fn a_request_finds_its_class_by_name_or_the_default_one() {
    let config = Config::parse(
        "device-classes: [{name: a, volume-group: vg1}, \
         {name: b, volume-group: vg2, default: true}]",
    )
    .expect("valid");
    let found = |class: &str| {
        let class = ClassRef::from(class.to_owned());
        config
            .device_class(&class)
            .map(|class| class.volume_group.as_str())
    };
    assert_eq!(found(""), Some("vg2"));
    assert_eq!(found("a"), Some("vg1"));
    assert_eq!(found("c"), None);
}

#[test]
fn the_seeds_scripts_are_accepted_with_a_warning_each() {
    let config = Config::parse(&class_with(
        "backup: {script-path: /backup.sh, workdir: /tmp}\nrestore: {script-path: /restore.sh}\n",
    ))
    .expect("valid");
    assert_eq!(config.warnings.len(), 3);
    assert!(config.warnings[0].starts_with("backup.script-path is not used"));
    assert!(config.warnings[1].starts_with("backup.workdir is not used"));
    assert!(config.warnings[2].starts_with("restore.script-path is not used"));
}

#[test]
fn stripes_of_a_thin_class_are_a_warning_as_the_pool_has_its_own() {
    let text = class_with(
        "  type: thin\n  stripe: 2\n  thin-pool: {name: pool, overprovision-ratio: 2}\n",
    );
    let config = Config::parse(&text).expect("valid");
    let [warning] = &config.warnings[..] else {
        panic!("one: {:?}", config.warnings);
    };
    assert!(warning.starts_with("stripe of the device class \"ssd\" is not used"));
}

#[test]
fn the_room_of_snapshots_is_read() {
    let class = only_class(&class_with("  snapshot-percent: 100\n"));
    let Backing::Thick {
        snapshot_percent, ..
    } = class.backing
    else {
        panic!("it is thick: {:?}", class.backing);
    };
    assert_eq!(snapshot_percent, 100);
}

#[test]
fn a_pool_of_a_class_that_is_not_thin_is_a_warning_as_topolvm_ignores_it() {
    let text = class_with("  thin-pool: {name: pool, overprovision-ratio: 2}\n");
    let config = Config::parse(&text).expect("valid");
    assert!(
        config.warnings[0].contains("its type is not thin"),
        "{:?}",
        config.warnings
    );
}
