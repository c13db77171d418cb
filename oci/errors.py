"""What can go wrong between us and a registry, a layout or a document; one line each, for people."""

from __future__ import annotations


class OciError(Exception):
    """Base of all errors of this package. ``str()`` is one line that names what, where and what would be right."""


class ReferenceError_(OciError):  # noqa: N801 - the builtin keeps its name
    """A reference or digest that does not follow the grammar (distribution reference grammar, OCI image-spec)."""


class NotFound(OciError):
    """The registry or layout has no such repository, tag, manifest or blob (HTTP 404, no file)."""


class Unauthorized(OciError):
    """Credentials are missing, wrong or not enough (HTTP 401 or 403)."""


class Unreachable(OciError):
    """No usable connection: DNS, refused, timeout, TLS not trusted, 5xx or 429 after all retries."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        retry_after_seconds: float | None = None,
        elsewhere: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status  # of the HTTP answer, None if there was none
        self.retry_after_seconds = retry_after_seconds  # what the server asked for, if it did
        self.elsewhere = elsewhere  # behind a redirect to another host than the one that was asked


class LeftAlone(Unreachable):
    """Not asked at all: it failed too often in a row, or asked for a long pause (``retry_after_seconds``)."""


class ContentMismatch(OciError):
    """Bytes do not have the size or digest their descriptor states, or a Content-Type contradicts it."""


class Unsupported(OciError):
    """A document we refuse by name, such as a Docker schema-1 manifest."""


class TooLarge(OciError):
    """A body exceeds the bound that limits.py sets for its kind."""


class Refused(OciError):
    """The registry answered a push with an error that a retry does not mend (400, 405, 413, ...)."""


class NotAllowed(Refused):
    """The registry does not take this request from anybody, as it is configured (405): deletes, most often."""


class StorageFull(OciError):
    """The file system has no room or no quota left (ENOSPC, EDQUOT); the caller waits and tries again."""


class Misconfigured(OciError):
    """A local file we were told to use (CA, docker config.json, credential helper) is missing or unusable."""
