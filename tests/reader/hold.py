#!/usr/bin/env python3
"""hold.py RINGBACK FOLDER: ringback restores the repositories of tests/vectors, and refuses what it must.

FOLDER is tests/vectors. Each backup is restored by the program RINGBACK from a copy of its
repository, whole and with each of the changes in expected.json.
"""

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from blake3 import blake3

import objects
from store import Folder
from vectors import changed

TIMEOUT_S = 120
KEPT = ("PATH", "HOME", "TMPDIR", "LANG")


def restored_by(ringback, folder, passphrase, backup, work):
    """The exit code, what was said, and the hash of what was restored."""
    target = work / "restored"
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    if passphrase is not None:
        environment["RINGBACK_PASSPHRASE"] = passphrase
    run = subprocess.run([ringback, "restore", "--quiet", f"file://{folder}/{backup}", target],
                         env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    content = blake3(max_threads=1)
    if target.exists():
        content.update_mmap(target)
    return run.returncode, run.stderr, target.exists() and content.hexdigest()


def fault(ringback, objects_of, case, expected):
    """What is wrong with ringback's answer to a case; none if nothing is."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work, "repository")
        for name, data in changed(objects_of, case).items():
            objects.store(folder, name, data)
        code, said, content = restored_by(ringback, folder, case["passphrase"], case["backup"],
                                          Path(work))
    right = code == 0 and content == expected.get(case["backup"])
    refused = code > 0 and not content and "panicked" not in said
    holds = {"refused": refused, "restored": right, "either": refused or right}
    if not holds[case["outcome"]]:
        return f"exit code {code}, content {content}, said: {said.strip()[-400:]}"


def cases_of(expected):
    for repository, it in expected["repositories"].items():
        for passphrase in it["passphrases"] or [None]:
            for backup in it["backups"]:
                yield {"what": "nothing is changed", "outcome": "restored", "backup": backup,
                       "repository": repository, "passphrase": passphrase}
    # No passphrase and an empty one are the same to the command line.
    yield from (it for it in expected["changes"] if it["passphrase"] != "")


def main(ringback, folder):
    expected = json.loads(Path(folder, "expected.json").read_text())
    objects_of = {name: Folder(Path(folder, name)).read_all() for name in expected["repositories"]}
    hashes = {name: {backup: volume["blake3"] for backup, volume in it["backups"].items()}
              for name, it in expected["repositories"].items()}
    cases = list(cases_of(expected))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        faults = list(pool.map(
            lambda case: fault(ringback, objects_of, case, hashes[case["repository"]]), cases))
    wrong = [(case, it) for case, it in zip(cases, faults) if it]
    for case, it in wrong:
        print(f"{case['repository']}/{case['backup']}: {case['what']}: not {case['outcome']}: {it}")
    if wrong:
        sys.exit(f"{len(wrong)} of {len(cases)} are otherwise than the pages say")
    print(f"{len(cases)} answers of ringback are as the pages say")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(os.path.realpath(sys.argv[1]), sys.argv[2])
