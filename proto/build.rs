//! Compiles the schemas without `protoc` (protox is a compiler in Rust).

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;
use prost_types::{FileDescriptorSet, field_descriptor_proto::Type};

const SCHEMAS: [&str; 3] = ["lvmd.proto", "ringback.proto", "repository.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    for schema in SCHEMAS {
        println!("cargo:rerun-if-changed={schema}");
    }
    let published = protox::compile(SCHEMAS, ["."])?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), published.encode_to_vec())?;

    let mut served = published;
    take_field_5_as_optional_bytes(&mut served)?;
    tonic_prost_build::configure()
        .bytes(".")
        // Requests carry credentials and keys; what holds them must not print.
        .skip_debug([
            ".proto.DataSource.S3",
            ".proto.CreateLVRequest",
            ".ringback.repository.v1.Keys",
        ])
        .compile_fds(served)?;
    Ok(())
}

/// Changes `CreateLVRequest.data_source` from a message to `optional bytes`.
///
/// Reflection shows the schema as published; the server must take field 5 undecoded, for it is
/// a message in one dialect and a string in the other.
fn take_field_5_as_optional_bytes(set: &mut FileDescriptorSet) -> Result<(), Box<dyn Error>> {
    let request = set
        .file
        .iter_mut()
        .flat_map(|file| &mut file.message_type)
        .find(|message| message.name() == "CreateLVRequest")
        .ok_or("no CreateLVRequest in lvmd.proto")?;
    let oneof_index = i32::try_from(request.oneof_decl.len())?;
    let field = request
        .field
        .iter_mut()
        .find(|field| field.number() == 5)
        .ok_or("no field 5 in CreateLVRequest")?;
    field.name = Some("data_source_or_option_class".into());
    field.json_name = None;
    field.set_type(Type::Bytes);
    field.type_name = None;
    // What protoc makes of `optional`: a oneof of its own that no code shows.
    field.proto3_optional = Some(true);
    field.oneof_index = Some(oneof_index);
    request.oneof_decl.push(prost_types::OneofDescriptorProto {
        name: Some("_data_source_or_option_class".into()),
        options: None,
    });
    Ok(())
}
