"""The seed's client goes on: CreateLV with a data source, of the backups of seed_backups.py."""

import time

import common
import gate
from common import MIB
from seed_data import Data, REPOSITORY

import seed_pb2 as pb

MONDAY = f"{REPOSITORY}/monday"


class Restores(Data):
    def synchronous(self) -> None:
        checks, lv = self.checks, self.client.lv
        made = lv.CreateLV(self.restore("seed-copy", MONDAY), timeout=60).volume
        checks.equal("CreateLV from a backup, synchronous, answers the volume",
                     (made.name, made.size_gb), ("seed-copy", 1))
        checks.that("it is listed then", "seed-copy" in self.client.listed())
        checks.that("it has the same bytes", self.is_same("seed-copy", "seed-data"))
        lv.CreateLV(self.restore("seed-wider", MONDAY, size_gb=2), timeout=60)
        checks.equal("CreateLV from a backup can be larger",
                     self.client.listed()["seed-wider"].size_gb, 2)

    def refused(self) -> None:
        checks, lv = self.checks, self.client.lv
        nowhere = gate.closed_port()
        # Those that take their time are asked all at once.
        slow = {
            what: lv.CreateLV.future(self.restore(name, MONDAY, **fields), timeout=60)
            for what, name, fields in (
                ("from an endpoint that is not there", "seed-none1", {"endpoint": nowhere}),
                ("from an endpoint that is not there, asynchronous,", "seed-none2",
                 {"endpoint": nowhere, "synchronous": False}),
                ("by a proxy that is not there", "seed-none3", {"http_proxy": nowhere}),
            )
        }
        checks.fails("CreateLV from a backup with the name taken", "ALREADY_EXISTS", lv.CreateLV,
                     self.restore("seed-data", MONDAY), "seed-data")
        for what, code, path, fields in (
            ("that is not there", "NOT_FOUND", f"{REPOSITORY}/none", {}),
            ("that is not there, asynchronous,", "NOT_FOUND", f"{REPOSITORY}/none",
             {"synchronous": False}),
            ("in a repository that is not there", "NOT_FOUND", "backups/none/monday", {}),
            ("in a bucket that is not there", "NOT_FOUND", "no-bucket/repo/monday", {}),
            ("with a wrong secret", "PERMISSION_DENIED", MONDAY, {"secret_access_key": "wrong"}),
            ("with a wrong key id", "PERMISSION_DENIED", MONDAY, {"access_key_id": "WRONG"}),
            ("that is larger", "OUT_OF_RANGE", f"{REPOSITORY}/wide", {}),
            ("with a key it does not have", "PERMISSION_DENIED", MONDAY,
             {"encryption_key": "open-sesame-4711"}),
        ):
            checks.fails(f"CreateLV from a backup {what}", code, lv.CreateLV,
                         self.restore("seed-none", path, **fields))
        checks.fails("CreateLV from a backup in an unknown class", "NOT_FOUND", lv.CreateLV,
                     pb.CreateLVRequest(name="seed-none", size_gb=1, device_class="nowhere",
                                        data_source=self.source(MONDAY)), "nowhere")
        for what, source in (("an empty data source", pb.DataSource()),
                             ("a data source without s3", pb.DataSource(synchronous_restore=True))):
            checks.fails(f"CreateLV with {what}", "INVALID_ARGUMENT", lv.CreateLV,
                         pb.CreateLVRequest(name="seed-none", size_gb=1, data_source=source),
                         "data_source.s3")
        for what, future in slow.items():
            checks.failed(f"CreateLV {what}", "UNAVAILABLE", future)
        left = [name for name in self.client.listed() if name.startswith("seed-none")]
        checks.equal("nothing is left of what was refused", left, [])

    def asynchronous(self) -> None:
        """Held on the way, so that others can join or be refused meanwhile."""
        checks, lv = self.checks, self.client.lv
        held = gate.Gate(self.world.endpoint, down_bytes=16 * MIB)

        def later(synchronous: bool = False, size_gb: int = 1) -> pb.CreateLVRequest:
            return self.restore("seed-later", MONDAY, size_gb, synchronous=synchronous,
                                endpoint=held.url)

        answer = lv.CreateLV(later(), timeout=10).volume
        checks.equal("CreateLV, asynchronous, answers at once", answer.name, "seed-later")
        checks.that("its data comes by", held.wait_until_held())
        checks.that("GetLVList answers without it", "seed-later" not in self.client.listed())
        checks.equal("a repeated call joins and answers at once",
                     lv.CreateLV(later(), timeout=10).volume.name, "seed-later")
        for what, other in (
            ("another size", later(size_gb=2)),
            ("another backup", self.restore("seed-later", f"{REPOSITORY}/wide", 2)),
            ("no backup", pb.CreateLVRequest(name="seed-later", size_gb=1)),
        ):
            checks.fails(f"CreateLV of the name under restore with {what}", "ALREADY_EXISTS",
                         lv.CreateLV, other, "seed-later")
        joined = lv.CreateLV.future(later(synchronous=True), timeout=60)
        cancelled = lv.CreateLV.future(later(synchronous=True), timeout=60)
        time.sleep(0.5)
        checks.that("a synchronous call joins, and waits", not joined.done())
        cancelled.cancel()
        held.open()
        checks.equal("it is answered, though another that joined was cancelled",
                     joined.result().volume.name, "seed-later")
        checks.that("the volume is listed then", "seed-later" in self.client.listed())
        checks.that("it has the same bytes", self.is_same("seed-later", "seed-data"))

        self.client.remove("seed-later")
        lv.CreateLV(self.restore("seed-later", MONDAY, synchronous=False), timeout=10)
        checks.that("a volume restored asynchronously is listed later, without another call",
                    common.until(lambda: "seed-later" in self.client.listed()))
        checks.that("it has the same bytes, too", self.is_same("seed-later", "seed-data"))

    def removed(self) -> None:
        checks = self.checks
        held = gate.Gate(self.world.endpoint, down_bytes=16 * MIB)
        request = self.restore("seed-gone", MONDAY, endpoint=held.url)
        waiting = self.client.lv.CreateLV.future(request, timeout=60)
        checks.that("another restore runs", held.wait_until_held() and self.is_pending("seed-gone"))
        self.client.remove("seed-gone")
        checks.failed("a restore whose volume is removed", "ABORTED", waiting)
        checks.that("nothing is left of it", not self.is_pending("seed-gone")
                    and "seed-gone" not in self.client.listed())
        checks.fails("RemoveLV of it again", "NOT_FOUND", self.client.lv.RemoveLV,
                     pb.RemoveLVRequest(name="seed-gone"))

    def damaged(self) -> None:
        checks, lv = self.checks, self.client.lv
        path = "backups/hurt/x"
        self.completes("CreateBackup to be damaged", self.backup("bk-hurt", "seed-data", path))
        self.damage("hurt%2Fdata%2F*")
        checks.fails("CreateLV from damaged data", "DATA_LOSS", lv.CreateLV,
                     self.restore("seed-hurt", path))
        later = self.restore("seed-hurt", path, synchronous=False)
        lv.CreateLV(later, timeout=10)
        error = common.until(lambda: lv.CreateLV.future(later, timeout=10).exception())
        checks.equal("CreateLV from damaged data, asynchronous, is DATA_LOSS in a later call",
                     error and error.code().name, "DATA_LOSS")
        checks.that("nothing is left of it", not self.is_pending("seed-hurt")
                    and "seed-hurt" not in self.client.listed())
        self.damage("hurt%2Ftree%2F*")
        checks.fails("CreateLV from a damaged tree", "DATA_LOSS", lv.CreateLV,
                     self.restore("seed-hurt", path))


def main(client) -> None:
    restores = Restores(client)
    restores.synchronous()
    restores.refused()
    restores.asynchronous()
    restores.removed()
    restores.damaged()
