"""Whatever the bytes of a bundle, it is refused or it is a good one."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.bundle_maker import BundleMaker
from zdlab.capsule.bundle import BundleError, open_bundle
from zdlab.capsule.wire import unpacked

_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)


def _opened(data: bytes) -> None:
    """Open what may be a bundle: it is refused, or it is a good one."""
    with TemporaryDirectory() as name:
        path, directory = Path(name) / "bundle", Path(name) / "out"
        path.write_bytes(data)
        directory.mkdir()
        try:
            found = open_bundle(path, directory)
        except BundleError:
            return
        for kept in found:
            assert hashlib.sha256(kept.kernel.read_bytes()).hexdigest() == kept.case.kernel
            unpacked(kept.result())
            kept.unlike()
            json.dumps(kept.case.to_json())
        assert found


def _whole() -> bytes:
    with TemporaryDirectory() as name:
        return gzip.decompress(BundleMaker(Path(name) / "bundle").fill().write().read_bytes())


@given(st.binary(max_size=2000), st.booleans())
def test_any_bytes_are_refused_or_a_bundle(data: bytes, packing: bool) -> None:
    _opened(gzip.compress(data, 1) if packing else data)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_change_of_bytes_is_refused_or_leaves_a_bundle(data: st.DataObject) -> None:
    packing = data.draw(st.booleans())
    whole = bytearray(_whole() if packing else gzip.compress(_whole(), 1, mtime=0))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(whole) - 1))
        if data.draw(st.booleans()):
            whole[place] = data.draw(st.integers(0, 255))
        else:
            whole[place : place + data.draw(st.integers(0, 600))] = data.draw(st.binary(max_size=600))
    _opened(gzip.compress(bytes(whole), 1) if packing else bytes(whole))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_change_of_the_manifest_is_refused_or_leaves_a_bundle(data: st.DataObject) -> None:
    with TemporaryDirectory() as name:
        maker = BundleMaker(Path(name) / "bundle")
        value: Any = maker.manifest
        while True:  # down to anywhere
            keys = list(value) if isinstance(value, dict) else list(range(len(value)))
            key = data.draw(st.sampled_from(keys))
            if isinstance(value[key], dict | list) and value[key] and data.draw(st.booleans()):
                value = value[key]
                continue
            value[key] = data.draw(_VALUES)
            break
        written = maker.fill().write().read_bytes()
    _opened(written)
