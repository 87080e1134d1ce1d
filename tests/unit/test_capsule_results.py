"""What comes out of a capsule, comparing it, and bundles, which come from somebody else."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zdlab.capsule import bundle
from zdlab.capsule.bundle import MANIFEST, BundleError, open_bundle
from zdlab.capsule.case import Case
from zdlab.capsule.machine import CapsuleSpec, capsule_command
from zdlab.capsule.repeat import compare_results
from zdlab.capsule.result import observation
from zdlab.capsule.wire import WireError, packed, unpacked
from zdlab.errors import GuestError, InfrastructureError, LabError
from zdlab.experiment.model import IDENTICAL
from zdlab.experiment.nodes import HungError
from zdlab.measure.metrics import instruction_figures

_HEADER = {"observation": {"after": {"a": {"snmp": {"Tcp": {"OutSegs": 5}}, "list": [1, 2]}}}}
_PIECES = {"samples a": b"\x00\x01", "stdout bulk client": b"x"}


@given(st.dictionaries(st.text(max_size=8), st.binary(max_size=40), max_size=4))
def test_a_result_comes_out_as_it_went_in(pieces: dict[str, bytes]) -> None:
    assert unpacked(packed({"a": [1]}, pieces)) == ({"a": [1]}, pieces)


@given(st.integers(0, 150))
def test_a_result_that_is_cut_short_is_noticed(length: int) -> None:
    whole = packed(_HEADER, _PIECES)

    with pytest.raises(WireError):
        unpacked(whole[: min(length, len(whole) - 1)])


@pytest.mark.parametrize("data", [b"", b"[]\nend\n", b"{}\nend\n", b'{"pieces":[["a",-1]]}\nend\n', b"\xff\n"])
def test_what_is_no_result_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        unpacked(data)


def test_equal_results_are_identical() -> None:
    assert compare_results(packed(_HEADER, _PIECES), packed(_HEADER, dict(_PIECES))) == IDENTICAL


@pytest.mark.parametrize(
    ("header", "pieces", "difference"),
    [
        (
            {"observation": {"after": {"a": {"snmp": {"Tcp": {"OutSegs": 6}}, "list": [1, 2]}}}},
            _PIECES,
            "observation.after.a.snmp.Tcp.OutSegs is 6 now, 5 before",
        ),
        (
            {"observation": {"after": {"a": {"snmp": {"Tcp": {"OutSegs": 5}}, "list": [1, 3]}}}},
            _PIECES,
            "observation.after.a.list[1] is 3 now, 2 before",
        ),
        ({"observation": {"after": {}}}, _PIECES, "observation.after.a is missing now"),
        (_HEADER, {**_PIECES, "samples a": b"\x00\x02"}, "samples a differs from byte 1 on"),
        (_HEADER, {**_PIECES, "stdout bulk client": b"xy"}, "stdout bulk client differs from byte 1 on"),
    ],
)
def test_the_first_difference_is_named(header: Any, pieces: dict[str, bytes], difference: str) -> None:
    assert compare_results(packed(_HEADER, _PIECES), packed(header, pieces)) == difference


def test_what_went_wrong_inside_is_raised_outside() -> None:
    said = {"message": "m", "hint": "h", "origin": ["links", "x"]}

    with pytest.raises(HungError, match="m"):
        observation({"error": {**said, "kind": "hung"}}, {})
    with pytest.raises(LabError) as caught:
        observation({"error": {**said, "kind": "failed"}}, {})
    assert caught.value.origin == ("links", "x")
    with pytest.raises(GuestError, match="makes no sense"):
        observation({"observation": {}}, {})


def test_a_nanosecond_that_was_not_idle_is_an_instruction() -> None:
    figures = instruction_figures({"ns": 100, "idle_ns": 10}, {"ns": 1100, "idle_ns": 410}, 2e9)

    assert figures == {"instructions": 600.0, "instructions_per_gb": 300.0}
    assert instruction_figures({}, {}, 1e9) == {}
    assert instruction_figures({"ns": 0, "idle_ns": 0}, {"ns": 5, "idle_ns": 0}, 0) == {"instructions": 5.0}


def test_the_command_line_lets_nothing_in(tmp_path: Path) -> None:
    spec = CapsuleSpec(Path("/k"), Path("/i"), 1024, 7, ("word=1",))

    command = capsule_command(spec, tmp_path, "qemu")

    text = " ".join(command)
    assert "-seed 7" in text
    assert "-smp 1" in text
    assert "rr=record" in text
    assert "word=1" in text
    # No disk, no network, no socket, no host's randomness.
    assert not [word for word in command if word.startswith(("-drive", "-netdev", "-nic", "-virtfs", "-qmp", "-mon"))]
    assert "socket" not in text
    assert "rng" not in text


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
        append=(),
        task=task,
        boot={},
    )
    return {**case.to_json(), **changes}


def test_a_case_survives_json() -> None:
    value = _case()

    assert Case.from_json(json.loads(json.dumps(value))).to_json() == value


@pytest.mark.parametrize(
    "change",
    [
        {"format": 99},
        {"memory_mib": "1024"},
        {"memory_mib": -1},
        {"seed": True},
        {"append": [1]},
        {"append": ["a\nb"]},
        {"task": {}},
        {"task": None},
        {"boot": {"a": ["x"]}},
        {"kernel": 5},
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
            "result-0003.gz": gzip.compress(packed(_HEADER, _PIECES)),
        }
        self.manifest: dict[str, Any] = {
            "format": 1,
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

    def fill(self) -> _Maker:
        self.add(MANIFEST, json.dumps(self.manifest).encode())
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
    maker.manifest["format"] = 2
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


def test_what_runs_in_a_capsule_loads_nothing_heavy() -> None:
    """Every import is paid for in every trial; and only pure Python runs under the image's interpreter."""
    script = "import sys, zdlab.capsule.inside; print(*{name.partition('.')[0] for name in sys.modules})"

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    loaded = set(done.stdout.split())
    assert loaded >= {"pyroute2", "qemu", "zdlab"}
    assert not loaded & {"filelock", "numpy", "pydantic", "pydantic_core", "rich", "ruamel", "scipy", "typer", "yaml"}
