"""A client of current TopoLVM's dialect: messages generated from tests/protos/topolvm.proto.

Its volumes are in the class "beta", whose spare is 2 GiB, so that the seed's client at work in
"alpha" does not move the numbers that are looked at here.
"""

import os
import pathlib
import re
import subprocess

import common
from common import BAD_NAMES, GIB, MIB, SLACK

import topolvm_pb2 as pb
import topolvm_pb2_grpc as rpc

CLASS = "beta"
# `size_gb: 7` as the seed and old TopoLVM encode it.
SIZE_GB_7 = b"\x10\x07"


class Client:
    """The calls, and which checks they pass."""

    def __init__(self, world: common.World, channel, checks: common.Checks):
        self.world, self.checks = world, checks
        self.lv, self.vg = rpc.LVServiceStub(channel), rpc.VGServiceStub(channel)
        # For requests that the generated messages cannot say: bytes in, bytes out.
        self.raw_create = channel.unary_unary("/proto.LVService/CreateLV")
        self.raw_resize = channel.unary_unary("/proto.LVService/ResizeLV")

    def create(self, name: str, size_bytes: int = MIB, device_class: str = CLASS, **fields):
        request = pb.CreateLVRequest(
            name=name, size_bytes=size_bytes, device_class=device_class, **fields)
        return self.lv.CreateLV(request).volume

    def listed(self, device_class: str = CLASS) -> dict[str, pb.LogicalVolume]:
        request = pb.GetLVListRequest(device_class=device_class)
        return {volume.name: volume for volume in self.vg.GetLVList(request).volumes}

    def free(self, device_class: str = CLASS) -> int:
        return self.vg.GetFreeBytes(pb.GetFreeBytesRequest(device_class=device_class)).free_bytes

    def creation(self) -> None:
        checks = self.checks
        made = self.create("topo-data", 64 * MIB, tags=["made-by=topolvm"])
        image = self.world.image("topo-data", CLASS)
        checks.equal("CreateLV answers name and size_bytes",
                     (made.name, made.size_bytes), ("topo-data", 64 * MIB))
        checks.equal("CreateLV of an unattached volume answers the device 0:0",
                     (made.dev_major, made.dev_minor), (0, 0))
        checks.equal("CreateLV answers the path", made.path, str(image))
        checks.that("CreateLV answers lvs' attributes",
                    re.fullmatch(r"-w[a-z]-[a-]-{5}", made.attr), made.attr)
        checks.equal("the volume is there, with its size", image.stat().st_size, 64 * MIB)
        listed = self.listed().get("topo-data")
        checks.equal("GetLVList has the same fields", listed, made)
        checks.equal("CreateLV without a class takes the default one",
                     self.create("topo-default", device_class="").path,
                     str(self.world.image("topo-default")))

        def refused(what: str, code: str, *words: str, **fields) -> None:
            request = pb.CreateLVRequest(
                **{"name": "topo-none", "size_bytes": MIB, "device_class": CLASS, **fields})
            checks.fails(f"CreateLV {what}", code, self.lv.CreateLV, request, *words)

        refused("with the name taken", "ALREADY_EXISTS", "topo-data", name="topo-data")
        refused("in an unknown class", "NOT_FOUND", "nowhere", device_class="nowhere")
        refused("without a size", "INVALID_ARGUMENT", "size_bytes", size_bytes=0)
        refused("with a negative size", "INVALID_ARGUMENT", "size_bytes", size_bytes=-1)
        refused("larger than the room there is", "RESOURCE_EXHAUSTED", size_bytes=2**62)
        refused("with the largest size there is", "RESOURCE_EXHAUSTED", size_bytes=2**63 - 1)
        refused("with a tag of ringback's own", "INVALID_ARGUMENT", "tags", tags=["ringback.x"])
        refused("with a tag that LVM does not take", "INVALID_ARGUMENT", "tags", tags=["a b"])
        for why, name in BAD_NAMES.items():
            refused(f"with a name {why}", "INVALID_ARGUMENT", "name", name=name)
        checks.that("what was refused is not listed", "topo-none" not in self.listed())

    def option_classes(self) -> None:
        checks = self.checks
        made = self.create("topo-option", lvcreate_option_class="striped")
        checks.equal("CreateLV with a known option class is OK", made.size_bytes, MIB)
        checks.fails("CreateLV with an unknown option class", "INTERNAL", self.lv.CreateLV,
                     pb.CreateLVRequest(name="topo-none", size_bytes=MIB, device_class=CLASS,
                                        lvcreate_option_class="unheard-of"), "unheard-of")
        sized = pb.CreateLVRequest(name="topo-none", size_bytes=MIB).SerializeToString()
        checks.fails("CreateLV with an option class that is not UTF-8", "INVALID_ARGUMENT",
                     self.raw_create, sized + b"\x2a\x02\xff\xfe", "lvcreate_option_class")
        # DataSource { s3 { path: "b/x" } } in field 5: a restore, asked for with size_bytes.
        checks.fails("CreateLV with size_bytes and the seed's data source", "INVALID_ARGUMENT",
                     self.raw_create, sized + b"\x2a\x07\x12\x05\x0a\x03b/x", "size_gb")
        checks.that("no blank volume was made of it", "topo-none" not in self.listed(""))

    def both_sizes(self) -> None:
        """TopoLVM 0.25 to 0.36.0 sets both sizes; older releases size_gb alone."""
        checks = self.checks
        both = pb.CreateLVRequest(name="topo-both", size_bytes=2 * MIB, device_class=CLASS,
                                  lvcreate_option_class="striped").SerializeToString()
        made = pb.CreateLVResponse.FromString(self.raw_create(both + SIZE_GB_7)).volume
        checks.equal("CreateLV with both sizes goes by size_bytes", made.size_bytes, 2 * MIB)
        smaller = pb.ResizeLVRequest(name="topo-both", size_bytes=MIB, device_class=CLASS)
        kept = self.raw_resize(smaller.SerializeToString() + SIZE_GB_7)
        checks.equal("ResizeLV with both sizes goes by size_bytes",
                     pb.ResizeLVResponse.FromString(kept).size_bytes, 2 * MIB)
        old = pb.CreateLVRequest(name="topo-none", device_class=CLASS)
        for option_class in ("striped", "ssd", "a"):
            old.lvcreate_option_class = option_class
            checks.fails(f"CreateLV of an old TopoLVM with the option class {option_class}",
                         "INVALID_ARGUMENT", self.raw_create, old.SerializeToString() + SIZE_GB_7,
                         "old TopoLVM releases")
        checks.that("no volume was made of it", "topo-none" not in self.listed())

    def room(self) -> None:
        checks = self.checks
        before = self.free()
        filesystem = os.statvfs(self.world.folders[CLASS])
        promised = sum(volume.size_bytes for volume in self.listed().values())
        there = filesystem.f_bavail * filesystem.f_frsize - promised - self.world.spares[CLASS]
        checks.that("GetFreeBytes is what is there less what volumes may still take and the spare",
                    abs(there - before) < SLACK, f"{before}, not about {there}")
        self.create("topo-large", 3 * GIB)
        taken = before - self.free()
        checks.that("GetFreeBytes sinks by a new volume's size",
                    abs(taken - 3 * GIB) < SLACK, taken)
        self.lv.RemoveLV(pb.RemoveLVRequest(name="topo-large", device_class=CLASS))
        checks.equal("GetFreeBytes of a class with less room than its spare is 0",
                     self.free("gamma"), 0)
        checks.equal("CreateLV does not subtract the spare",
                     self.create("topo-spare", device_class="gamma").size_bytes, MIB)
        checks.fails("GetFreeBytes of an unknown class", "NOT_FOUND", self.vg.GetFreeBytes,
                     pb.GetFreeBytesRequest(device_class="nowhere"), "nowhere")
        checks.fails("GetLVList of an unknown class", "NOT_FOUND", self.vg.GetLVList,
                     pb.GetLVListRequest(device_class="nowhere"), "nowhere")
        checks.equal("GetLVList of a class has that class's volumes alone",
                     list(self.listed("gamma")), ["topo-spare"])

    def resize(self) -> None:
        checks = self.checks

        def resized(size_bytes: int) -> int:
            return self.lv.ResizeLV(pb.ResizeLVRequest(
                name="topo-data", size_bytes=size_bytes, device_class=CLASS)).size_bytes

        checks.equal("ResizeLV that grows answers the new size", resized(96 * MIB), 96 * MIB)
        checks.equal("ResizeLV to the present size is OK", resized(96 * MIB), 96 * MIB)
        checks.equal("ResizeLV to less is OK and answers the present size", resized(MIB), 96 * MIB)
        checks.equal("the volume has grown and not shrunk",
                     (self.listed()["topo-data"].size_bytes,
                      self.world.image("topo-data", CLASS).stat().st_size), (96 * MIB, 96 * MIB))
        for what, code, fields in (
            ("of a missing volume", "NOT_FOUND", {"name": "topo-none"}),
            ("in an unknown class", "NOT_FOUND", {"device_class": "nowhere"}),
            ("in a class that does not have it", "NOT_FOUND", {"device_class": "gamma"}),
            ("without a size", "INVALID_ARGUMENT", {"size_bytes": 0}),
            ("with a negative size", "INVALID_ARGUMENT", {"size_bytes": -1}),
            ("with a bad name", "INVALID_ARGUMENT", {"name": "a/b"}),
            ("beyond the room there is", "RESOURCE_EXHAUSTED", {"size_bytes": 2**62}),
        ):
            request = {"name": "topo-data", "size_bytes": GIB, "device_class": CLASS, **fields}
            checks.fails(f"ResizeLV {what}", code, self.lv.ResizeLV, pb.ResizeLVRequest(**request))

    def snapshots(self) -> None:
        checks = self.checks
        wanted = {"name": "topo-snap", "source_volume": "topo-data", "access_type": "ro",
                  "device_class": CLASS, "tags": ["snap"]}
        for what, code, fields in (
            ("of a missing source", "NOT_FOUND", {"source_volume": "topo-none"}),
            ("in an unknown class", "NOT_FOUND", {"device_class": "nowhere"}),
            ("smaller than its source", "OUT_OF_RANGE", {"size_bytes": MIB}),
            ("with a negative size", "INVALID_ARGUMENT", {"size_bytes": -1}),
            ("with a bad name", "INVALID_ARGUMENT", {"name": "snapshot-1"}),
            ("with a bad source", "INVALID_ARGUMENT", {"source_volume": ""}),
            ("with an unknown access type", "INVALID_ARGUMENT", {"access_type": "rx"}),
        ):
            checks.fails(f"CreateLVSnapshot {what}", code, self.lv.CreateLVSnapshot,
                         pb.CreateLVSnapshotRequest(**{**wanted, **fields}))
        request = pb.CreateLVSnapshotRequest(**wanted)
        if not self.has_reflinks():
            checks.fails("CreateLVSnapshot without reflinks", "UNIMPLEMENTED",
                         self.lv.CreateLVSnapshot, request, "reflink")
            checks.that("no snapshot was made", "topo-snap" not in self.listed())
            return
        made = self.lv.CreateLVSnapshot(request).snapshot
        checks.equal("CreateLVSnapshot of size 0 has its source's size", made.size_bytes, 96 * MIB)
        checks.that("CreateLVSnapshot is read-only when asked", made.attr[1] == "r", made.attr)
        checks.equal("GetLVList has the snapshot", self.listed().get("topo-snap"), made)
        checks.fails("CreateLVSnapshot with the name taken", "ALREADY_EXISTS",
                     self.lv.CreateLVSnapshot, request)

    def has_reflinks(self) -> bool:
        source = self.world.image("topo-data", CLASS)
        copy = pathlib.Path(self.world.folders[CLASS]).parent / "reflink"
        tried = subprocess.run(["cp", "--reflink=always", source, copy], capture_output=True)
        copy.unlink(missing_ok=True)
        return tried.returncode == 0

    def watch(self) -> common.Watching:
        checks = self.checks
        watching = common.Watching(self.vg.Watch(pb.Empty()))
        first = watching.next()
        checks.that("Watch sends at once", first)
        items = {item.device_class: item for item in first.items}
        checks.equal("Watch has an item for each class", set(items), set(self.world.folders))
        checks.equal("Watch's free_bytes is the default class's",
                     first.free_bytes, items["alpha"].free_bytes)
        checks.that("Watch's items have size_bytes, and no thin pool",
                    all(item.size_bytes > 0 and not item.HasField("thin_pool")
                        for item in items.values()), first)
        self.create("topo-watched", 3 * GIB)
        sunk = items[CLASS].free_bytes - 3 * GIB + SLACK
        checks.that("Watch sends again after a change", watching.next(lambda message: any(
            item.device_class == CLASS and item.free_bytes < sunk for item in message.items)))
        return watching

    def removal(self) -> None:
        checks = self.checks
        for name in ("topo-data", "topo-watched"):
            self.lv.RemoveLV(pb.RemoveLVRequest(name=name, device_class=CLASS))
        checks.that("RemoveLV takes the volume out of the list", "topo-data" not in self.listed())
        for what, code, fields in (
            ("of a volume that is gone", "NOT_FOUND", {}),
            ("in an unknown class", "NOT_FOUND", {"device_class": "nowhere"}),
            ("in a class that does not have it", "NOT_FOUND", {"name": "topo-default"}),
            ("with a bad name", "INVALID_ARGUMENT", {"name": ".."}),
        ):
            request = {"name": "topo-data", "device_class": CLASS, **fields}
            checks.fails(f"RemoveLV {what}", code, self.lv.RemoveLV, pb.RemoveLVRequest(**request))


def main(world: common.World, checks: common.Checks) -> None:
    with world.channel() as channel:
        client = Client(world, channel, checks)
        client.creation()
        client.option_classes()
        client.both_sizes()
        client.room()
        client.resize()
        client.snapshots()
        watching = client.watch()
        client.removal()
        common.wait_for_the_end(checks, watching)


common.run("topolvm", main)
