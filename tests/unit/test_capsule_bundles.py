"""Bundles: they come from somebody else."""

from __future__ import annotations

import gzip
import hashlib
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import zdlab
from tests.unit.bundle_maker import HEADER, PIECES, BundleMaker
from zdlab.capsule import bundle, repeat
from zdlab.capsule.bundle import MANIFEST, BundleError, open_bundle
from zdlab.capsule.wire import packed, unpacked
from zdlab.errors import InfrastructureError


@pytest.fixture
def maker(tmp_path: Path) -> BundleMaker:
    return BundleMaker(tmp_path / "bundle.zdlab")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "out"
    path.mkdir()
    return path


def test_a_sound_bundle_is_unpacked(maker: BundleMaker, target: Path) -> None:
    (item,) = open_bundle(maker.fill().write(), target)

    assert (item.number, item.arm, item.case.seed) == (3, "stock", 1)
    assert item.kernel.read_bytes() == b"kernel"
    assert item.image.read_bytes() == b"image"
    assert unpacked(item.result()) == (HEADER, PIECES)
    assert item.seconds == 4.5
    assert all(path.stat().st_mode & 0o077 == 0 for path in target.iterdir())


def _changed_kernel(maker: BundleMaker) -> None:
    maker.content[next(iter(maker.content))] = b"kernes"
    maker.fill()


def _shorter_kernel(maker: BundleMaker) -> None:
    maker.content[next(iter(maker.content))] = b"kerne"
    maker.fill()


def _missing_result(maker: BundleMaker) -> None:
    del maker.content["result-0003.gz"]
    maker.fill()


def _unlisted_result(maker: BundleMaker) -> None:
    del maker.content["result-0003.gz"], maker.manifest["members"]["result-0003.gz"]
    maker.fill()


def _additional_member(maker: BundleMaker) -> None:
    maker.fill().add("more", b"x")


def _member_twice(maker: BundleMaker) -> None:
    maker.fill().add("result-0003.gz", maker.content["result-0003.gz"])


