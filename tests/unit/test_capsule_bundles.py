"""Bundles and the cases in them: they come from somebody else."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import zdlab
from zdlab.capsule import bundle, repeat
from zdlab.capsule.bundle import MANIFEST, BundleError, open_bundle
from zdlab.capsule.case import Case, command_of
from zdlab.capsule.wire import packed, unpacked
from zdlab.errors import InfrastructureError

_GOLDEN = Path(__file__).parent / "golden" / "capsule-command.txt"
_HEADER = {"ended_ns": 4_500_000_000, "observation": {"after": {"a": {"snmp": {"Tcp": {"OutSegs": 5}}}}}}
_PIECES = {"samples a": b"\x00\x01"}


def _case(**changes: Any) -> dict[str, Any]:
    task = {
        "outline": {"name": "t", "kinds": {}, "places": {}, "ends": [], "operations": []},
        "works": [],
        "intervals": {},
        "watched": [],
        "consoles": [],
        "saying": "",
    }
    case = Case(
        kernel=hashlib.sha256(b"kernel").hexdigest(),
        release="6.12",
        image=hashlib.sha256(b"image").hexdigest(),
        qemu="7.2",
        memory_mib=1024,
        seed=1,
        append=("word=1",),
        command=(),
        task=task,
        boot={},
    )
    return {**replace(case, command=command_of(case)).to_json(), **changes}


def test_a_case_survives_json() -> None:
    value = _case()

    assert Case.from_json(json.loads(json.dumps(value))).to_json() == value


@pytest.mark.parametrize(
    "change",
    [
        {"format": 99},
        {"memory_mib": "1024"},
        {"memory_mib": -1},
        {"memory_mib": (1 << 32) - 1},
        {"seed": True},
        {"append": [1]},
        {"append": ["a\nb"]},
        {"task": {}},
        {"task": None},
        {"boot": {"a": ["x"]}},
        {"kernel": 5},
        {"command": [["-m"]]},
        {"task": {"outline": {"name": "t", "kinds": {}, "places": {}, "ends": [], "operations": [{"operation": "x"}]}}},
    ],
)
def test_a_case_that_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InfrastructureError, match="not readable"):
        Case.from_json(_case(**change))


class _Maker:
    """Writes bundles, sound ones and others."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content = {
            f"kernel-{hashlib.sha256(b'kernel').hexdigest()}": b"kernel",
            f"image-{hashlib.sha256(b'image').hexdigest()}": b"image",
            "result-0003.gz": gzip.compress(packed(_HEADER, _PIECES), mtime=0),
        }
        self.manifest: dict[str, Any] = {
            "format": 2,
            "zdlab": zdlab.__version__,
            "trials": [{"number": 3, "arm": "stock", "case": _case()}],
            "members": {
                name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                for name, data in self.content.items()
            },
        }
        self.members: list[tuple[tarfile.TarInfo, bytes]] = []

    def add(self, name: str, data: bytes, kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
        member = tarfile.TarInfo(name)
        member.size, member.type, member.linkname = len(data), kind, link
        self.members.append((member, data))

    def result(self, data: bytes) -> None:
        self.content["result-0003.gz"] = data
        self.manifest["members"]["result-0003.gz"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    def fill(self, manifest: bytes | None = None) -> _Maker:
        self.add(MANIFEST, json.dumps(self.manifest).encode() if manifest is None else manifest)
        for name, data in self.content.items():
            self.add(name, data)
        return self

    def write(self) -> Path:
        with tarfile.open(self.path, "w:gz") as archive:
            for member, data in self.members:
                archive.addfile(member, io.BytesIO(data))
        return self.path


@pytest.fixture
def maker(tmp_path: Path) -> _Maker:
    return _Maker(tmp_path / "bundle.zdlab")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "out"
    path.mkdir()
    return path


def test_a_sound_bundle_is_unpacked(maker: _Maker, target: Path) -> None:
    (item,) = open_bundle(maker.fill().write(), target)

    assert (item.number, item.arm, item.case.seed) == (3, "stock", 1)
    assert item.kernel.read_bytes() == b"kernel"
    assert item.image.read_bytes() == b"image"
    assert unpacked(item.result()) == (_HEADER, _PIECES)
    assert item.seconds == 4.5
    assert all(path.stat().st_mode & 0o077 == 0 for path in target.iterdir())


def _changed_kernel(maker: _Maker) -> None:
    maker.content[next(iter(maker.content))] = b"kernes"
    maker.fill()


def _shorter_kernel(maker: _Maker) -> None:
    maker.content[next(iter(maker.content))] = b"kerne"
    maker.fill()


def _missing_result(maker: _Maker) -> None:
    del maker.content["result-0003.gz"]
    maker.fill()


def _unlisted_result(maker: _Maker) -> None:
    del maker.content["result-0003.gz"], maker.manifest["members"]["result-0003.gz"]
    maker.fill()


def _additional_member(maker: _Maker) -> None:
    maker.fill().add("more", b"x")


def _member_twice(maker: _Maker) -> None:
    maker.fill().add("result-0003.gz", maker.content["result-0003.gz"])


def _escape(name: str) -> Callable[[_Maker], None]:
    def change(maker: _Maker) -> None:
        maker.manifest["members"][name] = {"size": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
        maker.fill().add(name, b"x")

    return change


def _symlink(maker: _Maker) -> None:
    maker.manifest["members"]["link"] = {"size": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    maker.fill().add("link", b"", tarfile.SYMTYPE, "/etc/passwd")


def _hard_link(maker: _Maker) -> None:
    maker.manifest["members"]["link"] = {"size": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    maker.fill().add("link", b"", tarfile.LNKTYPE, "result-0003.gz")


def _device(maker: _Maker) -> None:
    maker.manifest["members"]["null"] = {"size": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    maker.fill().add("null", b"", tarfile.CHRTYPE)


def _no_manifest(maker: _Maker) -> None:
    for name, data in maker.content.items():
        maker.add(name, data)


def _manifest_is_a_link(maker: _Maker) -> None:
    maker.add(MANIFEST, b"", tarfile.SYMTYPE, "/etc/passwd")


def _other_format(maker: _Maker) -> None:
    maker.manifest["format"] = 1
    maker.fill()


def _other_kernel(maker: _Maker) -> None:
    maker.manifest["trials"][0]["case"]["kernel"] = "0" * 64
    maker.fill()


def _kernel_is_a_path(maker: _Maker) -> None:
    maker.manifest["trials"][0]["case"]["kernel"] = "../../vmlinuz"
    maker.fill()


def _listed_kernel_of_another_name(maker: _Maker) -> None:
    # Its bytes are what the list says, but not what its name, and the case, say.
    wrong = f"kernel-{'1' * 64}"
    maker.content[wrong] = b"other"
    maker.manifest["members"][wrong] = {"size": 5, "sha256": hashlib.sha256(b"other").hexdigest()}
    maker.manifest["trials"][0]["case"]["kernel"] = "1" * 64
    maker.fill()


def _case_of_nonsense(maker: _Maker) -> None:
    maker.manifest["trials"][0]["case"]["append"] = {"a": "b"}
    maker.manifest["trials"][0]["case"]["task"] = []
    maker.fill()


def _number_of_nonsense(maker: _Maker) -> None:
    maker.manifest["trials"][0]["number"] = "x"
    maker.fill()


def _endless_number(maker: _Maker) -> None:
    text = json.dumps(maker.manifest)
    assert '"number": 3' in text
    maker.fill(text.replace('"number": 3', '"number": 1e400').encode())


def _deep_manifest(maker: _Maker) -> None:
    maker.fill(b"[" * 200_000)


def _deep_task(maker: _Maker) -> None:
    text = json.dumps(maker.manifest)
    maker.fill(text.replace('"works": []', '"works": ' + "[" * 50_000 + "]" * 50_000).encode())


def _petabytes_of_memory(maker: _Maker) -> None:
    maker.manifest["trials"][0]["case"]["memory_mib"] = (1 << 32) - 1
    maker.fill()


def _no_trials(maker: _Maker) -> None:
    maker.manifest["trials"] = []
    maker.fill()


def _trial_twice(maker: _Maker) -> None:
    maker.manifest["trials"] *= 2
    maker.fill()


def _arm_of_nonsense(maker: _Maker) -> None:
    maker.manifest["trials"][0]["arm"] = "a\x1b[2J"
    maker.fill()


def _no_version(maker: _Maker) -> None:
    del maker.manifest["zdlab"]
    maker.fill()


def _broken_deflate(maker: _Maker) -> None:
    data = bytearray(gzip.compress(packed(_HEADER, _PIECES)))
    data[10] ^= 0xFF
    maker.result(bytes(data))
    maker.fill()


def _result_without_gzip(maker: _Maker) -> None:
    maker.result(b"no gzip")
    maker.fill()


def _result_of_nonsense(maker: _Maker) -> None:
    maker.result(gzip.compress(b"[" * 200_000 + b"\n"))
    maker.fill()


def _result_with_endless_piece(maker: _Maker) -> None:
    maker.result(gzip.compress(b'{"pieces":[["a",1e400]]}\nend\n'))
    maker.fill()


def _extended_header(maker: _Maker) -> None:
    maker.add("PaxHeaders.0", b"30 mtime=1111111111.111111111\n", tarfile.XHDTYPE)
    maker.fill()


def _long_name(maker: _Maker) -> None:
    for _ in range(3000):
        maker.add("././@LongLink", b"x" * 200, tarfile.GNUTYPE_LONGNAME)
    maker.fill()


def _nameless(maker: _Maker) -> None:
    maker.manifest["members"][""] = {"size": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    maker.fill().add("", b"")


def _list_of_nonsense(maker: _Maker) -> None:
    maker.manifest["members"] = [1, 2]
    maker.fill()


@pytest.mark.parametrize(
    "change",
    [
        _changed_kernel,
        _shorter_kernel,
        _missing_result,
        _unlisted_result,
        _additional_member,
        _member_twice,
        _escape("../escaped"),
        _escape("/tmp/escaped"),
        _escape("a/b"),
        _escape(".."),
        _symlink,
        _hard_link,
        _device,
        _no_manifest,
        _manifest_is_a_link,
        _other_format,
        _other_kernel,
        _kernel_is_a_path,
        _listed_kernel_of_another_name,
        _case_of_nonsense,
        _number_of_nonsense,
        _list_of_nonsense,
        _endless_number,
        _deep_manifest,
        _deep_task,
        _petabytes_of_memory,
        _no_trials,
        _trial_twice,
        _arm_of_nonsense,
        _no_version,
        _broken_deflate,
        _result_without_gzip,
        _result_of_nonsense,
        _result_with_endless_piece,
        _extended_header,
        _long_name,
        _nameless,
    ],
)
def test_a_bundle_that_is_not_as_it_should_be_is_refused(
    maker: _Maker, target: Path, change: Callable[[_Maker], None]
) -> None:
    change(maker)

    with pytest.raises(BundleError):
        open_bundle(maker.write(), target)

    assert {path.name for path in target.parent.iterdir()} == {"bundle.zdlab", "out"}
    assert not any(path.is_symlink() or not path.is_file() for path in target.iterdir())


@pytest.mark.parametrize("keep", [0, 1, 20, 200])
def test_a_bundle_that_is_cut_short_is_refused(maker: _Maker, target: Path, keep: int) -> None:
    path = maker.fill().write()
    path.write_bytes(path.read_bytes()[:keep])

    with pytest.raises(BundleError):
        open_bundle(path, target)


def test_a_bundle_that_unpacks_to_too_much_is_refused(
    maker: _Maker, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "_LARGEST", 20_000)
    maker.content["result-0003.gz"] = bytes(100_000)
    maker.manifest["members"]["result-0003.gz"] = {
        "size": 100_000,
        "sha256": hashlib.sha256(bytes(100_000)).hexdigest(),
    }

    with pytest.raises(BundleError, match="unpacks to more"):
        open_bundle(maker.fill().write(), target)


def test_a_member_that_is_too_large_is_refused(maker: _Maker, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "_LARGEST_MEMBER", 5)

    with pytest.raises(BundleError, match="has 6 bytes"):
        open_bundle(maker.fill().write(), target)


def test_a_bundle_that_is_not_there_is_refused(tmp_path: Path, target: Path) -> None:
    with pytest.raises(BundleError, match="cannot read"):
        open_bundle(tmp_path / "none", target)


def test_a_result_that_unpacks_to_too_much_is_refused(
    maker: _Maker, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeat, "LIMIT", 10)

    with pytest.raises(BundleError, match="unpacks to more than 10"):
        open_bundle(maker.fill().write(), target)


def test_something_after_the_end_is_refused(maker: _Maker, target: Path) -> None:
    path = maker.fill().write()
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + b"more"))

    with pytest.raises(BundleError, match="follows its end"):
        open_bundle(path, target)


def test_where_there_is_no_room_it_is_not_the_bundles_fault(maker: _Maker, target: Path) -> None:
    path = maker.fill().write()
    target.rmdir()

    with pytest.raises(InfrastructureError, match="cannot unpack"):
        open_bundle(path, target)


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
        return gzip.decompress(_Maker(Path(name) / "bundle").fill().write().read_bytes())


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
        maker = _Maker(Path(name) / "bundle")
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


def test_the_arguments_of_qemu_are_the_stored_ones() -> None:
    """What a bundle keeps of them, and what every replay is compared with."""
    assert "".join(f"{word}\n" for word in command_of(Case.from_json(_case()))) == _GOLDEN.read_text(encoding="utf-8")


def test_what_would_be_run_otherwise_is_said(maker: _Maker, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeat, "tool_versions", lambda: {"qemu": "7.2"})
    (kept,) = open_bundle(maker.fill().write(), target)
    assert kept.unlike() == []

    other = ["tcg,thread=multi" if word == "tcg,thread=single" else word for word in kept.case.command]
    kept = replace(kept, case=replace(kept.case, qemu="6.0", command=tuple(other)), zdlab="0.0")

    assert kept.unlike() == [
        "made with 6.0; this is 7.2, which may count otherwise",
        f"made with zdlab 0.0; this is {zdlab.__version__}",
        "QEMU gets other arguments now: tcg,thread=single in place of tcg,thread=multi",
    ]
