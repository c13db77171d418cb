"""Every bound of the protocol, in one place; relations between them are asserted on import."""

from __future__ import annotations

from typing import Final

# Datagrams (bytes of UDP payload)
HEADER_BYTES: Final = 32
TAG_BYTES: Final = 16  # AES-GCM
OVERHEAD_BYTES: Final = HEADER_BYTES + TAG_BYTES
SYMBOL_ALIGNMENT: Final = 16
DATAGRAM_BYTES_MIN: Final = OVERHEAD_BYTES + 512
DATAGRAM_BYTES_MAX: Final = 9_216 - 28  # a jumbo frame's IPv4 payload, less UDP
BURST_BYTES_MAX: Final = 65_507 - 65_507 % 16  # one GSO send: UDP over IPv4
BURST_DATAGRAMS_MAX: Final = 64  # UDP_MAX_SEGMENTS of kernels before 6.9
RECEIVE_BURST_BYTES_MAX: Final = 65_535

# Forward error correction
CODEWORD_SYMBOLS_MAX: Final = 255  # k + m over GF(2^8)
INTERLEAVE_MAX: Final = 1_024
BLOCK_BYTES_MAX: Final = 16 * 1024 * 1024  # source and repair symbols of one source block
BLOCKS_PER_OBJECT_MAX: Final = 1 << 20

# Objects
OBJECT_BYTES_MAX: Final = 1 << 40
CONTROL_OBJECT_BYTES_MAX: Final = 64 * 1024 * 1024  # a release or a batch, decoded
BATCH_MEMBERS_MAX: Final = 4_096
BATCH_MEMBER_BYTES_MAX: Final = 4 * 1024 * 1024
ZSTD_WINDOW_BYTES_MAX: Final = 8 * 1024 * 1024
TOI_MAX: Final = 0xFFFF_FFFF

# Announcements: all that is kept of what is not yet authenticated
ANNOUNCEMENT_BYTES_MAX: Final = 64 * 1024
ANNOUNCEMENT_FRAGMENTS_MAX: Final = 128
ANNOUNCEMENTS_PENDING_MAX: Final = 4
RECEIVERS_MAX: Final = 256
VERIFICATIONS_MAX: Final = 64  # signatures of announcements checked at once, without datagrams in between
DATAGRAMS_PER_VERIFICATION: Final = 128  # received, for one more; so forged announcements cannot take all time
REFUSED_ANNOUNCEMENTS_MAX: Final = 64  # whose reason is remembered

# Releases and beacons
NUMBER_MAX: Final = 1 << 62  # sequences and byte counts; fits a signed 64-bit column
CLOCK_MS_MAX: Final = 253_402_300_799_999  # the last millisecond of year 9999
RELEASE_IMAGES_MAX: Final = 100_000
RELEASE_DESCRIPTORS_MAX: Final = 2_000_000
RELEASE_SIGNATURES_MAX: Final = 16
COLLECTION_NAME_BYTES_MAX: Final = 64
COLLECTIONS_MAX: Final = 1_024
NAME_BYTES_MAX: Final = 512

# What one decoder keeps in memory
ACTIVE_BLOCKS_MAX: Final = 4
TRACKED_OBJECTS_MAX: Final = 16_384
CODES_MAX: Final = 64  # (k, m) pairs with prepared tables
ORDERS_MAX: Final = 64  # kinds of blocks whose wire order is kept
INVERSE_CACHE_BYTES_MAX: Final = 4 * 1024 * 1024  # inverted matrices, one byte an element
BUFFERS_MAX: Final = 512  # block buffers: being received, or on their way to disk
BUFFER_BYTES_MAX: Final = 7 * BLOCK_BYTES_MAX  # of all of them together
MARGINS_MAX: Final = 512  # (worst need, m, k) of blocks that are told apart in the counters
PARSED_ENTRIES_MAX: Final = 4_096  # object table entries remembered as parsed, in each session
REPLAY_WINDOW_PACKETS: Final = 65_536
LANES_MAX: Final = 256

assert DATAGRAM_BYTES_MIN < DATAGRAM_BYTES_MAX <= BURST_BYTES_MAX
assert ANNOUNCEMENT_BYTES_MAX <= ANNOUNCEMENT_FRAGMENTS_MAX * (DATAGRAM_BYTES_MIN - HEADER_BYTES - 16) * 2
assert BATCH_MEMBER_BYTES_MAX < CONTROL_OBJECT_BYTES_MAX
assert BLOCKS_PER_OBJECT_MAX * SYMBOL_ALIGNMENT < OBJECT_BYTES_MAX
