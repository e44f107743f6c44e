"""The scenario of lvm.py in the seed's dialect, whose copies are backups that are restored."""

import lvm
from common import GIB
from seed_data import Data, REPOSITORY

import seed_pb2 as pb
import seed_pb2_grpc as rpc


class Seed(lvm.Course):
    dialect, pb = "seed", pb

    @staticmethod
    def stubs(channel):
        return rpc.LVServiceStub(channel), rpc.VGServiceStub(channel)

    @staticmethod
    def bytes_of(volume) -> int:
        return volume.size_gb * GIB

    def creation_of(self, name: str, gib: int, **fields) -> pb.CreateLVRequest:
        return pb.CreateLVRequest(name=name, size_gb=gib, **fields)

    def create(self, name: str, gib: int, **fields) -> pb.LogicalVolume:
        request = self.creation_of(name, gib, device_class=self.device_class, **fields)
        return self.lv.CreateLV(request).volume

    def growth_of(self, name: str, gib: int) -> pb.ResizeLVRequest:
        return pb.ResizeLVRequest(name=name, size_gb=gib, device_class=self.device_class)

    def shrinks_not(self, name: str) -> None:
        self.fails("ResizeLV to less", "OUT_OF_RANGE", self.lv.ResizeLV, self.growth_of(name, 1))

    def copies(self, name: str, copy: str) -> None:
        data, path = Data(self), f"{REPOSITORY}/{self.device_class}"
        before = self.free()
        backup = data.backup(f"bk-{self.device_class}", f"vm/{name}", path)
        self.equal("CreateBackup answers INPROGRESS at once", data.poll(backup)[0], "INPROGRESS")
        data.completes(f"{self.device_class}: CreateBackup polled", backup)
        self.equal("a poll after that is COMPLETE again", data.poll(backup)[0], "COMPLETE")
        self.equal("nothing of a backup is listed as a volume", list(self.listed()), [name])
        self.equal("GetFreeBytes is what it was before", self.room(), before)

        def restore(name: str, path: str, gib: int) -> pb.CreateLVRequest:
            request = data.restore(name, path, gib)
            request.device_class = self.device_class
            request.tags.append("restored")
            return request

        for what, code, request in (
            ("that is not there", "NOT_FOUND", restore(copy, f"{REPOSITORY}/none", 2)),
            ("that is larger", "OUT_OF_RANGE", restore(copy, path, 1)),
            ("with the name taken", "ALREADY_EXISTS", restore(name, path, 2)),
        ):
            self.fails(f"CreateLV from a backup {what}", code, self.lv.CreateLV, request)
        self.that("nothing is left of what was refused", not lvm.device(copy).exists())

        made = self.lv.CreateLV(restore(copy, path, 2), timeout=120).volume
        self.equal("CreateLV from a backup answers the volume that is listed then",
                   self.listed()[copy], made)
        self.that("it has the same bytes", lvm.is_same(copy, name))
        self.equal("GetFreeBytes sinks by its size", self.room(), before - 2 * GIB)
        if self.is_thin():
            percent = float(lvm.lvm("lvs", "data_percent", f"vm/{copy}"))
            self.that("it takes what it holds of the pool: 32 MiB of 2 GiB", percent < 2.5, percent)


lvm.main(Seed)
