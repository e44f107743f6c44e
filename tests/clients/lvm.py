"""One scenario on real LVM, in words that both dialects have: lvm_seed.py and lvm_topolvm.py say
them. What the daemon tells is held against what LVM and the kernel have.
"""

import os
import pathlib
import random
import subprocess

import common
from common import GIB, MIB

CLASSES = ("thick", "thin")
POOL_RATIO = 20


def lvm(command: str, field: str, name: str) -> str:
    """A field of what `lvs` or `vgs` tells, sizes in bytes."""
    told = subprocess.run(
        [command, "--noheadings", "--nosuffix", "--units", "b", "-o", field, name],
        check=True, stdout=subprocess.PIPE, text=True)
    return told.stdout.strip()


def device(name: str) -> pathlib.Path:
    return pathlib.Path("/dev/vm", name)


def fill(name: str, seed: int) -> None:
    """Writes 32 MiB that no chunk of is like another, all over the first GiB."""
    content = random.Random(seed)
    with open(device(name), "r+b") as file:
        for piece in range(8):
            file.seek(piece * 120 * MIB)
            file.write(content.randbytes(4 * MIB))
        file.flush()
        os.fsync(file.fileno())


def is_same(name: str, other: str) -> bool:
    with open(device(name), "rb") as one, open(device(other), "rb") as two:
        while piece := one.read(4 * MIB):
            if piece != two.read(4 * MIB):
                return False
        return not two.read(1)