def _escape(name: str) -> Callable[[BundleMaker], None]:
    def change(maker: BundleMaker) -> None:
        maker.manifest["members"][name] = {"size": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
        maker.fill().add(name, b"x")

    return change


def _symlink(maker: BundleMaker) -> None:
    maker.manifest["members"]["link"] = {"size": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    maker.fill().add("link", b"", tarfile.SYMTYPE, "/etc/passwd")


def _hard_link(maker: BundleMaker) -> None:
    maker.manifest["members"]["link"] = {"size": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    maker.fill().add("link", b"", tarfile.LNKTYPE, "result-0003.gz")


def _device(maker: BundleMaker) -> None:
    maker.manifest["members"]["null"] = {"size": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    maker.fill().add("null", b"", tarfile.CHRTYPE)


def _no_manifest(maker: BundleMaker) -> None:
    for name, data in maker.content.items():
        maker.add(name, data)


def _manifest_is_a_link(maker: BundleMaker) -> None:
    maker.add(MANIFEST, b"", tarfile.SYMTYPE, "/etc/passwd")


def _other_format(maker: BundleMaker) -> None:
    maker.manifest["format"] = 1
    maker.fill()


def _other_kernel(maker: BundleMaker) -> None:
    maker.manifest["trials"][0]["case"]["kernel"] = "0" * 64
    maker.fill()


def _kernel_is_a_path(maker: BundleMaker) -> None:
    maker.manifest["trials"][0]["case"]["kernel"] = "../../vmlinuz"
    maker.fill()


def _listed_kernel_of_another_name(maker: BundleMaker) -> None:
    # Its bytes are what the list says, but not what its name, and the case, say.
    wrong = f"kernel-{'1' * 64}"
    maker.content[wrong] = b"other"
    maker.manifest["members"][wrong] = {"size": 5, "sha256": hashlib.sha256(b"other").hexdigest()}
    maker.manifest["trials"][0]["case"]["kernel"] = "1" * 64
    maker.fill()


def _case_of_nonsense(maker: BundleMaker) -> None:
    maker.manifest["trials"][0]["case"]["append"] = {"a": "b"}
    maker.manifest["trials"][0]["case"]["task"] = []
    maker.fill()


def _number_of_nonsense(maker: BundleMaker) -> None:
    maker.manifest["trials"][0]["number"] = "x"
    maker.fill()


def _endless_number(maker: BundleMaker) -> None:
    text = json.dumps(maker.manifest)
    assert '"number": 3' in text
    maker.fill(text.replace('"number": 3', '"number": 1e400').encode())


def _deep_manifest(maker: BundleMaker) -> None:
    maker.fill(b"[" * 200_000)


def _deep_task(maker: BundleMaker) -> None:
    text = json.dumps(maker.manifest)
    maker.fill(text.replace('"works": []', '"works": ' + "[" * 50_000 + "]" * 50_000).encode())


def _petabytes_of_memory(maker: BundleMaker) -> None:
    maker.manifest["trials"][0]["case"]["memory_mib"] = (1 << 32) - 1
    maker.fill()


def _no_trials(maker: BundleMaker) -> None:
    maker.manifest["trials"] = []
    maker.fill()


def _trial_twice(maker: BundleMaker) -> None:
    maker.manifest["trials"] *= 2
    maker.fill()


def _arm_of_nonsense(maker: BundleMaker) -> None:
    maker.manifest["trials"][0]["arm"] = "a\x1b[2J"
    maker.fill()


def _no_version(maker: BundleMaker) -> None:
    del maker.manifest["zdlab"]
    maker.fill()


def _broken_deflate(maker: BundleMaker) -> None:
    data = bytearray(gzip.compress(packed(HEADER, PIECES)))
    data[10] ^= 0xFF
    maker.result(bytes(data))
    maker.fill()


def _result_without_gzip(maker: BundleMaker) -> None:
    maker.result(b"no gzip")
    maker.fill()


def _result_of_nonsense(maker: BundleMaker) -> None:
    maker.result(gzip.compress(b"[" * 200_000 + b"\n"))
    maker.fill()


def _result_with_endless_piece(maker: BundleMaker) -> None:
    maker.result(gzip.compress(b'{"pieces":[["a",1e400]]}\nend\n'))
    maker.fill()


def _extended_header(maker: BundleMaker) -> None:
    maker.add("PaxHeaders.0", b"30 mtime=1111111111.111111111\n", tarfile.XHDTYPE)
    maker.fill()


def _long_name(maker: BundleMaker) -> None:
    for _ in range(3000):
        maker.add("././@LongLink", b"x" * 200, tarfile.GNUTYPE_LONGNAME)
    maker.fill()


def _nameless(maker: BundleMaker) -> None:
    maker.manifest["members"][""] = {"size": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    maker.fill().add("", b"")


def _list_of_nonsense(maker: BundleMaker) -> None:
    maker.manifest["members"] = [1, 2]
    maker.fill()


def _manifest_of_another_name(maker: BundleMaker) -> None:
    maker.add("notes.json", json.dumps(maker.manifest).encode())
    for name, data in maker.content.items():
        maker.add(name, data)


def _listed_and_not_there(maker: BundleMaker) -> None:
    maker.manifest["members"]["notes"] = {"size": 0, "sha256": hashlib.sha256(b"").hexdigest()}
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
    maker: BundleMaker, target: Path, change: Callable[[BundleMaker], None]
) -> None:
    change(maker)

    with pytest.raises(BundleError):
        open_bundle(maker.write(), target)

    assert {path.name for path in target.parent.iterdir()} == {"bundle.zdlab", "out"}
    assert not any(path.is_symlink() or not path.is_file() for path in target.iterdir())


@pytest.mark.parametrize(
    ("change", "words"),
    [(_manifest_of_another_name, "does not begin with manifest.json"), (_listed_and_not_there, "'notes' is missing")],
)
def test_what_a_bundle_could_do_without_is_refused_too(
    maker: BundleMaker, target: Path, change: Callable[[BundleMaker], None], words: str
) -> None:
    change(maker)

    with pytest.raises(BundleError, match=words):
        open_bundle(maker.write(), target)


def test_a_bundle_of_too_many_members_is_refused(
    maker: BundleMaker, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "_MOST_MEMBERS", 2)

    with pytest.raises(BundleError, match="lists 3 members"):
        open_bundle(maker.fill().write(), target)


@pytest.mark.parametrize("keep", [0, 1, 20, 200])
def test_a_bundle_that_is_cut_short_is_refused(maker: BundleMaker, target: Path, keep: int) -> None:
    path = maker.fill().write()
    path.write_bytes(path.read_bytes()[:keep])

    with pytest.raises(BundleError):
        open_bundle(path, target)


def test_an_archive_that_is_cut_short_is_refused(maker: BundleMaker, target: Path) -> None:
    path = maker.fill().write()
    archive = gzip.decompress(path.read_bytes())
    # In the middle of its last member, and well packed.
    path.write_bytes(gzip.compress(archive[: archive.index(maker.content["result-0003.gz"]) + 10]))

    with pytest.raises(BundleError, match="cut short"):
        open_bundle(path, target)


def test_a_bundle_that_unpacks_to_too_much_is_refused(
    maker: BundleMaker, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "_LARGEST", 20_000)
    maker.content["result-0003.gz"] = bytes(100_000)
    maker.manifest["members"]["result-0003.gz"] = {
        "size": 100_000,
        "sha256": hashlib.sha256(bytes(100_000)).hexdigest(),
    }

    with pytest.raises(BundleError, match="unpacks to more"):
        open_bundle(maker.fill().write(), target)


def test_a_member_that_is_too_large_is_refused(
    maker: BundleMaker, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "_LARGEST_MEMBER", 5)

    with pytest.raises(BundleError, match="has 6 bytes"):
        open_bundle(maker.fill().write(), target)


def test_a_bundle_that_is_not_there_is_refused(tmp_path: Path, target: Path) -> None:
    with pytest.raises(BundleError, match="cannot read"):
        open_bundle(tmp_path / "none", target)


def test_a_result_that_unpacks_to_too_much_is_refused(
    maker: BundleMaker, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeat, "LIMIT", 10)

    with pytest.raises(BundleError, match="unpacks to more than 10"):
        open_bundle(maker.fill().write(), target)


def test_something_after_the_end_is_refused(maker: BundleMaker, target: Path) -> None:
    path = maker.fill().write()
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + b"more"))

    with pytest.raises(BundleError, match="follows its end"):
        open_bundle(path, target)


def test_where_there_is_no_room_it_is_not_the_bundles_fault(maker: BundleMaker, target: Path) -> None:
    path = maker.fill().write()
    target.rmdir()

    with pytest.raises(InfrastructureError, match="cannot unpack"):
        open_bundle(path, target)


def test_what_would_be_run_otherwise_is_said(maker: BundleMaker, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
