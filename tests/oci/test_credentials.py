from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from oci.credentials import Anonymous, Credential, DockerConfig, FixedCredential
from oci.errors import Misconfigured

SECRET = "correct-horse"


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def written(folder: Path, document: Any) -> Path:
    path = folder / "config.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A real executable ``docker-credential-test``; it records what it was asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "docker-credential-test"
    program.write_text(
        "#!/bin/sh\n"
        f'read -r registry; echo "$* $registry" >> {folder}/asked\n'
        'case "$1 $registry" in\n'
        '  "get r.example:5000") echo \'{"ServerURL":"x","Username":"me","Secret":"' + SECRET + "\"}';;\n"
        '  "get https://index.docker.io/v1/") echo \'{"Username":"<token>","Secret":"' + SECRET + "\"}';;\n"
        '  "get odd.example") echo nonsense;;\n'
        "  \"get locked.example\") echo 'the store is locked'; exit 2;;\n"
        "  *) echo 'credentials not found in native keychain'; exit 1;;\n"
        "esac\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


@pytest.mark.parametrize(
    ("registry", "expected"),
    [
        ("r.example:5000", Credential("me", "pass:word")),
        ("docker.io", Credential("hub", "x")),
        ("quay.example", Credential("q", "y")),
        ("token.example", Credential("<user>", "", "refresh")),
        ("empty.example", None),
        ("other.example", None),
    ],
)
async def test_auths(tmp_path: Path, registry: str, expected: Credential | None) -> None:
    config = DockerConfig.load(
        written(
            tmp_path,
            {
                "auths": {
                    "r.example:5000": {"auth": b64("me:pass:word")},
                    "https://index.docker.io/v1/": {"auth": b64("hub:x")},
                    "https://quay.example/v2/": {"username": "q", "password": "y"},
                    "token.example": {"auth": b64("<user>:"), "identitytoken": "refresh"},
                    "empty.example": {},
                }
            },
        )
    )
    assert await config.lookup(registry) == expected


async def test_helpers_answer_for_their_registry_and_the_store_for_the_rest(tmp_path: Path, helper: Path) -> None:
    config = DockerConfig.load(
        written(
            tmp_path,
            {
                "credHelpers": {"r.example:5000": "test"},
                "credsStore": "test",
                "auths": {"plain.example": {"auth": b64("a:b")}},
            },
        )
    )
    assert await config.lookup("r.example:5000") == Credential("me", SECRET)
    assert await config.lookup("docker.io") == Credential("", "", SECRET)
    assert await config.lookup("plain.example") == Credential("a", "b")
    assert await config.lookup("none.example") is None
    for registry, says in (("odd.example", "Username and Secret"), ("locked.example", "exit code 2")):
        with pytest.raises(Misconfigured, match=says):
            await config.lookup(registry)
    assert "get r.example:5000" in (helper / "asked").read_text().splitlines()


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("{", "not JSON"),
        ([], "JSON object"),
        ({"auths": []}, "auths"),
        ({"credsStore": 1}, "credsStore"),
    ],
)
def test_bad_files(tmp_path: Path, document: Any, says: str) -> None:
    path = written(tmp_path, document)
    with pytest.raises(Misconfigured, match=says) as caught:
        DockerConfig.load(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"auths": {"r.example": {"auth": "%%"}}}, "base64"),
        ({"auths": {"r.example": {"auth": b64("no-colon")}}}, "base64"),
        ({"auths": {"r.example": {"auth": 7}}}, "texts"),
        ({"credHelpers": {"r.example": "../../bin/sh"}}, "expected a name"),
        ({"credHelpers": {"r.example": "not-installed-here"}}, "PATH"),
    ],
)
async def test_bad_entries(tmp_path: Path, document: Any, says: str) -> None:
    config = DockerConfig.load(written(tmp_path, document))
    with pytest.raises(Misconfigured, match=says):
        await config.lookup("r.example")


async def test_default_file_may_be_absent_and_an_explicit_one_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert await DockerConfig.load().lookup("r.example") is None
    with pytest.raises(Misconfigured, match="no such file"):
        DockerConfig.load(tmp_path / "config.json")
    written(tmp_path, {"auths": {"r.example": {"auth": b64("a:b")}}})
    assert await DockerConfig.load().lookup("r.example") == Credential("a", "b")


async def test_fixed_and_anonymous() -> None:
    fixed = FixedCredential("r.example", Credential("a", SECRET))
    assert await fixed.lookup("r.example") == Credential("a", SECRET)
    assert await fixed.lookup("evil.example") is None
    assert await Anonymous().lookup("r.example") is None


def test_secrets_do_not_show() -> None:
    shown = repr(Credential("me", SECRET, SECRET)) + repr(FixedCredential("r", Credential("me", SECRET)))
    shown += repr(DockerConfig({"auths": {"r": {"auth": b64(f"me:{SECRET}")}}}))
    assert SECRET not in shown
    assert b64(f"me:{SECRET}") not in shown