class Course:
    """The scenario in one class. A dialect is a subclass."""

    def __init__(self, world: common.World, channel, checks: common.Checks, device_class: str):
        self.world, self.checks, self.device_class = world, checks, device_class
        self.lv, self.vg = self.stubs(channel)
        self.prefix = f"{self.dialect}-{device_class}"

    def run(self) -> None:
        """From the first volume to the last one's end."""
        data = f"{self.prefix}-data"
        before = self.room()
        watching = common.Watching(self.vg.Watch(self.pb.Empty()))
        self.watched(watching.next())
        self.creation(data, before)
        self.that("Watch sends again when a volume was made",
                  watching.next(lambda message: self.is_true(message)))
        self.refused(data)
        fill(data, seed=1)
        self.growth(data)
        copy = f"{self.prefix}-copy"
        self.copies(data, copy)
        self.removal([data, copy] if device(copy).exists() else [data], before)
        self.that("Watch sends again when volumes were removed",
                  watching.next(lambda message: self.is_true(message)))

    def that(self, what: str, holds: object, seen: object = "") -> None:
        self.checks.that(f"{self.device_class}: {what}", holds, seen)

    def equal(self, what: str, seen: object, wanted: object) -> None:
        self.checks.equal(f"{self.device_class}: {what}", seen, wanted)

    def fails(self, what: str, code: str, call, request, *words: str) -> None:
        self.checks.fails(f"{self.device_class}: {what}", code, call, request, *words)

    def listed(self, device_class: str | None = None) -> dict:
        request = self.pb.GetLVListRequest(device_class=device_class or self.device_class)
        return {volume.name: volume for volume in self.vg.GetLVList(request).volumes}

    def free(self) -> int:
        request = self.pb.GetFreeBytesRequest(device_class=self.device_class)
        return self.vg.GetFreeBytes(request).free_bytes

    def room(self) -> int:
        """What is free, which is to be what LVM has."""
        free, spare = self.free(), self.world.spares[self.device_class]
        if self.device_class == "thick":
            there = int(lvm("vgs", "vg_free", "vm"))
        else:
            promised = sum(int(lvm("lvs", "lv_size", f"vm/{name}")) for name in self.listed())
            there = POOL_RATIO * int(lvm("lvs", "lv_size", "vm/pool")) - promised
        self.equal("GetFreeBytes is what there is, less the spare", free, there - spare)
        return free

    def watched(self, message) -> None:
        self.that("Watch sends at once", message)
        items = {item.device_class: item for item in message.items}
        self.equal("Watch has an item for each class", set(items), set(CLASSES))
        self.that("Watch tells what LVM has", self.is_true(message), message)

    def is_true(self, message) -> bool:
        """Whether it tells what there is now."""
        free = int(lvm("vgs", "vg_free", "vm"))
        items = {item.device_class: item.free_bytes for item in message.items}
        thick = free - self.world.spares["thick"]
        return message.free_bytes == thick and items == {"thick": thick, "thin": free}

    def creation(self, name: str, before: int) -> None:
        made = self.create(name, 1, tags=["made-by=client", "x"])
        self.equal("CreateLV answers name, size and tags",
                   (made.name, self.bytes_of(made), list(made.tags)),
                   (name, GIB, ["made-by=client", "x"]))
        number = os.stat(device(name)).st_rdev
        self.equal("CreateLV answers the device", (made.dev_major, made.dev_minor),
                   (os.major(number), os.minor(number)))
        self.equal("LVM has it with that size and those tags",
                   (lvm("lvs", "lv_size", f"vm/{name}"), lvm("lvs", "lv_tags", f"vm/{name}")),
                   (str(GIB), "made-by=client,x"))
        self.equal("LVM has it in the pool or not",
                   lvm("lvs", "pool_lv", f"vm/{name}"), "pool" if self.is_thin() else "")
        self.equal("GetLVList has the same", self.listed(), {name: made})
        other = next(it for it in CLASSES if it != self.device_class)
        self.that("GetLVList of the other class does not have it", name not in self.listed(other))
        self.equal("GetFreeBytes sinks by its size", self.room(), before - GIB)

    def is_thin(self) -> bool:
        return self.device_class == "thin"

    def refused(self, taken: str) -> None:
        def create(what: str, code: str, *words: str, gib: int = 1, **fields) -> None:
            wanted = {"name": f"{self.prefix}-none", "device_class": self.device_class, **fields}
            self.fails(f"CreateLV {what}", code, self.lv.CreateLV,
                       self.creation_of(gib=gib, **wanted), *words)

        create("with the name taken", "ALREADY_EXISTS", taken, name=taken)
        create("with the pool's name", "ALREADY_EXISTS", "pool", name="pool")
        create("with a name of LVM's own", "INVALID_ARGUMENT", "name", name="x_tdata")
        create("in an unknown class", "NOT_FOUND", "nowhere", device_class="nowhere")
        create("of size 0", "INVALID_ARGUMENT", "size", gib=0)
        create("larger than the room there is", "RESOURCE_EXHAUSTED", gib=64)
        for what, call, request in (
            ("ResizeLV", self.lv.ResizeLV, self.growth_of(f"{self.prefix}-none", 2)),
            ("RemoveLV", self.lv.RemoveLV, self.removal_of(f"{self.prefix}-none")),
        ):
            self.fails(f"{what} of a missing volume", "NOT_FOUND", call, request)
        self.equal("nothing was made of what was refused", list(self.listed()), [taken])

    def growth(self, name: str) -> None:
        self.lv.ResizeLV(self.growth_of(name, 2))
        self.equal("ResizeLV grows, and LVM has it",
                   (self.bytes_of(self.listed()[name]), lvm("lvs", "lv_size", f"vm/{name}")),
                   (2 * GIB, str(2 * GIB)))
        self.fails("ResizeLV beyond the room there is", "RESOURCE_EXHAUSTED", self.lv.ResizeLV,
                   self.growth_of(name, 64))
        self.shrinks_not(name)
        self.equal("it keeps its size then", self.bytes_of(self.listed()[name]), 2 * GIB)
        self.room()

    def removal(self, names: list[str], before: int) -> None:
        for name in names:
            self.lv.RemoveLV(self.removal_of(name))
            self.that("RemoveLV takes the device away", not device(name).exists())
            self.fails("RemoveLV of it again", "NOT_FOUND", self.lv.RemoveLV,
                       self.removal_of(name))
        self.equal("GetLVList is empty", self.listed(), {})
        self.equal("GetFreeBytes is what it was", self.room(), before)

    def removal_of(self, name: str):
        return self.pb.RemoveLVRequest(name=name, device_class=self.device_class)


def main(dialect: type[Course]):
    def run(world: common.World, checks: common.Checks) -> None:
        with world.channel() as channel:
            for device_class in CLASSES:
                dialect(world, channel, checks, device_class).run()
        print("ready", flush=True)

    common.run(f"{dialect.dialect} on LVM", run)
