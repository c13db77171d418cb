"""Deletions, activations, confirmations, archives and imports: logged, and put into the audit log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import structlog

from receiver.audit import Audit, Broken, person
from runtime.errors import UserError

log = structlog.get_logger()


def noted(audit: Path, action: str, about: str, **facts: Any) -> None:
    """Log that *action* was done to *about*, and append it to the log *audit* under the name of who runs this.

    It has been done by then: an audit log that cannot be written is an error in the log, and an alarm of ``status``.
    """
    log.info(action, about=about, **facts)
    try:
        Audit(audit, person()).append(action, object=about, **facts)
    except (Broken, UserError, OSError) as error:
        log.error("audit_not_written", action=action, about=about, error=str(error))
