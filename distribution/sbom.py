"""The bill of materials as CycloneDX 1.6 JSON: every distribution, its version, its wheels and their digests."""

from __future__ import annotations

import email.parser
import hashlib
import json
import time
import uuid
import zipfile
from pathlib import Path

from distribution.lock import normalised
from distribution.project import Project


def bill(project: Project, wheels: tuple[Path, ...]) -> str:
    """Return the document for *wheels*; the same wheels give the same bytes."""
    components: dict[str, dict[str, object]] = {}
    digests = []
    for wheel in wheels:
        name, version = normalised(wheel.name.split("-")[0]), wheel.name.split("-")[1]
        purl = f"pkg:pypi/{name}@{version}"
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        digests.append(digest)
        component = components.setdefault(
            purl,
            {
                "type": "library",
                "bom-ref": purl,
                "name": name,
                "version": version,
                "licenses": _licences(wheel),
                "purl": purl,
                "components": [],
            },
        )
        parts = component["components"]
        assert isinstance(parts, list)
        part = {"type": "file", "bom-ref": f"file:{wheel.name}", "name": wheel.name}
        parts.append({**part, "hashes": [{"alg": "SHA-256", "content": digest}]})
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, ' '.join(digests))}",
        "version": 1,
        "metadata": {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(project.epoch)),
            "component": {
                "type": "application",
                "bom-ref": "checkvalve",
                "name": "checkvalve",
                "version": project.version,
                "licenses": [{"license": {"id": project.table["license"]}}],
            },
        },
        "components": [components[key] for key in sorted(components)],
        "dependencies": [{"ref": "checkvalve", "dependsOn": sorted(components)}],
    }
    return json.dumps(document, indent=1) + "\n"


def _licences(wheel: Path) -> list[dict[str, object]]:
    """Return what the wheel's own metadata says: an SPDX expression, else classifiers, else a field."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        about = email.parser.BytesParser().parsebytes(archive.read(name), headersonly=True)
    if about["License-Expression"]:
        return [{"expression": about["License-Expression"]}]
    stated = [
        str(each).rpartition(" :: ")[2] for each in about.get_all("Classifier", []) if "License ::" in str(each)
    ]
    first_line = str(about["License"] or "").strip().partition("\n")[0]
    return [{"license": {"name": each}} for each in stated or [first_line] if each]
