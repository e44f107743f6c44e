"""The scenario of lvm.py in current TopoLVM's dialect, whose copies are snapshots."""

import lvm
from common import GIB, MIB

import topolvm_pb2 as pb
import topolvm_pb2_grpc as rpc


class TopoLvm(lvm.Course):
    dialect, pb = "topolvm", pb

    @staticmethod
    def stubs(channel):
        return rpc.LVServiceStub(channel), rpc.VGServiceStub(channel)

    @staticmethod
    def bytes_of(volume) -> int:
        return volume.size_bytes

    def creation_of(self, name: str, gib: int, **fields) -> pb.CreateLVRequest:
        return pb.CreateLVRequest(name=name, size_bytes=gib * GIB, **fields)

    def create(self, name: str, gib: int, **fields) -> pb.LogicalVolume:
        request = self.creation_of(name, gib, device_class=self.device_class, **fields)
        made = self.lv.CreateLV(request).volume
        self.equal("CreateLV answers path and attributes as lvs does", (made.path, made.attr),
                   (f"/dev/vm/{name}", lvm.lvm("lvs", "lv_attr", f"vm/{name}")))
        return made

    def growth_of(self, name: str, gib: int) -> pb.ResizeLVRequest:
        size_bytes = gib * GIB
        return pb.ResizeLVRequest(name=name, size_bytes=size_bytes, device_class=self.device_class)

    def shrinks_not(self, name: str) -> None:
        kept = self.lv.ResizeLV(self.growth_of(name, 1)).size_bytes
        self.equal("ResizeLV to less is OK and answers the present size", kept, 2 * GIB)

    def is_true(self, message) -> bool:
        items = {item.device_class: item for item in message.items}
        pool, size = items["thin"].thin_pool, int(lvm.lvm("lvs", "lv_size", "vm/pool"))
        return (super().is_true(message) and pool.size_bytes == size
                and not items["thick"].HasField("thin_pool"))

    def copies(self, name: str, copy: str) -> None:
        before = self.free()
        request = pb.CreateLVSnapshotRequest(
            name=copy, source_volume=name, access_type="ro", device_class=self.device_class,
            tags=["snap"])
        if not self.is_thin():
            self.fails("CreateLVSnapshot of a thick volume", "UNIMPLEMENTED",
                       self.lv.CreateLVSnapshot, request)
            self.that("no snapshot was made", not lvm.device(copy).exists())
            return
        made = self.lv.CreateLVSnapshot(request).snapshot
        self.equal("CreateLVSnapshot has its source's size and is read-only",
                   (made.size_bytes, made.attr[:2]), (2 * GIB, "Vr"))
        self.equal("GetLVList has it", self.listed().get(copy), made)
        self.equal("GetFreeBytes sinks by its size", self.room(), before - 2 * GIB)
        self.that("it has its source's bytes", lvm.is_same(copy, name))
        lvm.fill(name, seed=2)
        self.that("it has them alone once the source is written to", not lvm.is_same(copy, name))
        for what, code, fields in (
            ("with the name taken", "ALREADY_EXISTS", {}),
            ("of a missing source", "NOT_FOUND", {"name": "none", "source_volume": "none"}),
            ("smaller than its source", "OUT_OF_RANGE", {"name": "none", "size_bytes": MIB}),
        ):
            refused = pb.CreateLVSnapshotRequest()
            refused.CopyFrom(request)
            refused.MergeFrom(pb.CreateLVSnapshotRequest(**fields))
            self.fails(f"CreateLVSnapshot {what}", code, self.lv.CreateLVSnapshot, refused)


lvm.main(TopoLvm)
