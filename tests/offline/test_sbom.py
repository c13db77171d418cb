"""The bill of materials against CycloneDX's own JSON schema, by the validator that its project publishes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.offline.conftest import ROOT, run

LOCK = ROOT / "requirements/sbom.txt"
_VALIDATE = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(sys.stdin.read())
sys.exit(None if error is None else str(error))
"""


@pytest.fixture(scope="module")
def validator() -> Path:
    """The validator in a folder of its own, kept by its lock; no part of the project imports it."""
    folder = ROOT / "build" / f"validator-{hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()[:16]}"
    if not (folder / "complete").exists():
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--require-hashes",
        ]
        environment = {key: value for key, value in os.environ.items() if key != "PIP_CONSTRAINT"}
        done = subprocess.run(
            [*command, "--no-compile", "--upgrade", "--target", folder, "-r", LOCK],
            capture_output=True,
            text=True,
            env=environment,
        )
        if done.returncode:
            pytest.skip(f"the validator cannot be had: {done.stderr.strip().splitlines()[-1]}")
        (folder / "complete").touch()
    return folder


def validate(document: str, validator: Path) -> subprocess.CompletedProcess[str]:
    program = f"import sys; sys.path.insert(0, {str(validator)!r})\n{_VALIDATE}"
    return subprocess.run([sys.executable, "-I", "-c", program], input=document, capture_output=True, text=True)


def test_the_sbom_is_cyclonedx_and_says_every_licence(
    validator: Path, tmp_path: Path, old_and_new: tuple[Path, Path]
) -> None:
    assert run(old_and_new[1], "--extract", tmp_path / "x").returncode == 0
    text = (tmp_path / "x/sbom.cdx.json").read_text()
    done = validate(text, validator)
    assert done.returncode == 0, done.stderr
    document = json.loads(text)
    assert [part["name"] for part in document["components"] if not part["licenses"]] == []
    # the validator would say so
    document["components"][0]["type"] = "unheard of"
    assert validate(json.dumps(document), validator).returncode != 0
