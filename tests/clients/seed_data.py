"""The seed's client goes on: CreateBackup, and CreateLV with a data source."""

import filecmp
import pathlib
import random
import re
import time

import common
import gate
from common import GIB, MIB

import seed_pb2 as pb

REPOSITORY = "backups/repo"
STATES = {state: name for name, state in pb.StateType.items()}


class Data:
    """Backups and restores of a client."""

    def __init__(self, client):
        self.client, self.world, self.checks = client, client.world, client.checks

    def source(self, path: str, synchronous: bool = True, **fields) -> pb.DataSource:
        s3 = {"path": path, "endpoint": self.world.endpoint,
              "access_key_id": self.world.access_key_id,
              "secret_access_key": self.world.secret_access_key, **fields}
        return pb.DataSource(synchronous_restore=synchronous, s3=pb.DataSource.S3(**s3))

    def backup(self, name: str, handle: str, path: str, **fields) -> pb.CreateBackupRequest:
        source = self.source(path, **fields)
        return pb.CreateBackupRequest(
            backup=pb.Backup(name=name, volume_handle=handle, data_source=source))

    def restore(self, name: str, path: str, size_gb: int = 1, **fields) -> pb.CreateLVRequest:
        return pb.CreateLVRequest(
            name=name, size_gb=size_gb, data_source=self.source(path, **fields))

    def poll(self, request: pb.CreateBackupRequest) -> tuple[str, str]:
        answer = self.client.lv.CreateBackup(request, timeout=common.CALL_SECONDS).backup_state
        assert answer.name == request.backup.name, answer
        return STATES[answer.state], answer.msg

    def poll_to_the_end(self, request: pb.CreateBackupRequest) -> tuple[str, str]:
        return common.until(lambda: (state := self.poll(request))[0] != "INPROGRESS" and state, 60)

    def completes(self, what: str, request: pb.CreateBackupRequest) -> None:
        ended = self.poll_to_the_end(request)
        self.checks.that(f"{what} comes to COMPLETE", ended and ended[0] == "COMPLETE", ended)

    def fill(self, name: str, seed: int) -> None:
        """Writes 64 MiB that no chunk of is like another, all over the first GiB."""
        content = random.Random(seed)
        with open(self.world.image(name), "r+b") as image:
            for piece in range(16):
                image.seek(piece * 60 * MIB)
                image.write(content.randbytes(4 * MIB))

    def is_same(self, name: str, other: str) -> bool:
        return filecmp.cmp(self.world.image(name), self.world.image(other), shallow=False)

    def is_pending(self, name: str) -> bool:
        return pathlib.Path(self.world.folders["alpha"], "pending", name).exists()

    def backups(self) -> None:
        checks, client = self.checks, self.client
        client.create("seed-data")
        self.fill("seed-data", seed=1)
        held = gate.Gate(self.world.endpoint, up_bytes=16 * MIB)
        monday = self.backup("bk-monday", "seed-data", f"{REPOSITORY}/monday", endpoint=held.url)
        checks.equal("CreateBackup answers INPROGRESS at once", self.poll(monday)[0], "INPROGRESS")
        checks.that("the backup's data comes by", held.wait_until_held())
        state, msg = self.poll(monday)
        checks.equal("a poll while the store does not answer is INPROGRESS", state, "INPROGRESS")
        checks.that("its msg has percent, bytes, rate and time left",
                    re.search(r"\d %.*\d GiB.*\d \S*B/s.* left", msg), msg)
        checks.that("GetLVList answers meanwhile", "seed-data" in client.listed())
        for what, other in (
            ("another path", self.backup("bk-monday", "seed-data", f"{REPOSITORY}/other")),
            ("another volume", self.backup("bk-monday", "seed-other", f"{REPOSITORY}/monday")),
        ):
            checks.fails(f"CreateBackup of a running backup's name with {what}", "ABORTED",
                         client.lv.CreateBackup, other, "bk-monday")
        held.open()
        self.completes("CreateBackup polled", monday)
        checks.equal("a poll after that is COMPLETE again", self.poll(monday)[0], "COMPLETE")
        checks.that("nothing of a backup is listed as a volume",
                    set(client.listed()) <= {"seed-data", "topo-default"}, client.listed().keys())

        taken = self.backup("bk-other", "seed-data", f"{REPOSITORY}/monday")
        for time_ in ("", " again, when asked again"):
            ended = self.poll_to_the_end(taken)
            checks.that(f"CreateBackup to a path that is taken comes to ERROR{time_}, saying so",
                        ended and ended[0] == "ERROR" and "bk-monday" in ended[1], ended)

        client.create("seed-twin")
        client.create("seed-twin", device_class="beta")
        checks.fails("CreateBackup of a volume that several groups have", "INVALID_ARGUMENT",
                     client.lv.CreateBackup, self.backup("bk-twin", "seed-twin", "backups/t/a"),
                     "volume_handle")
        self.completes("CreateBackup by group/volume, an s3:// path and another repository",
                       self.backup("bk-twin", "beta/seed-twin", "s3://backups/t/a"))
        client.create("seed-wide", 2)
        self.completes("CreateBackup of 2 GiB",
                       self.backup("bk-wide", "seed-wide", f"{REPOSITORY}/wide"))

        client.remove("seed-wide")
        checks.equal("a poll when the volume is gone is COMPLETE", self.poll(
            self.backup("bk-wide", "seed-wide", f"{REPOSITORY}/wide"))[0], "COMPLETE")
        for what, fields in (("", {}), (" in a new repository", {"path": "backups/none/x"}),
                             (" with another's path", {"path": f"{REPOSITORY}/monday"}),
                             (" in an unknown group", {"handle": "nowhere/seed-data"})):
            request = {"name": "bk-none", "handle": "seed-none", "path": f"{REPOSITORY}/none"}
            checks.fails(f"CreateBackup of an unknown volume{what}", "NOT_FOUND",
                         client.lv.CreateBackup, self.backup(**{**request, **fields}))

    def backups_refused(self) -> None:
        good = self.source(f"{REPOSITORY}/x")
        fields = {"name": "bk-bad", "volume_handle": "seed-data", "data_source": good}
        for what, backup, word in (
            ("without backup", None, "backup"),
            ("without data_source", {"data_source": None}, "backup.data_source"),
            ("without s3", {"data_source": pb.DataSource()}, "backup.data_source.s3"),
            ("without a name", {"name": ""}, "backup.name"),
            ("without a handle", {"volume_handle": ""}, "backup.volume_handle"),
            ("with a handle of three parts", {"volume_handle": "a/b/c"}, "backup.volume_handle"),
        ):
            request = pb.CreateBackupRequest()
            if backup is not None:
                request.backup.CopyFrom(pb.Backup(**{**fields, **backup}))
            self.checks.fails(f"CreateBackup {what}", "INVALID_ARGUMENT",
                              self.client.lv.CreateBackup, request, word)
        for field, value in (
            ("path", ""), ("path", "backups"), ("path", "backups/x?versionId=1"),
            ("path", "key:secret@backups/x"), ("path", "backups//x"), ("path", "backups/log/x"),
            ("path", "https://backups/x"),
            ("endpoint", "127.0.0.1:9000"), ("endpoint", "ftp://127.0.0.1"),
            ("endpoint", "http://127.0.0.1/path"), ("endpoint", "http://key:secret@127.0.0.1"),
            ("http_proxy", "nonsense proxy"), ("secret_access_key", ""), ("access_key_id", ""),
        ):
            s3 = {"path": f"{REPOSITORY}/x", field: value}
            path = s3.pop("path")
            for call, name, request in (
                (self.client.lv.CreateBackup, f"CreateBackup with the {field} {value!r}",
                 self.backup("bk-bad", "seed-data", path, **s3)),
                (self.client.lv.CreateLV, f"CreateLV from the {field} {value!r}",
                 self.restore("seed-none", path, **s3)),
            ):
                self.checks.fails(name, "INVALID_ARGUMENT", call, request, f"data_source.s3.{field}")
        self.checks.fails("CreateBackup with encryption_key", "UNIMPLEMENTED",
                          self.client.lv.CreateBackup, self.backup(
                              "bk-bad", "seed-data", "backups/sealed/x", encryption_key="passphrase"),
                          "encryption_key")
        written = list(pathlib.Path(self.world.objects).glob("sealed*"))
        self.checks.equal("nothing was written for it", written, [])

    def restores(self) -> None:
        checks, lv = self.checks, self.client.lv
        path = f"{REPOSITORY}/monday"
        made = lv.CreateLV(self.restore("seed-copy", path), timeout=60).volume
        checks.equal("CreateLV from a backup, synchronous, answers the volume",
                     (made.name, made.size_gb), ("seed-copy", 1))
        checks.that("it is listed then", "seed-copy" in self.client.listed())
        checks.that("it has the same bytes", self.is_same("seed-copy", "seed-data"))
        lv.CreateLV(self.restore("seed-wider", path, size_gb=2, tags=["t"]), timeout=60)
        checks.equal("CreateLV from a backup can be larger",
                     self.client.listed()["seed-wider"].size_gb, 2)
        checks.fails("CreateLV from a backup with the name taken", "ALREADY_EXISTS", lv.CreateLV,
                     self.restore("seed-data", path), "seed-data")

        nowhere = gate.closed_port()
        slow = {
            "from an endpoint that is not there": lv.CreateLV.future(
                self.restore("seed-none", path, endpoint=nowhere), timeout=60),
            "by a proxy that is not there": lv.CreateLV.future(
                self.restore("seed-none2", path, http_proxy=nowhere), timeout=60),
            "from an endpoint that is not there, asynchronous,": lv.CreateLV.future(
                self.restore("seed-none3", path, endpoint=nowhere, synchronous=False), timeout=60),
        }
        for what, code, name, fields in (
            ("that is not there", "NOT_FOUND", "none", {}),
            ("that is not there, asynchronous,", "NOT_FOUND", "none", {"synchronous": False}),
            ("with a wrong secret", "PERMISSION_DENIED", "monday", {"secret_access_key": "wrong"}),
            ("with a wrong key id", "PERMISSION_DENIED", "monday", {"access_key_id": "WRONG"}),
            ("that is larger", "OUT_OF_RANGE", "wide", {}),
            ("with encryption_key", "UNIMPLEMENTED", "monday", {"encryption_key": "passphrase"}),
        ):
            request = self.restore("seed-none4", f"{REPOSITORY}/{name}", **fields)
            checks.fails(f"CreateLV from a backup {what}", code, lv.CreateLV, request)
        checks.fails("CreateLV from a repository that is not there", "NOT_FOUND", lv.CreateLV,
                     self.restore("seed-none4", "backups/none/monday"))
        checks.fails("CreateLV from a bucket that is not there", "NOT_FOUND", lv.CreateLV,
                     self.restore("seed-none4", "no-bucket/none/monday"))
        checks.fails("CreateLV with a data source without s3", "INVALID_ARGUMENT", lv.CreateLV,
                     pb.CreateLVRequest(name="seed-none4", size_gb=1,
                                        data_source=pb.DataSource(synchronous_restore=True)),
                     "data_source.s3")
        for what, future in slow.items():
            checks.failed(f"CreateLV {what}", "UNAVAILABLE", future)
        left = [name for name in self.client.listed() if name.startswith("seed-none")]
        checks.equal("nothing is left of what was refused", left, [])

    def restores_under_way(self) -> None:
        checks, lv = self.checks, self.client.lv
        path = f"{REPOSITORY}/monday"
        held = gate.Gate(self.world.endpoint, down_bytes=16 * MIB)

        def wanted(name: str = "seed-later", **fields) -> pb.CreateLVRequest:
            return self.restore(name, path, **{"endpoint": held.url, "synchronous": False, **fields})

        answer = lv.CreateLV(wanted(), timeout=10).volume
        checks.equal("CreateLV, asynchronous, answers at once", answer.name, "seed-later")
        checks.that("its data comes by", held.wait_until_held())
        checks.that("GetLVList answers without it", "seed-later" not in self.client.listed())
        checks.equal("a repeated call joins and answers at once",
                     lv.CreateLV(wanted(), timeout=10).volume.name, "seed-later")
        for what, other in (("another size", wanted(size_gb=2)),
                            ("another backup", self.restore("seed-later", f"{REPOSITORY}/wide", 2)),
                            ("no backup", pb.CreateLVRequest(name="seed-later", size_gb=1))):
            checks.fails(f"CreateLV of the name under restore with {what}", "ALREADY_EXISTS",
                         lv.CreateLV, other, "seed-later")
        gone = lv.CreateLV.future(wanted("seed-gone", synchronous=True), timeout=60)
        joined = lv.CreateLV.future(wanted(synchronous=True), timeout=60)
        cancelled = lv.CreateLV.future(wanted(synchronous=True), timeout=60)
        time.sleep(0.5)
        checks.that("a synchronous call joins, and waits", not joined.done())
        cancelled.cancel()
        self.client.remove("seed-gone")
        checks.failed("a restore whose volume is removed", "ABORTED", gone)
        checks.that("nothing is left of it", not self.is_pending("seed-gone"))
        held.open()
        checks.equal("joined calls are answered, though one of them was cancelled",
                     joined.result().volume.name, "seed-later")
        checks.that("the volume is listed then", "seed-later" in self.client.listed())
        checks.that("it has the same bytes", self.is_same("seed-later", "seed-data"))
        self.client.remove("seed-later")
        lv.CreateLV(wanted("seed-later", endpoint=self.world.endpoint), timeout=10)
        checks.that("CreateLV, asynchronous, of a name that was removed is listed later",
                    common.until(lambda: "seed-later" in self.client.listed()))

    def damage(self, objects: str) -> None:
        """Inverts the bytes of these objects of the store; see the endpoint's folder.rs."""
        for path in pathlib.Path(self.world.objects).glob(objects):
            content = bytearray(path.read_bytes())
            size = int.from_bytes(content[-16:-8], "little")
            content[:size] = bytes(byte ^ 0xFF for byte in content[:size])
            path.write_bytes(content)

    def damaged(self) -> None:
        checks, lv = self.checks, self.client.lv
        path = "backups/hurt/x"
        self.completes("CreateBackup to be damaged", self.backup("bk-hurt", "seed-data", path))
        self.damage("hurt%2Fdata%2F*")
        checks.fails("CreateLV from damaged data", "DATA_LOSS", lv.CreateLV,
                     self.restore("seed-hurt", path))
        later = self.restore("seed-hurt", path, synchronous=False)
        lv.CreateLV(later, timeout=10)

        def next_call():
            return lv.CreateLV.future(later, timeout=10).exception()

        error = common.until(next_call)
        checks.equal("CreateLV from damaged data, asynchronous, is DATA_LOSS in a later call",
                     error and error.code().name, "DATA_LOSS")
        checks.that("nothing is left of it",
                    not self.is_pending("seed-hurt") and "seed-hurt" not in self.client.listed())
        self.damage("hurt%2Ftree%2F*")
        checks.fails("CreateLV from a damaged tree", "DATA_LOSS", lv.CreateLV,
                     self.restore("seed-hurt", path))

    def backup_of_a_removed_volume(self) -> None:
        checks = self.checks
        request = self.backup("bk-stuck", "seed-copy", "backups/stuck/x",
                              endpoint=gate.closed_port())
        self.poll(request)
        time.sleep(1)
        checks.equal("CreateBackup to an endpoint that is not there stays INPROGRESS",
                     self.poll(request)[0], "INPROGRESS")
        self.client.remove("seed-copy")
        checks.equal("RemoveLV ends the volume's backup with ERROR", self.poll(request)[0], "ERROR")
        began = time.monotonic()
        checks.fails("a poll when neither volume nor store is there", "UNAVAILABLE",
                     self.client.lv.CreateBackup, request)
        took = time.monotonic() - began
        checks.that("it answers within 5 s", took < 6, f"{took:.1f} s")


def main(client) -> None:
    data = Data(client)
    data.backups()
    data.backups_refused()
    data.restores()
    data.restores_under_way()
    data.damaged()
    data.backup_of_a_removed_volume()
