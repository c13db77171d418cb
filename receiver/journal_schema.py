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
    ALTER TABLE partials ADD COLUMN  -- seconds of a live link, as a running capture saw them, that added nothing
        idle REAL NOT NULL DEFAULT 0;
    CREATE TABLE incidents (         -- what was dropped, refused, set aside; alarms that began and ended
        number INTEGER PRIMARY KEY AUTOINCREMENT, moment REAL NOT NULL, event TEXT NOT NULL, subject TEXT NOT NULL,
        reason TEXT NOT NULL, detail TEXT NOT NULL, bytes INTEGER NOT NULL);
    CREATE TABLE alarms (            -- those that capture has raised and not cleared
        code TEXT NOT NULL, subject TEXT NOT NULL, severity TEXT NOT NULL, text TEXT NOT NULL, since REAL NOT NULL,
        PRIMARY KEY (code, subject)) WITHOUT ROWID;
    CREATE TABLE meters (            -- what the link carried and lost in each minute, hour and day (span, s)
        number INTEGER PRIMARY KEY AUTOINCREMENT, span INTEGER NOT NULL, start INTEGER NOT NULL,
        datagrams INTEGER NOT NULL, bytes INTEGER NOT NULL, lost INTEGER NOT NULL, kernel_drops INTEGER NOT NULL,
        repaired INTEGER NOT NULL, blocks INTEGER NOT NULL, blocks_lost INTEGER NOT NULL,
        worst INTEGER NOT NULL, worst_of INTEGER NOT NULL, worst_k INTEGER NOT NULL, UNIQUE (span, start));
    """,
    """
    CREATE TABLE border_verdicts (   -- what the border found of an image; the lists are JSON
        collection TEXT NOT NULL, name TEXT NOT NULL, digest TEXT NOT NULL,
        judged TEXT NOT NULL,        -- digest of what it was judged by: policy, keys, hook, contents
        faults TEXT NOT NULL, held TEXT NOT NULL, signers TEXT NOT NULL, updated REAL NOT NULL,
        told TEXT NOT NULL,          -- the reasons that the audit log has
        PRIMARY KEY (collection, name, digest));
    CREATE TABLE border_decisions (  -- what people decided; a decision replaced gets a new, higher number
        number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, digest TEXT NOT NULL,
        choice TEXT NOT NULL, reason TEXT NOT NULL, actor TEXT NOT NULL, decided REAL NOT NULL,
        UNIQUE (name, digest));
    CREATE TABLE border_published (  -- images whose first publication the audit log has
        name TEXT NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (name, digest)) WITHOUT ROWID;
    """,
    """
    CREATE TABLE cuts (              -- how the sender cut partial objects into source blocks when last heard of
        coded_digest TEXT PRIMARY KEY REFERENCES partials (coded_digest) ON DELETE CASCADE,
        symbol_bytes INTEGER NOT NULL, blocks INTEGER NOT NULL) WITHOUT ROWID;
    """,
    """
    -- several targets: what was noted so far belongs to the only one, which is called 'default'
    CREATE TABLE targets (name TEXT PRIMARY KEY, place TEXT NOT NULL);  -- those of the settings, as publish saw them
    CREATE TABLE target_releases (   -- releases of which a target has every image
        target TEXT NOT NULL, collection TEXT NOT NULL, sequence INTEGER NOT NULL, published REAL NOT NULL,
        PRIMARY KEY (target, collection, sequence)) WITHOUT ROWID;
    INSERT INTO target_releases
        SELECT 'default', collection, sequence, published FROM releases WHERE published IS NOT NULL;
    ALTER TABLE published RENAME TO published_before;
    CREATE TABLE published (         -- tags as last put into each target
        target TEXT NOT NULL, name TEXT NOT NULL, tag TEXT NOT NULL, digest TEXT NOT NULL, collection TEXT NOT NULL,
        sequence INTEGER NOT NULL, updated REAL NOT NULL, PRIMARY KEY (target, name, tag));
    INSERT INTO published
        SELECT 'default', name, tag, digest, collection, sequence, updated FROM published_before;
    DROP TABLE published_before;
    ALTER TABLE locations RENAME TO locations_before;
    CREATE TABLE locations (         -- a repository of each target that holds a blob, to mount it from
        target TEXT NOT NULL, digest TEXT NOT NULL, repository TEXT NOT NULL,
        PRIMARY KEY (target, digest)) WITHOUT ROWID;
    INSERT INTO locations SELECT 'default', digest, repository FROM locations_before;
    DROP TABLE locations_before;
    ALTER TABLE image_states RENAME TO image_states_before;
    CREATE TABLE image_states (      -- what publish thinks of each image of the newest releases, for each target
        target TEXT NOT NULL, collection TEXT NOT NULL, sequence INTEGER NOT NULL, name TEXT NOT NULL,
        digest TEXT NOT NULL, state TEXT NOT NULL, error TEXT, missing INTEGER NOT NULL,
        missing_bytes INTEGER NOT NULL, total_bytes INTEGER NOT NULL, updated REAL NOT NULL,
        PRIMARY KEY (target, collection, sequence, name, digest));
    INSERT INTO image_states SELECT 'default', collection, sequence, name, digest, state, error, missing,
        missing_bytes, total_bytes, updated FROM image_states_before;
    DROP TABLE image_states_before;
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
    CREATE TABLE undeletable (       -- what should go from a target, which does not let it
        target TEXT NOT NULL, name TEXT NOT NULL, reference TEXT NOT NULL, reason TEXT NOT NULL,
        PRIMARY KEY (target, name, reference));
    CREATE TABLE locks (             -- locks that came in archives
        collection TEXT NOT NULL, sequence INTEGER NOT NULL, lock BLOB NOT NULL, PRIMARY KEY (collection, sequence));
    """,
)
