#!/usr/bin/env python3
"""Moves a repository's objects about, as files under their names.

    objects.py upload FOLDER PREFIX      to the bucket `backups`
    objects.py pages FOLDER              from the dumps in docs/formats
"""

import re
import sys
from pathlib import Path

from store import s3_client

BUCKET = "backups"
PAGES = Path(__file__).resolve().parents[2] / "docs" / "formats"


def store(folder, name, data):
    path = Path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def upload(folder, prefix):
    s3 = s3_client()
    for path in (p for p in Path(folder).rglob("*") if p.is_file()):
        key = f"{prefix}/{path.relative_to(folder)}"
        s3.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())


def undump(text):
    """The bytes of a dump in the form of `hexdump -C`."""
    data, row = b"", b""
    lines = text.splitlines()
    for line, following in zip(lines, lines[1:]):
        if line == "*":
            data += row * ((int(following.split()[0], 16) - len(data)) // len(row))
            continue
        offset, row = int(line[:8], 16), bytes.fromhex(line[8:58])
        assert offset == len(data), line
        data += row
    assert len(data) == int(lines[-1], 16), lines[-1]
    return data


def dumps(what):
    """The dumps on the pages that are marked with `what`, by name."""
    block = re.compile(rf"^```hex {what}=(\S+)\n(.*?)^```", re.M | re.S)
    return {name: undump(dump) for page in PAGES.glob("*.md")
            for name, dump in block.findall(page.read_text())}


def dumped():
    """The objects on the pages, by name; those of the encrypted repository begin with `sealed/`."""
    # Names without a slash are `repository`, and examples of their own that are no objects.
    return {name: data for name, data in dumps("name").items()
            if "/" in name or name == "repository"}


def dumped_records():
    """Records of chunks, by the name of their codec."""
    return dumps("record")


def pages(folder):
    """Into the folders `clear` and `sealed` of a folder."""
    for name, data in dumped().items():
        store(folder, name if name.startswith("sealed/") else f"clear/{name}", data)


if __name__ == "__main__":
    commands = {"upload": upload, "pages": pages}
    commands[sys.argv[1]](*sys.argv[2:])
