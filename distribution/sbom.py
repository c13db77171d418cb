"""The bill of materials as CycloneDX 1.6 JSON: our parts, and each wheel with its version, licence and hash."""

from __future__ import annotations

import email.parser
import json
import uuid
import zipfile
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from distribution.lock import normalised
from distribution.project import Project

SPEC_VERSION: Final = "1.6"
_SPACE: Final = uuid.UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")  # RFC 4122, names of URLs


def sbom(project: Project, wheels: list[Path], arch: str) -> bytes:
    """Return the document for an offline file with *wheels*; equal input gives equal bytes."""
    components: dict[str, dict[str, Any]] = {}
    for path in sorted(wheels):
        name, version, about = _metadata(path)
        component = components.setdefault(
            f"pkg:pypi/{name}@{version}",
            {"type": "library", "name": name, "version": version, "hashes": [], **_licence(about)},
        )
        component["hashes"].append({"alg": "SHA-256", "content": sha256(path.read_bytes()).hexdigest()})
        component.setdefault("properties", []).append({"name": "checkvalve:file", "value": path.name})
    parts = [{"bom-ref": ref, "purl": ref, **component} for ref, component in sorted(components.items())]
    own = f"checkvalve@{project.version}"
    needed = [part["bom-ref"] for part in parts]
    document = {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC_VERSION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "serialNumber": f"urn:uuid:{uuid.uuid5(_SPACE, f'{own} {arch} {json.dumps(parts, sort_keys=True)}')}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(project.epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {
                "type": "application",
                "bom-ref": own,
                "name": "checkvalve",
                "version": project.version,
                "licenses": [{"license": {"id": project.table["license"]}}],
            },
        },
        "components": parts,
        "dependencies": [{"ref": own, "dependsOn": needed}, *({"ref": ref} for ref in needed)],
    }
    return (json.dumps(document, indent=2) + "\n").encode()


def _metadata(path: Path) -> tuple[str, str, Any]:
    with zipfile.ZipFile(path) as archive:
        name = next(each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        about = email.parser.BytesParser().parsebytes(archive.read(name), headersonly=True)
    return normalised(str(about["Name"])), str(about["Version"]), about


def _licence(about: Any) -> dict[str, Any]:
    if expression := about.get("License-Expression"):
        return {"licenses": [{"expression": str(expression)}]}
    stated = [str(each) for each in about.get_all("Classifier", []) if str(each).startswith("License :: ")]
    name = stated[0].rpartition(" :: ")[2] if stated else " ".join(str(about.get("License", "")).split())[:100]
    return {"licenses": [{"license": {"name": name}}]} if name else {}
