"""What an archive of a release is called inside: an OCI image layout in a tar, with these documents beside it.

    oci-layout, then the documents by name, index.json, blobs/<algorithm>/<hex> by digest

The envelope vouches for everything: by its signatures for the release, by the release's digests for the blobs. The
lock (the sender's, if it came along) is for people and for `reproduce`, which proves it; nothing here believes it.
"""

from __future__ import annotations

from typing import Final

from protocol.limits import CONTROL_OBJECT_BYTES_MAX

LOCK: Final = "checkvalve/images.lock"
ENVELOPE: Final = "checkvalve/release"
DOCUMENTS: Final = {ENVELOPE: CONTROL_OBJECT_BYTES_MAX, LOCK: CONTROL_OBJECT_BYTES_MAX}  # name -> bytes at most
