#!/usr/bin/env python3
"""An independent reader of ringback repositories, written from docs/formats alone.

    restore.py [--passphrase-file FILE] REPOSITORY NAME IMAGE    restore a backup into a new file
    restore.py [--passphrase-file FILE] REPOSITORY               read and check everything

REPOSITORY is s3://BUCKET/PREFIX, file:///FOLDER or the path of a folder, which holds the objects
as files under their names. Needs the packages of requirements.txt.
"""

import argparse
import functools
import os
import sys
from pathlib import Path

import log
from packs import Packs
from refused import Refused, demand, within
from repository import Repository
from store import store_at
from tree import CheckedVolume, HealedVolume


def open_repository(place, passphrase):
    return Repository(store_at(place), passphrase)


def backup_of(repository, name):
    """The wanted backup's volume: nothing is read but what leads to its chunks, while they are whole."""
    packs = Packs(repository)
    history = log.replay(repository, packs)
    demand(name in history.commits, f"there is no backup {name!r}")
    places = functools.cache(lambda: log.places(repository, history))
    return HealedVolume(packs, history.commits[name], repository.chunk_bytes, places)


def restore(repository, name, path):
    with open(path, "xb") as image:
        def write(start, data):
            image.seek(start)
            image.write(data)
        try:
            with within(f"backup {name!r}"):
                volume = backup_of(repository, name)
                image.truncate(volume.root.volume_bytes)
                volume.write_to(write)
        except BaseException:
            os.unlink(path)
            raise


def check(repository, say=print):
    """Reads all that the log leads to, and what a restore does not need: footers, ref sets, segments."""
    repository.check_slots()
    packs = Packs(repository)
    history = log.check(repository, packs)
    for name, commit in history.commits.items():
        with within(f"backup {name!r}"):
            named = log.ref_set(repository, commit.ref_set)
            volume = CheckedVolume(packs, commit, repository.chunk_bytes, named)
            volume.write_to(lambda start, data: None)
        say(f"{name}: {commit.volume_bytes} bytes of volume {commit.volume_handle!r}")
    for segment in history.segments:
        log.check_segment(repository, packs, segment)


def passphrase_in(path):
    """The file's bytes; a line's end behind them is not part of the passphrase."""
    return Path(path).read_bytes().removesuffix(b"\n") if path else None


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passphrase-file")
    parser.add_argument("repository")
    parser.add_argument("backup", nargs="*", metavar="NAME IMAGE")
    given = parser.parse_args()
    if len(given.backup) not in (0, 2):
        parser.error("a backup's name and an image go together")
    try:
        repository = open_repository(given.repository, passphrase_in(given.passphrase_file))
        if given.backup:
            restore(repository, *given.backup)
        else:
            check(repository)
    except (Refused, OSError) as error:
        sys.exit(f"restore.py: {error}")


if __name__ == "__main__":
    main()
