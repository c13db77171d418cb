from __future__ import annotations

import base64
import json

import pytest

from oci import server
from oci.descriptor import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, sha256_digest
from oci.limits import MANIFEST_BYTES_MAX
from oci.server import serve
from tests.oci_layout.images import as_json, describe, manifest_of, multi_image, referrer_to, single_image
from tests.oci_layout.served import NAME, Answer, Client
from tests.support.content import digest_of

ABSENT = sha256_digest(b"absent")
DATA = bytes(range(256)) * 40


async def test_base_and_catalog(client: Client) -> None:
    assert (await client("GET", "/v2/")).status == 200
    await client.push(single_image(), "1")
    await client.push(single_image(), "1", "another")
    answer = await client("GET", "/v2/_catalog?n=1")
    assert json.loads(answer.body) == {"repositories": ["another"]}
    assert answer.headers["Link"] == '</v2/_catalog?n=1&last=another>; rel="next"'
    answer = await client("GET", "/other")
    assert (answer.status, answer.code) == (404, "NAME_UNKNOWN")
    answer = await client("DELETE", f"/v2/{NAME}/manifests/1")
    assert (answer.status, answer.code) == (405, "UNSUPPORTED")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_manifests_are_exact(client: Client, method: str) -> None:
    image = multi_image()
    await client.push(image, "1.27")
    for manifest in image.manifests:
        references = [manifest.descriptor.digest] + (["1.27"] if manifest is image.root else [])
        for reference in references:
            answer = await client(method, f"/v2/{NAME}/manifests/{reference}")
            assert answer.status == 200
            assert answer.headers["Content-Type"] == manifest.descriptor.media_type
            assert answer.headers["Docker-Content-Digest"] == manifest.descriptor.digest
            assert int(answer.headers["Content-Length"]) == len(manifest.raw)
            assert answer.body == (manifest.raw if method == "GET" else b"")


async def test_unknown_things(client: Client) -> None:
    image = single_image()
    await client.push(image, "1")
    layer = next(iter(image.blobs))
    for path, code, status in (
        (f"manifests/{ABSENT}", "MANIFEST_UNKNOWN", 404),
        (f"manifests/{layer}", "MANIFEST_UNKNOWN", 404),
        ("manifests/2", "MANIFEST_UNKNOWN", 404),
        ("manifests/sha256:12", "DIGEST_INVALID", 400),
        (f"blobs/{ABSENT}", "BLOB_UNKNOWN", 404),
        ("blobs/..%2F..%2Findex.json", "DIGEST_INVALID", 400),
        ("blobs/uploads/0123", "BLOB_UPLOAD_UNKNOWN", 404),
        ("referrers/1", "DIGEST_INVALID", 400),
        ("tags/list?n=x", "PAGINATION_NUMBER_INVALID", 400),
    ):
        answer = await client("GET", f"/v2/{NAME}/{path}")
        assert (answer.status, answer.code) == (status, code), path
    answer = await client("GET", "/v2/absent/tags/list")
    assert (answer.status, answer.code) == (404, "NAME_UNKNOWN")
    for name in ("Upper", "a..b", "a//b", "x" * 256, "-a"):
        answer = await client("GET", f"/v2/{name}/tags/list")
        assert (answer.status, answer.code) == (400, "NAME_INVALID"), name


async def test_blobs_and_ranges(client: Client) -> None:
    digest = sha256_digest(DATA)
    client.layout.blobs.write(digest, DATA)
    path = f"/v2/{NAME}/blobs/{digest}"
    answer = await client("GET", path)
    assert (answer.status, answer.body) == (200, DATA)
    assert answer.headers["Docker-Content-Digest"] == digest
    assert answer.headers["Content-Type"] == "application/octet-stream"
    answer = await client("HEAD", path)
    assert (answer.status, answer.headers["Content-Length"]) == (200, str(len(DATA)))
    answer = await client("GET", path, headers={"Range": "bytes=100-"})
    assert (answer.status, answer.body) == (206, DATA[100:])
    assert answer.headers["Content-Range"] == f"bytes 100-{len(DATA) - 1}/{len(DATA)}"
    answer = await client("GET", path, headers={"Range": "bytes=5-9"})
    assert (answer.status, answer.body) == (206, DATA[5:10])
    answer = await client("GET", path, headers={"Range": f"bytes={len(DATA)}-"})
    assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{len(DATA)}")


