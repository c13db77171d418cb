"""The tables of the sender's journal, as migrations, oldest first. One that was released is never edited."""

from __future__ import annotations

from typing import Final

MIGRATIONS: Final = (
    """
    CREATE TABLE images (            -- one row per pinned entry of images.yaml, kept by fetch
        collection TEXT NOT NULL, reference TEXT NOT NULL, source TEXT NOT NULL,
        digest TEXT NOT NULL, state TEXT NOT NULL, error TEXT, bytes_total INTEGER NOT NULL DEFAULT 0,
        bytes_done INTEGER NOT NULL DEFAULT 0, updated REAL NOT NULL,
        PRIMARY KEY (collection, reference));
    CREATE TABLE closures (          -- what fetch found beneath a root; complete once all is in the spool
        pin TEXT PRIMARY KEY,        -- name@digest and what was asked for: referrers differ by repository
        document TEXT NOT NULL, complete INTEGER NOT NULL, updated REAL NOT NULL);
    CREATE TABLE proposals (         -- the newest desired state of each collection, unsigned
        collection TEXT PRIMARY KEY, images TEXT NOT NULL, updated REAL NOT NULL);
    CREATE TABLE releases (          -- what transmit signed
        collection TEXT NOT NULL, sequence INTEGER NOT NULL, digest TEXT NOT NULL, images TEXT NOT NULL,
        envelope BLOB NOT NULL, created REAL NOT NULL, PRIMARY KEY (collection, sequence));
    CREATE TABLE objects (           -- transport objects; the queue is those with passes to go
        id INTEGER PRIMARY KEY, kind INTEGER NOT NULL, coding INTEGER NOT NULL, digest TEXT NOT NULL,
        content_size INTEGER NOT NULL, coded_digest TEXT NOT NULL, coded_size INTEGER NOT NULL,
        path TEXT NOT NULL, label TEXT NOT NULL, passes_left INTEGER NOT NULL, passes_done INTEGER NOT NULL DEFAULT 0,
        queued REAL NOT NULL, sent REAL, UNIQUE (digest, coded_digest));
    CREATE INDEX objects_queue ON objects (passes_left, id);
    CREATE TABLE carried (           -- which object carries a content
        digest TEXT PRIMARY KEY, object INTEGER NOT NULL REFERENCES objects (id));
    CREATE TABLE epoch (one INTEGER PRIMARY KEY CHECK (one = 1), epoch INTEGER NOT NULL);
    CREATE TABLE rounds (token TEXT PRIMARY KEY, failed INTEGER NOT NULL, finished REAL NOT NULL);
    CREATE TABLE live (role TEXT PRIMARY KEY, document TEXT NOT NULL, updated REAL NOT NULL);
    """,
    """
    ALTER TABLE objects ADD COLUMN urgent INTEGER NOT NULL DEFAULT 0;  -- until its passes are through
    ALTER TABLE objects ADD COLUMN cleared INTEGER NOT NULL DEFAULT 1;  -- 0: waits until its release is approved
    CREATE INDEX objects_urgent ON objects (id) WHERE urgent = 1;      -- looked at a few times a second
    ALTER TABLE proposals ADD COLUMN lock TEXT NOT NULL DEFAULT '';  -- the lines of images.lock that it came from
    ALTER TABLE releases ADD COLUMN lock TEXT NOT NULL DEFAULT '';
    CREATE TABLE answers (           -- what registries last said about each rule of images.yaml
        rule TEXT PRIMARY KEY, document TEXT NOT NULL, asked REAL NOT NULL, due REAL NOT NULL);
    CREATE TABLE approvals (         -- who has agreed to the release with this payload; key '' for one without a key
        collection TEXT NOT NULL, payload TEXT NOT NULL, key TEXT NOT NULL, signature BLOB NOT NULL,
        given REAL NOT NULL, PRIMARY KEY (collection, payload, key));
    CREATE TABLE rollbacks (         -- collections that stay at an earlier release, whatever is proposed
        collection TEXT PRIMARY KEY, sequence INTEGER NOT NULL, images TEXT NOT NULL, lock TEXT NOT NULL,
        updated REAL NOT NULL);
    CREATE TABLE verdicts (          -- images that were found good, and what they were judged by
        judged TEXT PRIMARY KEY, signers TEXT NOT NULL, updated REAL NOT NULL);
    CREATE TABLE by_hand (           -- images that `send` has asked for, besides those of images.yaml
        collection TEXT NOT NULL, reference TEXT NOT NULL, urgent INTEGER NOT NULL, added REAL NOT NULL,
        PRIMARY KEY (collection, reference));
    """,
    """
    CREATE TABLE evicted (           -- contents of kept releases that were sent, and of which the bytes are gone
        digest TEXT PRIMARY KEY, sent REAL NOT NULL);
    CREATE INDEX carried_object ON carried (object);
    CREATE INDEX objects_path ON objects (path);
    """,
    """
    CREATE TABLE repairs (           -- source blocks that a repair code has asked for, until they have left
        id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never given to another: the schedule knows them by it
        object INTEGER NOT NULL REFERENCES objects (id) ON DELETE CASCADE,
        spans TEXT NOT NULL,         -- of coded bytes: JSON [[start, end], ...]
        asked REAL NOT NULL, UNIQUE (object, spans));
    CREATE TABLE carousel (          -- the rounds that idle link time makes through the desired state
        one INTEGER PRIMARY KEY CHECK (one = 1), round INTEGER NOT NULL, started REAL NOT NULL);
    """,
)
