//! The dialects' own schemas, compiled from `tests/protos`, and their agreement with the one
//! that is served.

use std::{path::Path, sync::OnceLock};

use prost::Message;
use protox::prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ServiceDescriptor,
};

pub(super) use protox::prost_reflect::Value;

/// Both dialects, each as its own clients know it.
pub(super) struct Dialects {
    pub(super) seed: DescriptorPool,
    pub(super) topolvm: DescriptorPool,
}

impl Dialects {
    pub(super) fn get() -> &'static Self {
        static DIALECTS: OnceLock<Dialects> = OnceLock::new();
        DIALECTS.get_or_init(|| Self {
            seed: compiled("seed.proto"),
            topolvm: compiled("topolvm.proto"),
        })
    }
}

fn compiled(file: &str) -> DescriptorPool {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/protos");
    let files = protox::compile([file], [folder]).expect("the dialect's schema compiles");
    DescriptorPool::from_file_descriptor_set(files).expect("the schema is whole")
}

pub(super) fn field(name: &str, value: Value) -> (&str, Value) {
    (name, value)
}

pub(super) fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

pub(super) fn list<const N: usize>(texts: [&str; N]) -> Value {
    Value::List(texts.into_iter().map(text).collect())
}

pub(super) fn message(pool: &DescriptorPool, name: &str, fields: Vec<(&str, Value)>) -> Value {
    Value::Message(dynamic(pool, name, fields))
}

pub(super) fn encode(pool: &DescriptorPool, name: &str, fields: Vec<(&str, Value)>) -> Vec<u8> {
    dynamic(pool, name, fields).encode_to_vec()
}

pub(super) fn decode(pool: &DescriptorPool, name: &str, bytes: &[u8]) -> DynamicMessage {
    DynamicMessage::decode(descriptor(pool, name), bytes).expect("the dialect can read it")
}

pub(super) fn get(message: &DynamicMessage, field: &str) -> Value {
    message
        .get_field_by_name(field)
        .expect("the dialect has the field")
        .into_owned()
}

fn dynamic(pool: &DescriptorPool, name: &str, fields: Vec<(&str, Value)>) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor(pool, name));
    for (field, value) in fields {
        message.set_field_by_name(field, value);
    }
    message
}

fn descriptor(pool: &DescriptorPool, name: &str) -> MessageDescriptor {
    pool.get_message_by_name(name)
        .expect("the dialect has the message")
}

/// Number, name, label and type of a field; of message types the name.
fn signature(field: &FieldDescriptor) -> (u32, String, bool, String) {
    let kind = match field.kind() {
        Kind::Message(message) => message.full_name().to_owned(),
        Kind::Enum(of) => {
            let values = of.values().map(|v| format!("{}={}", v.name(), v.number()));
            format!("{} {:?}", of.full_name(), values.collect::<Vec<_>>())
        }
        scalar => format!("{scalar:?}"),
    };
    (
        field.number(),
        field.name().to_owned(),
        field.is_list(),
        kind,
    )
}

fn methods(service: &ServiceDescriptor) -> Vec<(String, String, String, bool, bool)> {
    let method = |m: protox::prost_reflect::MethodDescriptor| {
        (
            m.full_name().to_owned(),
            m.input().full_name().to_owned(),
            m.output().full_name().to_owned(),
            m.is_client_streaming(),
            m.is_server_streaming(),
        )
    };
    service.methods().map(method).collect()
}

#[test]
fn the_served_schema_has_every_field_of_both_dialects_but_one() {
    let served = DescriptorPool::decode(ringback_proto::DESCRIPTORS).expect("published");
    let dialects = Dialects::get();
    let mut differing = Vec::new();
    for pool in [&dialects.seed, &dialects.topolvm] {
        for theirs in pool.all_messages() {
            let ours = descriptor(&served, theirs.full_name());
            for field in theirs.fields() {
                let same = ours.get_field(field.number());
                if same.as_ref().map(signature) != Some(signature(&field)) {
                    differing.push(field.full_name().to_owned());
                }
            }
        }
    }
    assert_eq!(differing, ["proto.CreateLVRequest.lvcreate_option_class"]);
}

#[test]
fn the_served_schema_has_no_field_that_neither_dialect_has() {
    let served = DescriptorPool::decode(ringback_proto::DESCRIPTORS).expect("published");
    let dialects = Dialects::get();
    for ours in served
        .all_messages()
        .filter(|m| m.parent_file().package_name() == "proto")
    {
        for field in ours.fields() {
            let known = [&dialects.seed, &dialects.topolvm].into_iter().any(|pool| {
                pool.get_message_by_name(ours.full_name())
                    .and_then(|theirs| theirs.get_field(field.number()))
                    .is_some_and(|theirs| signature(&theirs) == signature(&field))
            });
            assert!(known, "{} is in neither dialect", field.full_name());
        }
    }
}

#[test]
fn the_served_services_have_every_method_of_both_dialects() {
    let served = DescriptorPool::decode(ringback_proto::DESCRIPTORS).expect("published");
    let dialects = Dialects::get();
    let mut differing = Vec::new();
    for pool in [&dialects.seed, &dialects.topolvm] {
        for theirs in pool.services() {
            let ours = served
                .get_service_by_name(theirs.full_name())
                .expect("served");
            let ours = methods(&ours);
            differing.extend(
                methods(&theirs)
                    .into_iter()
                    .filter(|method| !ours.contains(method)),
            );
        }
    }
    // The seed's ResizeLV answers Empty; to its clients ours looks like one.
    let differing: Vec<&str> = differing.iter().map(|method| method.0.as_str()).collect();
    assert_eq!(differing, ["proto.LVService.ResizeLV"]);
}
