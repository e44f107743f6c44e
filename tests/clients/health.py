"""A client of the standard services: health and reflection, on the same socket."""

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

import common

SERVING = health_pb2.HealthCheckResponse.SERVING


def authorities(world: common.World, checks: common.Checks) -> None:
    """What clients call the host of a unix socket is no matter of ours; they differ. gRPC for Go
    has had all three ways, the latter two with a dialer of one's own, as older topolvm-nodes have.
    """
    for who, authority in (
        ("localhost, as gRPC for Go does with a unix: target", "localhost"),
        ("the socket's path, escaped, as gRPC for Python and C++ does", None),
        ("the socket's path, as gRPC for Java does", world.socket),
    ):
        with world.channel(authority) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            error = stub.Check.future(health_pb2.HealthCheckRequest(), timeout=5).exception()
            checks.that(f"a client is served that calls the host {who}", error is None,
                        error and f"{error.code().name}: {error.details()}")


def health(channel: grpc.Channel, checks: common.Checks) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    for service in ("", "proto.LVService", "proto.VGService"):
        request = health_pb2.HealthCheckRequest(service=service)
        checks.equal(f"Health.Check of {service or 'the whole server'} is SERVING",
                     stub.Check(request, timeout=common.CALL_SECONDS).status, SERVING)
    checks.fails("Health.Check of an unknown service", "NOT_FOUND", stub.Check,
                 health_pb2.HealthCheckRequest(service="proto.Nothing"))
    watching = common.Watching(stub.Watch(health_pb2.HealthCheckRequest()))
    first = watching.next()
    checks.that("Health.Watch says SERVING at once", first and first.status == SERVING, first)


def reflection(channel: grpc.Channel, checks: common.Checks) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    services = database.get_services()
    for service in ("proto.LVService", "proto.VGService", "grpc.health.v1.Health"):
        checks.that(f"reflection lists {service}", service in services, services)
    pool = DescriptorPool(database)
    methods = {
        method.name
        for service in ("proto.LVService", "proto.VGService")
        for method in pool.FindServiceByName(service).methods
    }
    checks.equal("reflection shows the calls of both dialects", methods, {
        "CreateLV", "RemoveLV", "ResizeLV", "CreateLVSnapshot", "CreateBackup",
        "GetLVList", "GetFreeBytes", "Watch",
    })
    fields = pool.FindMessageTypeByName("proto.CreateLVRequest").fields_by_name
    numbers = {name: field.number for name, field in fields.items()}
    checks.equal("reflection shows CreateLVRequest with the fields of both dialects", numbers,
                 {"name": 1, "size_gb": 2, "tags": 3, "device_class": 4, "data_source": 5,
                  "size_bytes": 6})
    source = fields["data_source"].message_type if "data_source" in fields else None
    checks.that("reflection shows field 5 as a DataSource",
                source and source.full_name == "proto.DataSource", source)


def main(world: common.World, checks: common.Checks) -> None:
    authorities(world, checks)
    with world.channel() as channel:
        health(channel, checks)
        reflection(channel, checks)
        print("ready", flush=True)


common.run("health", main)
