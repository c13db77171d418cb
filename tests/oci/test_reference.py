from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci.errors import ReferenceError_
from oci.reference import Reference, parse_reference

HEX = "0123456789abcdef" * 4
DIGEST = f"sha256:{HEX}"

GOOD = [
    ("nginx", "docker.io", "library/nginx", None, None),
    ("nginx:1.27", "docker.io", "library/nginx", "1.27", None),
    (f"nginx@{DIGEST}", "docker.io", "library/nginx", None, DIGEST),
    ("user/x", "docker.io", "user/x", None, None),
    ("a/b/c:t", "docker.io", "a/b/c", "t", None),
    ("docker.io/nginx", "docker.io", "library/nginx", None, None),
    ("index.docker.io/library/nginx", "docker.io", "library/nginx", None, None),
    ("registry-1.docker.io/nginx:1", "docker.io", "library/nginx", "1", None),
    ("localhost/x", "localhost", "x", None, None),
    ("localhost:5000/x:y", "localhost:5000", "x", "y", None),
    (f"registry.example:5000/team/app:1.2@{DIGEST}", "registry.example:5000", "team/app", "1.2", DIGEST),
    ("Registry.Example/x", "registry.example", "x", None, None),
    ("[::1]:5000/x", "[::1]:5000", "x", None, None),
    ("[fd00::1]/a/b:_t", "[fd00::1]", "a/b", "_t", None),
    ("10.0.0.1/x", "10.0.0.1", "x", None, None),
    ("r.example/a__b/c-d/e--f.g", "r.example", "a__b/c-d/e--f.g", None, None),
    (f"x@sha512:{HEX}{HEX}", "docker.io", "library/x", None, f"sha512:{HEX}{HEX}"),
    ("r.example/x:" + "t" * 128, "r.example", "x", "t" * 128, None),
    ("r.example/" + "a" * 255, "r.example", "a" * 255, None, None),
]

BAD = [
    ("", "empty"),
    ("Nginx", "lower-case"),
    ("registry.example/Team/app", "lower-case"),
    ("a//b", "empty path component"),
    ("/a", "empty path component"),
    ("a/", "empty path component"),
    ("r.example/", "empty path component"),
    ("r.example/../etc", "'..'"),
    ("../etc/passwd", "'..'"),
    ("./x", "'.'"),
    ("r.example/a/./b", "'.'"),
    ("r.example/a..b", "lower-case"),
    ("r.example/a_-b", "lower-case"),
    ("r.example/-a", "lower-case"),
    ("r.example/a\n", "lower-case"),
    ("r.example/ä", "lower-case"),
    ("r.example/x%2e%2e", "lower-case"),
    ("r.example/x?y=z", "lower-case"),
    ("r.example/" + "a" * 256, "at most 255"),
    ("a" * 2000, "at most 1,024"),
    ("nginx:", "tag"),
    ("nginx:-x", "tag"),
    ("nginx:" + "t" * 129, "tag"),
    ("nginx:a\n", "tag"),
    ("nginx@", "64 hex digits"),
    ("nginx@sha256:abc", "64 hex digits"),
    (f"nginx@sha256:{HEX.upper()}", "64 hex digits"),
    (f"nginx@md5:{HEX}", "64 hex digits"),
    (f"nginx@{DIGEST}\n", "64 hex digits"),
    (f"nginx@{DIGEST}@{DIGEST}", "64 hex digits"),
    (HEX, "digest, not a name"),
    ("localhost:0/x", "1 to 65535"),
    ("localhost:65536/x", "1 to 65535"),
    ("localhost:/x", "1 to 65535"),
    ("r.example:5000:1/x", "1 to 65535"),
    ("r.example:٣/x", "1 to 65535"),
    ("-r.example/x", "host name"),
    ("r..example/x", "host name"),
    ("user@r.example/x", "64 hex digits"),
    ("[::1]", "no repository"),
    ("[::1/x", "host name"),
    ("[fe80::1%eth0]:1/x", "host name"),
    ("[1.2.3.4]:1/x", "host name"),
    ("https://r.example/x", "registry 'https:'"),
]


@pytest.mark.parametrize(("text", "registry", "repository", "tag", "digest"), GOOD)
def test_good(text: str, registry: str, repository: str, tag: str | None, digest: str | None) -> None:
    reference = parse_reference(text)
    assert reference == Reference(registry, repository, tag, digest)
    assert reference.name == f"{registry}/{repository}"
    assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize(("text", "says"), BAD)
def test_bad(text: str, says: str) -> None:
    with pytest.raises(ReferenceError_) as caught:
        parse_reference(text)
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


COMPONENT = st.from_regex(r"[a-z0-9]{1,8}((\.|_|__|-{1,3})[a-z0-9]{1,8}){0,2}", fullmatch=True)
HOSTS = st.one_of(
    st.just("docker.io"),
    st.from_regex(r"[a-z0-9]{1,5}\.[a-z]{2,5}(:[1-9][0-9]{0,3})?", fullmatch=True),
    st.builds("[{}]:{}".format, st.ip_addresses(v=6), st.integers(1, 65535)),
    st.builds("{}:{}".format, st.ip_addresses(v=4), st.integers(1, 65535)),
)
REFERENCES = st.builds(
    Reference,
    HOSTS,
    st.lists(COMPONENT, min_size=2, max_size=4).map("/".join),
    st.none() | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True),
    st.none() | st.binary(min_size=32, max_size=32).map(lambda raw: f"sha256:{raw.hex()}"),
)


@given(REFERENCES)
def test_every_reference_survives_writing_and_reading(reference: Reference) -> None:
    assert parse_reference(str(reference)) == reference


@given(st.text(alphabet=st.sampled_from("aA0._-/:@[]%\n é"), max_size=40))
def test_any_text_is_parsed_or_refused_in_one_line(text: str) -> None:
    said = ""
    try:
        reference = parse_reference(text)
        assert parse_reference(str(reference)) == reference
        assert not {"", ".", ".."} & set(reference.repository.split("/"))
    except ReferenceError_ as error:
        said = str(error)
    assert len(said.splitlines()) <= 1
