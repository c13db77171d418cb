"""Every bound of this package, in one place; relations between them are asserted on import."""

from __future__ import annotations

MANIFEST_BYTES_MAX = 4 * 1024 * 1024  # distribution-spec: registries should take at least 4 MB
TAG_PAGE_BYTES_MAX = 4 * 1024 * 1024
ERROR_BODY_BYTES_MAX = 64 * 1024
TOKEN_BODY_BYTES_MAX = 256 * 1024
REFERRERS_PAGES_MAX = 1_000
INDEX_DEPTH_MAX = 8  # nested indexes, and referrers of referrers
CLOSURE_DESCRIPTORS_MAX = 100_000
BLOB_CHUNK_BYTES = 256 * 1024  # unit of streaming reads and writes
UPLOAD_CHUNK_BYTES = 16 * 1024 * 1024  # unit of chunked (PATCH) uploads
LAYOUT_INDEX_BYTES_MAX = 64 * 1024 * 1024  # index.json of a layout that holds very many images
ARCHIVE_MEMBERS_MAX = 200_000  # files in a tarball of images
ARCHIVE_UNPACKED_BYTES_MAX = 256 * 1024 * 1024 * 1024  # a compressed tarball, decompressed to be indexed
ARCHIVE_LINKS_MAX = 16  # symbolic links followed to reach one member
SERVER_UPLOADS_MAX = 256  # upload sessions open at once
SERVER_UPLOAD_AGE_S_MAX = 3_600  # idle time after which a session is dropped
SERVER_PAGE_ENTRIES_MAX = 1_000  # tags or repositories in one page
REDIRECTS_MAX = 5
RETRIES_MAX = 5
SERVER_ERROR_RETRIES_MAX = 2  # plain 500: some registries mean "no, never" by it
BACKOFF_SECONDS_BASE = 0.25
BACKOFF_SECONDS_MAX = 30.0
RETRY_AFTER_SECONDS_MAX = 120.0  # a longer wait is the caller's to plan
REQUESTS_PER_SECOND = 20.0  # to one registry, unless told otherwise
REQUEST_BURST_SECONDS = 5.0  # of the sustained rate at once: an image takes a dozen requests, and then none for long
REQUESTS_AT_ONCE = 8
BLOBS_AT_ONCE = 4
BREAKER_FAILURES = 5  # in a row, until a registry is left alone
BREAKER_SECONDS_BASE = 30.0
BREAKER_SECONDS_MAX = 900.0
PAUSE_SECONDS_BASE = 5.0  # after a 429 that does not say how long
PAUSE_SECONDS_MAX = 300.0
PAUSE_ASKED_SECONDS_MAX = 21_600.0  # Docker Hub's window; who asks for more is asked again after it
QUOTA_SPACING_SECONDS_MAX = 30.0  # between two pulls when the quota is nearly used up
CONNECT_SECONDS_MAX = 15.0
KEEPALIVE_SECONDS = 15.0  # an idle connection is closed after it
DOCUMENT_SECONDS_MAX = 120.0  # one attempt at a manifest, page or token, from the request to the last byte
PAGES_SECONDS_MAX = 900.0  # a whole list, whatever its pages
SLOW_SECONDS = 60.0  # of waiting for bytes, over which the throughput of a body is judged
SLOW_BYTES_PER_SECOND = 1_000  # less is a broken connection
ETAG_LENGTH_MAX = 256
IDLE_SECONDS_MAX = 60.0  # between two reads
BLOB_SIZE_MAX = 1 << 40
CLOSURE_MANIFEST_BYTES_MAX = 128 * 1024 * 1024  # raw manifests of one closure, held in memory
TAG_PAGES_MAX = 1_000
TAGS_MAX = 1_000_000
TOKENS_MAX = 256
TOKEN_SECONDS_DEFAULT = 60  # distribution token spec: when expires_in is absent
TOKEN_MARGIN_SECONDS = 10
CONFIG_BYTES_MAX = 1024 * 1024
SECRET_BYTES_MAX = 64 * 1024  # a password file
MIRROR_RETRIES_MAX = 1  # the next place is better than waiting for this one
MIRROR_DISTRUST_MAX = 1_024  # digests that a mirror had wrong, remembered
HELPER_SECONDS_MAX = 30.0
REFERENCE_LENGTH_MAX = 1024  # characters; far above a legal reference
REPOSITORY_LENGTH_MAX = 255

assert ERROR_BODY_BYTES_MAX <= TOKEN_BODY_BYTES_MAX <= MANIFEST_BYTES_MAX
assert BLOB_CHUNK_BYTES <= UPLOAD_CHUNK_BYTES
assert MANIFEST_BYTES_MAX <= LAYOUT_INDEX_BYTES_MAX
assert UPLOAD_CHUNK_BYTES <= BLOB_SIZE_MAX
assert SERVER_ERROR_RETRIES_MAX <= RETRIES_MAX
assert MIRROR_RETRIES_MAX <= RETRIES_MAX
assert BREAKER_SECONDS_BASE < BREAKER_SECONDS_MAX
assert PAUSE_SECONDS_BASE < PAUSE_SECONDS_MAX < PAUSE_ASKED_SECONDS_MAX
assert RETRY_AFTER_SECONDS_MAX < PAUSE_ASKED_SECONDS_MAX
assert IDLE_SECONDS_MAX < DOCUMENT_SECONDS_MAX < PAGES_SECONDS_MAX
assert BACKOFF_SECONDS_BASE < BACKOFF_SECONDS_MAX <= RETRY_AFTER_SECONDS_MAX
assert TOKEN_MARGIN_SECONDS < TOKEN_SECONDS_DEFAULT
assert MANIFEST_BYTES_MAX <= CLOSURE_MANIFEST_BYTES_MAX
