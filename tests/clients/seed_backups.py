"""The seed's client goes on: CreateBackup.

Leaves behind the volume "seed-data" and, of it, the backup "monday"; "wide" is one of 2 GiB.
"""

import pathlib
import re
import time

import gate
from common import MIB
from seed_data import Data, REPOSITORY

import seed_pb2 as pb


class Backups(Data):
    def course(self) -> None:
        """From the first call to COMPLETE, held on the way so that there is something to see."""
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
        ours = {name for name in client.listed() if not name.startswith("topo-")}
        checks.equal("nothing of a backup is listed as a volume", ours, {"seed-data"})

    def places(self) -> None:
        """Which volume, which path."""
        checks, client = self.checks, self.client
        taken = self.backup("bk-other", "seed-data", f"{REPOSITORY}/monday")
        ended = self.poll_to_the_end(taken)
        checks.that("CreateBackup to a path that is taken comes to ERROR, saying so",
                    ended and ended[0] == "ERROR" and "bk-monday" in ended[1], ended)
        checks.equal("ERROR is told once: a later call starts again",
                     self.poll(taken)[0], "INPROGRESS")
        ended = self.poll_to_the_end(taken)
        checks.equal("and comes to ERROR again", ended and ended[0], "ERROR")

        client.create("seed-twin")
        client.create("seed-twin", device_class="beta")
        checks.fails("CreateBackup of a volume that several groups have", "INVALID_ARGUMENT",
                     client.lv.CreateBackup, self.backup("bk-twin", "seed-twin", "backups/t/a"),
                     "volume_handle")
        self.completes("CreateBackup by group/volume, an s3:// path and another repository",
                       self.backup("bk-twin", "beta/seed-twin", "s3://backups/t/a"))

        client.create("seed-wide", 2)
        wide = self.backup("bk-wide", "seed-wide", f"{REPOSITORY}/wide")
        self.completes("CreateBackup of 2 GiB", wide)
        client.remove("seed-wide")
        checks.equal("a poll when the volume is gone is COMPLETE", self.poll(wide)[0], "COMPLETE")

        for what, fields in (
            ("", {}),
            (" in a new repository", {"path": "backups/none/x"}),
            (" with another's path", {"path": f"{REPOSITORY}/monday"}),
            (" in an unknown group", {"handle": "nowhere/seed-data"}),
        ):
            request = {"name": "bk-none", "handle": "seed-none", "path": f"{REPOSITORY}/none"}
            checks.fails(f"CreateBackup of an unknown volume{what}", "NOT_FOUND",
                         client.lv.CreateBackup, self.backup(**{**request, **fields}))

    def refused(self) -> None:
        lv, checks = self.client.lv, self.checks
        good = {"name": "bk-bad", "volume_handle": "seed-data",
                "data_source": self.source(f"{REPOSITORY}/x")}
        for what, fields, word in (
            ("without data_source", {"data_source": None}, "backup.data_source"),
            ("without s3", {"data_source": pb.DataSource()}, "backup.data_source.s3"),
            ("without a name", {"name": ""}, "backup.name"),
            ("without a handle", {"volume_handle": ""}, "backup.volume_handle"),
            ("with a handle of three parts", {"volume_handle": "a/b/c"}, "backup.volume_handle"),
        ):
            request = pb.CreateBackupRequest(backup=pb.Backup(**{**good, **fields}))
            checks.fails(f"CreateBackup {what}", "INVALID_ARGUMENT", lv.CreateBackup, request, word)
        checks.fails("CreateBackup without backup", "INVALID_ARGUMENT", lv.CreateBackup,
                     pb.CreateBackupRequest(), "backup")
        for field, value in (
            ("path", ""),
            ("path", "backups"),
            ("path", "backups//x"),
            ("path", "backups/log/x"),
            ("path", "backups/x?versionId=1"),
            ("path", "key:secret@backups/x"),
            ("path", "https://backups/x"),
            ("endpoint", "127.0.0.1:9000"),
            ("endpoint", "ftp://127.0.0.1"),
            ("endpoint", "http://127.0.0.1/path"),
            ("endpoint", "http://key:secret@127.0.0.1"),
            ("http_proxy", "nonsense proxy"),
            ("https_proxy", "ftp://127.0.0.1"),
            ("access_key_id", ""),
            ("secret_access_key", ""),
        ):
            s3 = {"path": f"{REPOSITORY}/x", field: value}
            for what, call, request in (
                ("CreateBackup", lv.CreateBackup, self.backup("bk-bad", "seed-data", **s3)),
                ("CreateLV", lv.CreateLV, self.restore("seed-none", **s3)),
            ):
                checks.fails(f"{what} with the {field} {value!r}", "INVALID_ARGUMENT",
                             call, request, f"data_source.s3.{field}")
        long = self.backup("bk-bad", "seed-data", "backups/sealed/x", encryption_key="x" * 1025)
        checks.fails("CreateBackup with an encryption_key of 1025 bytes", "INVALID_ARGUMENT",
                     lv.CreateBackup, long, "encryption_key")
        written = list(pathlib.Path(self.world.objects).glob("sealed*"))
        checks.equal("nothing was written for it", written, [])

    def removed(self) -> None:
        """The volume goes while its backup waits for an endpoint that is not there."""
        checks, client = self.checks, self.client
        client.create("seed-removed")
        request = self.backup("bk-stuck", "seed-removed", "backups/stuck/x",
                              endpoint=gate.closed_port())
        self.poll(request)
        time.sleep(1)
        checks.equal("CreateBackup to an endpoint that is not there stays INPROGRESS",
                     self.poll(request)[0], "INPROGRESS")
        client.remove("seed-removed")
        checks.equal("RemoveLV ends the volume's backup with ERROR", self.poll(request)[0], "ERROR")
        began = time.monotonic()
        checks.fails("a poll when neither volume nor store is there", "UNAVAILABLE",
                     client.lv.CreateBackup, request)
        took = time.monotonic() - began
        checks.that("it answers within 5 s", took < 6, f"{took:.1f} s")


def main(client) -> None:
    backups = Backups(client)
    backups.course()
    backups.places()
    backups.refused()
    backups.removed()