async def test_tags_in_pages(client: Client) -> None:
    image = single_image()
    for tag in ("b", "a", "C", "d.1"):
        await client.push(image, tag)
    answer = await client("GET", f"/v2/{NAME}/tags/list")
    assert json.loads(answer.body) == {"name": NAME, "tags": ["C", "a", "b", "d.1"]}
    assert "Link" not in answer.headers
    path, pages = f"/v2/{NAME}/tags/list?n=2", []
    while path:
        answer = await client("GET", path)
        pages.append(json.loads(answer.body)["tags"])
        path = answer.headers.get("Link", "<>").partition(">")[0][1:]
    assert pages == [["C", "a"], ["b", "d.1"]]
    answer = await client("GET", f"/v2/{NAME}/tags/list?n=0")
    assert json.loads(answer.body)["tags"] == []


async def test_referrers_filtered_and_in_pages(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    image = single_image()
    await client.push(image, "1")
    subject = image.root.descriptor
    made = [referrer_to(subject, "application/x.sig", f"{number}" * 50) for number in range(5)]
    made.append(referrer_to(subject, "application/x.sbom"))
    for artifact in made:
        for _, data in artifact.blobs.values():
            digest = sha256_digest(data)
            await client("POST", f"/v2/{NAME}/blobs/uploads/?digest={digest}", data=data)
        answer = await client(
            "PUT",
            f"/v2/{NAME}/manifests/{artifact.root.descriptor.digest}",
            data=artifact.root.raw,
            headers={"Content-Type": OCI_MANIFEST},
        )
        assert (answer.status, answer.headers["OCI-Subject"]) == (201, subject.digest)
    base = f"/v2/{NAME}/referrers/{subject.digest}"
    answer = await client("GET", base)
    document = json.loads(answer.body)
    assert answer.headers["Content-Type"] == document["mediaType"] == OCI_INDEX
    assert document["schemaVersion"] == 2
    assert {entry["digest"] for entry in document["manifests"]} == {
        artifact.root.descriptor.digest for artifact in made
    }
    assert "OCI-Filters-Applied" not in answer.headers
    answer = await client("GET", f"{base}?artifactType=application/x.sbom")
    assert answer.headers["OCI-Filters-Applied"] == "artifactType"
    (entry,) = json.loads(answer.body)["manifests"]
    assert entry["artifactType"] == "application/x.sbom"
    assert entry["annotations"] == {"note": "application/x.sbom"}
    answer = await client("GET", f"/v2/{NAME}/referrers/{ABSENT}")
    assert (answer.status, json.loads(answer.body)["manifests"]) == (200, [])
    # Pages are cut by bytes, so that clients which bound a page at 4 MB can read them.
    monkeypatch.setattr(server, "TAG_PAGE_BYTES_MAX", 1500)
    path, digests, pages = f"{base}?artifactType=application/x.sig", [], 0
    while path:
        answer = await client("GET", path)
        digests += [entry["digest"] for entry in json.loads(answer.body)["manifests"]]
        assert answer.headers["OCI-Filters-Applied"] == "artifactType"
        path, pages = answer.headers.get("Link", "<>").partition(">")[0][1:], pages + 1
    assert len(digests) == len(set(digests)) == 5
    assert pages > 1


async def put_manifest(client: Client, raw: bytes, media_type: str | None, reference: str = "1") -> Answer:
    headers = {"Content-Type": media_type} if media_type else {}
    skip = [] if media_type else ["Content-Type"]
    path = f"/v2/{NAME}/manifests/{reference}"
    return await client("PUT", path, data=raw, headers=headers, skip_auto_headers=skip)


async def test_pushed_manifests_keep_their_bytes(client: Client) -> None:
    image = single_image()
    for descriptor, data in image.blobs.values():
        client.layout.blobs.write(descriptor.digest, data)
    root = image.root
    for reference, media_type in (
        ("1", OCI_MANIFEST),
        ("2", f"{OCI_MANIFEST}; charset=utf-8"),
        ("3", None),
        (root.descriptor.digest, OCI_MANIFEST),
    ):
        answer = await put_manifest(client, root.raw, media_type, reference)
        assert (answer.status, answer.headers["Docker-Content-Digest"]) == (201, root.descriptor.digest)
        assert answer.headers["Location"] == f"/v2/{NAME}/manifests/{root.descriptor.digest}"
        assert "OCI-Subject" not in answer.headers
    assert await client.layout.repository(NAME).tags() == ["1", "2", "3"]
    sha512 = digest_of(root.raw, "sha512")
    assert (await put_manifest(client, root.raw, OCI_MANIFEST, sha512)).status == 201
    assert (await client("GET", f"/v2/{NAME}/manifests/{sha512}")).body == root.raw


async def test_bad_manifests_are_refused(client: Client) -> None:
    image = multi_image()
    await client.push(image, "good")
    root, child = image.root, image.manifests[0]
    absent = as_json(describe(OCI_MANIFEST, b"absent"))
    missing_child = manifest_of({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [absent]})
    document = json.loads(child.raw)
    missing_layer = manifest_of(document | {"layers": [as_json(describe("a/b", b"absent"))]})
    both = manifest_of(document | {"manifests": []})
    far = as_json(describe("a/b", b"absent"), urls=["https://example.org/x"])
    foreign = manifest_of(document | {"layers": [far]})
    assert (await put_manifest(client, foreign.raw, OCI_MANIFEST)).status == 201
    dangling = manifest_of(document | {"subject": absent})
    assert (await put_manifest(client, dangling.raw, OCI_MANIFEST)).status == 201
    schema1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"
    for raw, media_type, reference, status, code in (
        (missing_child.raw, OCI_INDEX, "x", 400, "MANIFEST_BLOB_UNKNOWN"),
        (missing_layer.raw, OCI_MANIFEST, "x", 400, "MANIFEST_BLOB_UNKNOWN"),
        (both.raw, OCI_MANIFEST, "x", 400, "MANIFEST_INVALID"),
        (root.raw, OCI_MANIFEST, "x", 400, "MANIFEST_INVALID"),
        (child.raw, DOCKER_MANIFEST, "x", 400, "MANIFEST_INVALID"),
        (b"{", OCI_MANIFEST, "x", 400, "MANIFEST_INVALID"),
        (b'{"schemaVersion": 1}', schema1, "x", 400, "UNSUPPORTED"),
        (child.raw, OCI_MANIFEST, ABSENT, 400, "DIGEST_INVALID"),
        (child.raw, OCI_MANIFEST, "sha256:1", 400, "DIGEST_INVALID"),
        (child.raw, OCI_MANIFEST, "-bad-", 400, "MANIFEST_INVALID"),
        (b" " * (MANIFEST_BYTES_MAX + 1), OCI_MANIFEST, "x", 413, "SIZE_INVALID"),
    ):
        answer = await put_manifest(client, raw, media_type, reference)
        assert (answer.status, answer.code) == (status, code), raw[:100]
    assert await client.layout.repository(NAME).tags() == ["1", "good"]


async def test_read_only_serves_and_takes_nothing(client: Client) -> None:
    image = single_image()
    await client.push(image, "1")
    running = await serve(client.layout, read_only=True)
    try:
        base = f"{running.url}/v2/{NAME}"
        assert (await client("GET", f"{base}/manifests/1")).body == image.root.raw
        for method, path in (
            ("PUT", "manifests/1"),
            ("POST", "blobs/uploads/"),
            ("PATCH", "blobs/uploads/0"),
            ("DELETE", "manifests/1"),
        ):
            answer = await client(method, f"{base}/{path}", data=b"{}")
            assert (answer.status, answer.code) == (405, "UNSUPPORTED")
            assert answer.headers["Allow"] == "GET, HEAD"
    finally:
        await running.close()


def basic(login: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()} if login else {}


async def test_users(client: Client) -> None:
    running = await serve(client.layout, users={"alice": "secret"})
    try:
        url = f"{running.url}/v2/"
        for login in ("", "alice:wrong", "bob:", "bob:secret", "alice"):
            answer = await client("GET", url, headers=basic(login))
            assert (answer.status, answer.code) == (401, "UNAUTHORIZED")
            assert answer.headers["WWW-Authenticate"].startswith("Basic realm=")
        answer = await client("GET", url, headers={"Authorization": "Basic ???"})
        assert answer.status == 401
        assert (await client("GET", url, headers=basic("alice:secret"))).status == 200
    finally:
        await running.close()


async def test_a_taken_port_is_an_os_error(client: Client) -> None:
    with pytest.raises(OSError, match=r"address already in use"):
        await serve(client.layout, port=client.running.port)
