"""A client of the seed's dialect: messages generated from tests/protos/seed.proto.

Its volumes are in the default class, "alpha". What it asks of volumes alone is here; backups and
restores are in seed_backups.py and seed_restores.py.
"""

import os

import common
from common import BAD_NAMES, GIB, SLACK

import seed_pb2 as pb
import seed_pb2_grpc as rpc
import seed_backups
import seed_restores


class Client:
    """The calls, and which checks they pass."""

    def __init__(self, world: common.World, channel, checks: common.Checks):
        self.world, self.checks = world, checks
        self.lv, self.vg = rpc.LVServiceStub(channel), rpc.VGServiceStub(channel)

    def create(self, name: str, size_gb: int = 1, **fields) -> pb.LogicalVolume:
        return self.lv.CreateLV(pb.CreateLVRequest(name=name, size_gb=size_gb, **fields)).volume

    def remove(self, name: str, device_class: str = "") -> None:
        self.lv.RemoveLV(pb.RemoveLVRequest(name=name, device_class=device_class))

    def listed(self, device_class: str = "") -> dict[str, pb.LogicalVolume]:
        request = pb.GetLVListRequest(device_class=device_class)
        answer = self.vg.GetLVList(request, timeout=common.CALL_SECONDS)
        return {volume.name: volume for volume in answer.volumes}

    def free(self, device_class: str = "") -> int:
        return self.vg.GetFreeBytes(pb.GetFreeBytesRequest(device_class=device_class)).free_bytes

    def creation(self) -> None:
        checks = self.checks
        made = self.create("seed-vol", 2, tags=["made-by=seed", "x"])
        checks.equal("CreateLV answers name, size_gb and tags",
                     (made.name, made.size_gb, list(made.tags)),
                     ("seed-vol", 2, ["made-by=seed", "x"]))
        checks.equal("CreateLV of an unattached volume answers the device 0:0",
                     (made.dev_major, made.dev_minor), (0, 0))
        checks.equal("the volume is there, with its size",
                     self.world.image("seed-vol").stat().st_size, 2 * GIB)
        listed = self.listed()["seed-vol"]
        checks.equal("GetLVList has the volume's size_gb, tags and device 0:0",
                     (listed.size_gb, list(listed.tags), listed.dev_major, listed.dev_minor),
                     (2, ["made-by=seed", "x"], 0, 0))
        self.create("seed-beta", device_class="beta")
        checks.equal("GetLVList shows no tags as stock lvmd does: one empty tag",
                     list(self.listed("beta")["seed-beta"].tags), [""])
        checks.that("GetLVList without a class has the default class's volumes alone",
                    "seed-beta" not in self.listed())
        checks.equal("GetLVList of the default class by name is the same", self.listed("alpha"),
                     self.listed())

        def refused(what: str, code: str, *words: str, **fields) -> None:
            request = pb.CreateLVRequest(**{"name": "seed-none", "size_gb": 1, **fields})
            checks.fails(f"CreateLV {what}", code, self.lv.CreateLV, request, *words)

        refused("with the name taken", "ALREADY_EXISTS", "seed-vol", name="seed-vol")
        refused("in an unknown class", "NOT_FOUND", "nowhere", device_class="nowhere")
        refused("of size 0", "INVALID_ARGUMENT", "size_gb", size_gb=0)
        refused("of more GiB than have bytes", "INVALID_ARGUMENT", "size_gb", size_gb=2**64 - 1)
        refused("of the first size that overflows", "INVALID_ARGUMENT", "size_gb", size_gb=2**33)
        refused("larger than the room there is", "RESOURCE_EXHAUSTED", size_gb=2**32)
        refused("with a tag of ringback's own", "INVALID_ARGUMENT", "tags", tags=["ringback"])
        refused("with an empty tag", "INVALID_ARGUMENT", "tags", tags=[""])
        for why, name in BAD_NAMES.items():
            refused(f"with a name {why}", "INVALID_ARGUMENT", "name", name=name)
        checks.that("what was refused is not listed", "seed-none" not in self.listed())

    def room(self) -> None:
        checks = self.checks
        before = self.free()
        filesystem = os.statvfs(self.world.folders["alpha"])
        there = filesystem.f_bavail * filesystem.f_frsize - sum(
            volume.size_gb for volume in self.listed().values()) * GIB
        checks.that("GetFreeBytes is what is there less what volumes may still take",
                    abs(there - before) < SLACK, f"{before}, not about {there}")
        self.create("seed-large", 3)
        taken = before - self.free()
        checks.that("GetFreeBytes sinks by a new volume's size",
                    abs(taken - 3 * GIB) < SLACK, taken)
        self.remove("seed-large")
        checks.that("GetFreeBytes rises when it is removed",
                    abs(before - self.free()) < SLACK, before - self.free())
        checks.fails("GetFreeBytes of an unknown class", "NOT_FOUND", self.vg.GetFreeBytes,
                     pb.GetFreeBytesRequest(device_class="nowhere"), "nowhere")
        checks.fails("GetLVList of an unknown class", "NOT_FOUND", self.vg.GetLVList,
                     pb.GetLVListRequest(device_class="nowhere"), "nowhere")

    def resize(self) -> None:
        checks = self.checks
        self.lv.ResizeLV(pb.ResizeLVRequest(name="seed-vol", size_gb=3))
        checks.equal("ResizeLV grows", self.listed()["seed-vol"].size_gb, 3)
        self.lv.ResizeLV(pb.ResizeLVRequest(name="seed-vol", size_gb=3))
        checks.equal("ResizeLV to the present size is OK", self.listed()["seed-vol"].size_gb, 3)
        for what, code, fields in (
            ("to less", "OUT_OF_RANGE", {"size_gb": 2}),
            ("of a missing volume", "NOT_FOUND", {"name": "seed-none"}),
            ("in an unknown class", "NOT_FOUND", {"device_class": "nowhere"}),
            ("in a class that does not have it", "NOT_FOUND", {"device_class": "beta"}),
            ("to size 0", "INVALID_ARGUMENT", {"size_gb": 0}),
            ("to a size that overflows", "INVALID_ARGUMENT", {"size_gb": 2**33}),
            ("with a bad name", "INVALID_ARGUMENT", {"name": "a/b"}),
            ("beyond the room there is", "RESOURCE_EXHAUSTED", {"size_gb": 2**32}),
        ):
            request = {"name": "seed-vol", "size_gb": 4, **fields}
            checks.fails(f"ResizeLV {what}", code, self.lv.ResizeLV, pb.ResizeLVRequest(**request))
        checks.equal("a refused ResizeLV changes nothing", self.listed()["seed-vol"].size_gb, 3)

    def watch(self) -> common.Watching:
        checks = self.checks
        watching = common.Watching(self.vg.Watch(pb.Empty()))
        first = watching.next()
        checks.that("Watch sends at once", first)
        items = {item.device_class: item.free_bytes for item in first.items}
        checks.equal("Watch has an item for each class", set(items), set(self.world.folders))
        checks.equal("Watch's free_bytes is the default class's", first.free_bytes, items["alpha"])
        self.create("seed-watched", 3)
        checks.that("Watch sends again after a volume was made", watching.next(
            lambda message: message.free_bytes < first.free_bytes - 3 * GIB + SLACK))
        self.lv.ResizeLV(pb.ResizeLVRequest(name="seed-watched", size_gb=6))
        checks.that("Watch sends again after a volume grew", watching.next(
            lambda message: message.free_bytes < first.free_bytes - 6 * GIB + SLACK))
        self.remove("seed-watched")
        checks.that("Watch sends again after a volume was removed", watching.next(
            lambda message: message.free_bytes > first.free_bytes - SLACK))
        return watching

    def removal(self) -> None:
        checks = self.checks
        self.remove("seed-vol")
        checks.that("RemoveLV takes the volume out of the list", "seed-vol" not in self.listed())
        checks.that("RemoveLV takes its image away", not self.world.image("seed-vol").exists())
        for what, code, fields in (
            ("of a volume that is gone", "NOT_FOUND", {}),
            ("in an unknown class", "NOT_FOUND", {"device_class": "nowhere"}),
            ("in a class that does not have it", "NOT_FOUND", {"name": "seed-beta"}),
            ("with a bad name", "INVALID_ARGUMENT", {"name": ""}),
        ):
            request = {"name": "seed-vol", **fields}
            checks.fails(f"RemoveLV {what}", code, self.lv.RemoveLV, pb.RemoveLVRequest(**request))


def main(world: common.World, checks: common.Checks) -> None:
    with world.channel() as channel:
        client = Client(world, channel, checks)
        client.creation()
        client.room()
        client.resize()
        watching = client.watch()
        client.removal()
        seed_backups.main(client)
        seed_restores.main(client)
        common.wait_for_the_end(checks, watching)


common.run("seed", main)
