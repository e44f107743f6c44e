//! One fuzzer for all decoders: `RINGBACK_FUZZ` says which. With `RINGBACK_FUZZ_SEEDS` it only writes
//! well-formed inputs of every decoder to folders of their names there.

#![no_main]

mod bounded;

use std::{env, fs, path::Path, process, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use prost::Message;
use ringback::{config::Config, request::CreateVolume};
use ringback_datapath::fuzzing::{DECODERS, Decoder};
use ringback_proto::lvmd::{CreateLvRequest, DataSource, data_source};

/// Those of the control plane.
const MORE: &[Decoder] = &[
    Decoder {
        name: "configuration",
        run: configuration,
        seeds: configurations,
    },
    Decoder {
        name: "create-request",
        run: create_request,
        seeds: create_requests,
    },
];

static RUN: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let wanted = env::var("RINGBACK_FUZZ").unwrap_or_default();
    let found = all().find(|it| it.name == wanted);
    let names: Vec<_> = all().map(|it| it.name).collect();
    let found = found
        .unwrap_or_else(|| panic!("RINGBACK_FUZZ is {wanted:?}; it should be one of {names:?}"));
    found.run
});

fn all() -> impl Iterator<Item = &'static Decoder> {
    DECODERS.iter().chain(MORE)
}

fn write_seeds(folder: &Path) {
    for decoder in all() {
        let folder = folder.join(decoder.name);
        fs::create_dir_all(&folder).expect("makes a folder");
        for (number, seed) in (decoder.seeds)().iter().enumerate() {
            fs::write(folder.join(format!("seed-{number}")), seed).expect("writes a seed");
        }
    }
}

fn configuration(data: &[u8]) {
    if let Ok(text) = str::from_utf8(data) {
        let _ = Config::parse(text);
    }
}

fn configurations() -> Vec<Vec<u8>> {
    let text = "socket-name: /run/topolvm/lvmd.sock
device-classes:
  - name: ssd
    volume-group: vg
    default: true
    spare-gb: 10
    stripe: 2
    stripe-size: 64k
    lvcreate-options: [--type=raid1]
  - name: thin
    volume-group: vg
    type: thin
    thin-pool: {name: pool, overprovision-ratio: 5.0}
  - {name: images, directory: /var/lib/images}
lvcreate-option-classes:
  - {name: mirror, options: [--mirrors=1]}
lvm-command-prefix: [/sbin/lvm]
s3: {region: eu-west-1, require-verify-tls: true}
datapath: {memory-mib: 512, compression: zstd-3, io-engine: sync}
";
    vec![text.into()]
}

fn create_request(data: &[u8]) {
    if let Ok(request) = CreateLvRequest::decode(data) {
        let _ = CreateVolume::try_from(request);
    }
}

fn create_requests() -> Vec<Vec<u8>> {
    let source = DataSource {
        synchronous_restore: true,
        r#type: Some(ringback_proto::lvmd::data_source::Type::S3(
            data_source::S3 {
                path: "s3://backups/repo/monday".into(),
                endpoint: "https://s3.example.net".into(),
                ..data_source::S3::default()
            },
        )),
    };
    let old = CreateLvRequest {
        name: "data".into(),
        size_gb: 1,
        ..CreateLvRequest::default()
    };
    let mut with_source = old.encode_to_vec();
    with_source.extend([0x2a, u8::try_from(source.encoded_len()).expect("short")]);
    with_source.extend(source.encode_to_vec());
    vec![
        old.encode_to_vec(),
        with_source,
        b"\x0a\x01a\x30\x80\x80\x80\x80\x04\x2a\x06mirror".into(),
    ]
}

fuzz_target!(
    init: {
        if let Some(folder) = env::var_os("RINGBACK_FUZZ_SEEDS") {
            write_seeds(Path::new(&folder));
            process::exit(0);
        }
    },
    |data: &[u8]| (*RUN)(data)
);
