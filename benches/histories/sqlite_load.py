#!/usr/bin/env python3
"""Puts an SQLite database under load: the same one for the same arguments.

    sqlite_load.py FILE [--fill-mib N] [--updates N] [--seed N]

Fills FILE with rows of 100 to 900 bytes, half of them random, until it has about N MiB; then
updates, deletes and inserts rows in random order, a hundred to a transaction, with an index that
is kept up to date. Each transaction is synced as a server's would be, but for the sync itself.
"""

import argparse
import random
import sqlite3

WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu".split()


def payload(rng):
    text = " ".join(rng.choices(WORDS, k=rng.randint(5, 60)))
    return text.encode() + rng.randbytes(rng.randint(50, 450))


def fill(db, rng, mib):
    page_bytes = db.execute("pragma page_size").fetchone()[0]
    while db.execute("pragma page_count").fetchone()[0] * page_bytes < mib << 20:
        rows = [(rng.getrandbits(60), payload(rng)) for _ in range(500)]
        with db:
            db.executemany("insert into rows (key, payload) values (?, ?)", rows)


def load(db, rng, updates):
    last = db.execute("select max(id) from rows").fetchone()[0] or 1
    for begun in range(0, updates, 100):
        with db:
            for _ in range(min(100, updates - begun)):
                row, kind = rng.randint(1, last), rng.random()
                if kind < 0.8:
                    db.execute("update rows set payload = ? where id = ?", (payload(rng), row))
                elif kind < 0.9:
                    db.execute("delete from rows where id = ?", (row,))
                else:
                    values = (rng.getrandbits(60), payload(rng))
                    db.execute("insert into rows (key, payload) values (?, ?)", values)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--fill-mib", type=int, default=0)
    parser.add_argument("--updates", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    db = sqlite3.connect(arguments.file)
    db.execute("pragma synchronous = off")
    db.execute("create table if not exists rows (id integer primary key, key integer, payload blob)")
    db.execute("create index if not exists by_key on rows (key)")
    fill(db, rng, arguments.fill_mib)
    load(db, rng, arguments.updates)
    db.close()


main()
