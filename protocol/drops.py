"""The closed list of reasons for which received bytes are dropped. Their values are what users read."""

from __future__ import annotations

from enum import Enum


class Drop(Enum):
    """Why a datagram, announcement, object or release was not used."""

    # One datagram
    TRUNCATED = "truncated"  # shorter than a header, or than the session's datagrams
    OVERSIZED = "oversized"
    BAD_MAGIC = "bad_magic"
    BAD_VERSION = "bad_version"
    BAD_TYPE = "bad_type"
    BAD_FIELD = "bad_field"  # reserved bits set, lane or number out of range
    WRONG_LANE = "wrong_lane"  # of a lane that this decoder does not receive
    UNKNOWN_SESSION = "unknown_session"  # no announcement seen yet, or an older session
    NOT_AUTHENTIC = "not_authentic"  # the AES-GCM tag does not fit: wrong key or changed bits
    REPLAYED = "replayed"  # this packet number was accepted before
    UNKNOWN_OBJECT = "unknown_object"  # authentic, but its object table entry has not arrived
    BAD_POSITION = "bad_position"  # SBN, row or column outside the object's geometry
    BAD_OBJECT_TABLE = "bad_object_table"
    BAD_BEACON = "bad_beacon"
    # An announcement
    BAD_FRAGMENT = "bad_fragment"
    FRAGMENT_EVICTED = "fragment_evicted"  # too many unfinished announcements at once
    BAD_ANNOUNCEMENT = "bad_announcement"
    TOO_MANY_ANNOUNCEMENTS = "too_many_announcements"  # more to verify than the share of time for that allows
    UNTRUSTED_SENDER = "untrusted_sender"
    BAD_SIGNATURE = "bad_signature"
    STALE_EPOCH = "stale_epoch"  # a replayed older session
    EPOCH_REUSED = "epoch_reused"  # two sessions claim one epoch
    NOT_FOR_US = "not_for_us"  # the session key is not wrapped for this receiver
    BAD_SESSION_KEY = "bad_session_key"
    # An object
    BAD_GEOMETRY = "bad_geometry"
    OBJECT_TOO_LARGE = "object_too_large"
    OBJECT_CONFLICT = "object_conflict"  # one TOI announced in two ways within a session
    TOO_MANY_OBJECTS = "too_many_objects"
    NO_BUFFER = "no_buffer"  # every block buffer is still being written to disk
    NO_ROOM = "no_room"  # a restored block was thrown away: the disk, or the space for partial objects, is full
    BLOCK_ABANDONED = "block_abandoned"  # too little of it arrived before newer blocks needed its memory
    CODED_DIGEST_MISMATCH = "coded_digest_mismatch"
    CONTENT_DIGEST_MISMATCH = "content_digest_mismatch"
    DECOMPRESSION_FAILED = "decompression_failed"
    DECOMPRESSION_OVERRUN = "decompression_overrun"  # more output than declared: a bomb
    BAD_BATCH = "bad_batch"
    # A release
    BAD_RELEASE = "bad_release"
    RELEASE_UNTRUSTED = "release_untrusted"
    RELEASE_UNAPPROVED = "release_unapproved"  # fewer approvers signed it than the receiver asks for
    COLLECTION_NOT_ALLOWED = "collection_not_allowed"  # this receiver takes no releases of it
    SENDER_NOT_ALLOWED = "sender_not_allowed"  # trusted, but not for this collection
    RELEASE_ROLLED_BACK = "release_rolled_back"  # a lower sequence than one accepted before
    RELEASE_CONFLICT = "release_conflict"  # same sequence, other content; or a broken chain
