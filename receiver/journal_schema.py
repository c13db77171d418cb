"""The tables of the receiver's journal, as the migrations that make them; they are only ever added to."""

from __future__ import annotations

from typing import Final

MIGRATIONS: Final = (
    """
    CREATE TABLE epochs (sender BLOB PRIMARY KEY, epoch INTEGER NOT NULL, session BLOB NOT NULL);
    CREATE TABLE releases (          -- every verified release; the newest of a collection is its desired state
        collection TEXT NOT NULL, sequence INTEGER NOT NULL, digest TEXT NOT NULL, envelope BLOB NOT NULL,
        received REAL NOT NULL, published REAL, PRIMARY KEY (collection, sequence));
    CREATE TABLE heard (             -- the newest release that beacons speak of
        collection TEXT PRIMARY KEY, sequence INTEGER NOT NULL, digest TEXT NOT NULL, updated REAL NOT NULL);
    CREATE TABLE partials (          -- objects being received, by coded bytes
        coded_digest TEXT PRIMARY KEY, kind INTEGER NOT NULL, coding INTEGER NOT NULL, digest TEXT NOT NULL,
        content_size INTEGER NOT NULL, coded_size INTEGER NOT NULL, created REAL NOT NULL, updated REAL NOT NULL);
    CREATE TABLE ranges (            -- finished bytes of a partial object
        coded_digest TEXT NOT NULL REFERENCES partials (coded_digest) ON DELETE CASCADE,
        start INTEGER NOT NULL, end INTEGER NOT NULL, PRIMARY KEY (coded_digest, start)) WITHOUT ROWID;
    CREATE TABLE unpacked (digest TEXT PRIMARY KEY, finished REAL NOT NULL);  -- batches and releases done with
    CREATE TABLE published (         -- tags as last put into the target
        name TEXT NOT NULL, tag TEXT NOT NULL, digest TEXT NOT NULL, collection TEXT NOT NULL,
        sequence INTEGER NOT NULL, updated REAL NOT NULL, PRIMARY KEY (name, tag));
    CREATE TABLE image_states (      -- what publish thinks of each image of the newest releases
        collection TEXT NOT NULL, sequence INTEGER NOT NULL, name TEXT NOT NULL, digest TEXT NOT NULL,
        state TEXT NOT NULL, error TEXT, missing INTEGER NOT NULL, missing_bytes INTEGER NOT NULL,
        total_bytes INTEGER NOT NULL, updated REAL NOT NULL, PRIMARY KEY (collection, sequence, name, digest));
    CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
    CREATE TABLE live (role TEXT PRIMARY KEY, document TEXT NOT NULL, updated REAL NOT NULL);
    """,
    """
    CREATE TABLE locations (         -- a repository of the target that holds a blob, to mount it from
        digest TEXT PRIMARY KEY, repository TEXT NOT NULL) WITHOUT ROWID;
    """,
    """
    CREATE TABLE members (           -- what each unpacked batch brought
        batch TEXT NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (batch, digest)) WITHOUT ROWID;
    """,
    """
    CREATE TABLE activations (       -- collections that show an earlier release until a person ends it
        collection TEXT PRIMARY KEY, sequence INTEGER NOT NULL, digest TEXT NOT NULL, since REAL NOT NULL);
    CREATE TABLE retained (          -- how old each release is, in counted seconds and in releases that came after it
        collection TEXT NOT NULL, sequence INTEGER NOT NULL, arrival INTEGER NOT NULL,
        since REAL,                  -- counted time when another took its place; NULL while none has
        retired INTEGER NOT NULL DEFAULT 0,  -- 1: its contents may be gone
        PRIMARY KEY (collection, sequence));
    CREATE TABLE retention_clock (   -- seconds that publish has been at work: no clock that can be set
        one INTEGER PRIMARY KEY CHECK (one = 1), counted REAL NOT NULL);
    CREATE TABLE baselines (         -- the release that the next one is compared with, should it shrink
        collection TEXT PRIMARY KEY, sequence INTEGER NOT NULL);
    CREATE TABLE unclaimed (         -- contents of the spool that no release names, since when (counted)
        digest TEXT PRIMARY KEY, since REAL NOT NULL) WITHOUT ROWID;
    CREATE TABLE undeletable (       -- what should go from the target, which does not let it
        name TEXT NOT NULL, reference TEXT NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (name, reference));
    CREATE TABLE locks (             -- locks that came in archives
        collection TEXT NOT NULL, sequence INTEGER NOT NULL, lock BLOB NOT NULL, PRIMARY KEY (collection, sequence));
    """,
)
