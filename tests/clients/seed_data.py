"""What the seed's backups and restores have in common: the requests, and the data."""

import filecmp
import pathlib
import random

import common
from common import MIB

import seed_pb2 as pb

REPOSITORY = "backups/repo"
INVERTED = bytes(range(255, -1, -1))
STATES = {state: name for name, state in pb.StateType.items()}


class Data:
    """Requests for backups and restores, and what is to be known of their volumes."""

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
        """Whether the group has an unfinished volume of that name; see volume/directory.rs."""
        return pathlib.Path(self.world.folders["alpha"], "pending", name).exists()

    def damage(self, objects: str) -> None:
        """Inverts the bytes of these objects of the store; see datapath/endpoint/src/folder.rs."""
        for path in pathlib.Path(self.world.objects).glob(objects):
            content = bytearray(path.read_bytes())
            size = int.from_bytes(content[-16:-8], "little")
            content[:size] = content[:size].translate(INVERTED)
            path.write_bytes(content)
