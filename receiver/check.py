"""``checkvalve-receiver check``: tries everything that a run needs, and changes nothing."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

from judging.policy import load_keys
from oci.errors import OciError
from receiver.config import ReceiverSettings
from receiver.publish_config import TargetSection
from receiver.senders import trust
from receiver.target import check_target
from runtime.errors import UserError, print_error
from runtime.keys import fingerprint, load_hpke_key, load_signing_public
from runtime.settings import load_settings
from runtime.terminal import human_bytes


def check(config: Path) -> int:
    """Print one line for each trial; return 1 if one failed. UserError (exit code 2) for the settings file itself."""
    settings = load_settings(config, ReceiverSettings)
    print(f"ok: {config}: the settings are right")
    failures = 0
    trials: list[Callable[[], str]] = [
        partial(trial, settings) for trial in (_own_key, _senders, _border, _address, _state)
    ]
    publish = settings.publish
    trials += [partial(_target, publish.where(name), target) for name, target in publish.each().items()]
    for trial in trials:
        try:
            print(f"ok: {trial()}", flush=True)
        except (UserError, OciError) as error:
            failures += 1
            print_error(error)
    return 1 if failures else 0


def _own_key(settings: ReceiverSettings) -> str:
    key = load_hpke_key(settings.hpke_key, created_by=settings.created_by)
    return f"{settings.hpke_key}: this receiver's key {fingerprint(key.public_key())}"


def _senders(settings: ReceiverSettings) -> str:
    trust(settings)
    prints = ", ".join(fingerprint(load_signing_public(path)) for path in settings.senders)
    return f"trusted senders: {prints}"


def _border(settings: ReceiverSettings) -> str:
    border = settings.border
    policies = [border.verify, *(rule.verify for rule in border.rules)]
    keys = sum(len(load_keys(policy).keys) for policy in policies)
    for run in (policy.hook.run[0] for policy in policies if policy.hook is not None):
        if shutil.which(run) is None:
            raise UserError(f"border: verify.hook.run: {run}: is no executable file; chmod +x it, or mend the path")
    return f"border: {len(border.rules)} rules, {keys} cosign keys, hold: {_words(border.hold)}"


def _words(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else ", ".join(value)


def _address(settings: ReceiverSettings) -> str:
    where = settings.listen.on
    try:
        with socket.socket(where.family, socket.SOCK_DGRAM) as probe:
            probe.bind((where.host, 0))  # another port: a receiver may be running on this one
    except OSError as error:
        raise UserError(
            f"listen.on: {where}: cannot listen there ({error.strerror or error}); give an address of this machine"
        ) from None
    return f"listen.on: {where}: an address of this machine"


def _state(settings: ReceiverSettings) -> str:
    folder = settings.state
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"state: {settings.state}: {folder} is not a folder that this user may write to")
    return f"state: {settings.state}: can be written, {human_bytes(shutil.disk_usage(folder).free)} free"


def _target(key: str, target: TargetSection) -> str:
    return asyncio.run(check_target(key, target))
