from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from oci.descriptor import sha256_digest
from oci.errors import NotFound, OciError, ReferenceError_
from oci.layout import Layout
from oci.layout_index import REF_NAME
from tests.oci_layout.images import write_files
from tests.oci_layout.test_archive import check_one_line

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["mediaType", "digest", "size", "annotations", REF_NAME]), inner, max_size=5
        )
    ),
    max_leaves=20,
)


@settings(max_examples=80, deadline=None)
@given(document=JSON | st.fixed_dictionaries({"manifests": st.lists(JSON, max_size=4)}))
def test_any_index_is_read_or_refused_in_one_line(document: object) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), {"index.json": json.dumps(document).encode()})

        async def use() -> None:
            layout = Layout(Path(folder))
            for tag in [*await layout.tags(), "1"]:
                try:
                    await layout.resolve(tag)
                except (NotFound, ReferenceError_):
                    pass
            await layout.referrers(sha256_digest(b""))

        try:
            asyncio.run(use())
        except OciError as error:
            check_one_line(error)
