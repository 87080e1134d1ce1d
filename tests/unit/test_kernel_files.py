"""Kernel images of a user's: what is told of good ones, and that no file, however broken, does worse than an error."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import lzma
import os
import struct
import subprocess
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zdlab.errors import UsageError
from zdlab.guest.kernels import inspect_kernel
from zdlab.guest.kernels.needs import FEATURES, NEEDED, congestion_symbol, needs, qdisc_symbol
from zdlab.guest.kernels.payload import PayloadError, uncompressed
from zdlab.guest.kernels.registry import recipe, recipes

CONFIG = 'CONFIG_64BIT=y\nCONFIG_NET_SCH_FQ=m\n# CONFIG_MODULES is not set\nCONFIG_LOCALVERSION="-zd"\n'
KERNEL = b"\x7fELF" + bytes(200) + b"IKCFG_ST" + gzip.compress(CONFIG.encode(), mtime=0) + b"IKCFG_ED" + bytes(50)
PLAIN = b"\x7fELF" + bytes(300)


def bzimage(payload: bytes, *, release: str = "6.18.1-zd (me@here) #1", flags: int = 1) -> bytes:
    """The parts of a bzImage that matter: setup code with its header, then the body with the payload."""
    setup_sectors = 3
    setup = bytearray((setup_sectors + 1) * 512)
    body = bytes(64) + payload
    body += bytes(-len(body) % 16)
    setup[0x1F1] = setup_sectors
    struct.pack_into("<I", setup, 0x1F4, len(body) // 16)
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x20E, 0x400)
    struct.pack_into("<H", setup, 0x236, flags)
    struct.pack_into("<II", setup, 0x248, 64, len(payload))
    setup[0x600 : 0x600 + len(release) + 1] = release.encode() + b"\0"
    return bytes(setup) + body


GOOD = bzimage(gzip.compress(KERNEL, mtime=0))


def _file(directory: Path, data: bytes, name: str = "bzImage") -> Path:
    path = directory / name
    path.write_bytes(data)
    return path


def _program(name: str, *arguments: str) -> bytes:
    return subprocess.run([name, *arguments], input=KERNEL, capture_output=True, check=True).stdout


def test_release_checksum_and_configuration_are_told(tmp_path: Path) -> None:
    kernel = inspect_kernel(_file(tmp_path, GOOD))

    assert kernel.release == "6.18.1-zd"
    assert kernel.sha256 == hashlib.sha256(GOOD).hexdigest()
    assert kernel.config == {"CONFIG_64BIT": "y", "CONFIG_NET_SCH_FQ": "m", "CONFIG_LOCALVERSION": '"-zd"'}
    assert kernel.note == ""


def test_a_configuration_that_is_known_is_taken_where_there_is_one(tmp_path: Path) -> None:
    image = _file(tmp_path, GOOD)
    known = tmp_path / "known"
    known.write_text("CONFIG_64BIT=y\n")

    assert inspect_kernel(image, known).config == {"CONFIG_64BIT": "y"}
    assert inspect_kernel(image, tmp_path / "gone") == inspect_kernel(image)


def test_python_uncompresses_what_kernels_are_compressed_with() -> None:
    assert uncompressed(gzip.compress(KERNEL) + b"size") == KERNEL
    assert uncompressed(bz2.compress(KERNEL) + b"size") == KERNEL
    assert uncompressed(lzma.compress(KERNEL, check=lzma.CHECK_CRC32) + b"size") == KERNEL
    assert uncompressed(lzma.compress(KERNEL, format=lzma.FORMAT_ALONE) + b"size") == KERNEL


@pytest.mark.parametrize(
    ("program", "arguments"), [("zstd", ("-q", "-c")), ("lz4", ("-l", "-q", "-c")), ("lzop", ("-q", "-c"))]
)
def test_programs_uncompress_the_rest(program: str, arguments: tuple[str, ...]) -> None:
    assert uncompressed(_program(program, *arguments) + b"size").startswith(KERNEL)


def test_a_missing_program_is_a_payload_error_that_names_its_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PayloadError, match="zstd is missing"):
        uncompressed(b"\x28\xb5\x2f\xfd" + bytes(20))


def test_a_kernel_without_a_configuration_says_why_it_is_not_known(tmp_path: Path) -> None:
    kernel = inspect_kernel(_file(tmp_path, bzimage(gzip.compress(PLAIN))))
    assert (kernel.config, kernel.missing(qdiscs=["fq"])) == (None, {})
    assert "CONFIG_IKCONFIG" in kernel.note

    assert "compression is not known" in inspect_kernel(_file(tmp_path, bzimage(PLAIN))).note
    assert "gzip data is broken" in inspect_kernel(_file(tmp_path, bzimage(b"\x1f\x8b" + bytes(40)))).note


@pytest.mark.parametrize(
    ("image", "beside"),
    [
        ("bzImage", "config"),
        ("bzImage", ".config"),
        ("vmlinuz-6.1", "config-6.1"),
        ("arch/x86/boot/bzImage", ".config"),
    ],
)
def test_a_configuration_beside_the_image_is_found(tmp_path: Path, image: str, beside: str) -> None:
    (tmp_path / image).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / beside).write_text(CONFIG, encoding="utf-8")

    config = inspect_kernel(_file(tmp_path, bzimage(gzip.compress(PLAIN)), image)).config
    assert config is not None
    assert config["CONFIG_64BIT"] == "y"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "is no x86 kernel image"),
        (b"not a kernel" * 100, "is no x86 kernel image"),
        (KERNEL * 4, r"is a program or a bare kernel \(ELF\)"),
        (GOOD[:-40], "is cut short"),
        (GOOD[:0x300], "is cut short"),
        (bzimage(b"x", flags=0), "is a 32-bit kernel"),
    ],
)
def test_what_is_no_whole_64_bit_bzimage_is_refused(tmp_path: Path, data: bytes, problem: str) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        inspect_kernel(_file(tmp_path, data))

    assert caught.value.hint


def test_what_is_no_file_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, problem in (("missing", "cannot read"), ("pipe", "is not a file"), (".", "is not a file")):
        with pytest.raises(UsageError, match=problem):
            inspect_kernel(tmp_path / name)
    with pytest.raises(UsageError, match="cannot read"):
        inspect_kernel(Path("a\0b"))


_HEADER_FIELDS = st.sampled_from([0x1F1, 0x1F4, 0x1F6, 0x202, 0x20E, 0x20F, 0x236, 0x248, 0x24B, 0x24C, 0x24F])


@given(
    st.lists(st.tuples(_HEADER_FIELDS | st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=4)), max_size=4)
)
def test_damaged_images_give_a_kernel_or_a_usage_error(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, bytes]]
) -> None:
    data = bytearray(GOOD)
    for offset, piece in damage:
        data[offset : offset + len(piece)] = piece
    with contextlib.suppress(UsageError):
        kernel = inspect_kernel(_file(tmp_path_factory.getbasetemp(), bytes(data)))
        assert kernel.config is not None or kernel.note


@given(st.integers(0, len(GOOD)))
def test_images_cut_anywhere_are_refused(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    # The last unit of 16 bytes need not be full.
    path = _file(tmp_path_factory.getbasetemp(), GOOD[:length])
    if length + 15 < len(GOOD):
        with pytest.raises(UsageError, match=r"cut short|no x86 kernel"):
            inspect_kernel(path)
    else:
        inspect_kernel(path)


_MAGICS = [b"\x1f\x8b", b"\xfd7zXZ", b"\x5d\x00\x00", b"BZh", b""]


@given(st.sampled_from(_MAGICS), st.binary(max_size=200))
def test_broken_payloads_are_payload_errors(magic: bytes, rest: bytes) -> None:
    with contextlib.suppress(PayloadError):
        assert uncompressed(magic + rest)


@given(st.integers(1, 400), st.sampled_from([gzip.compress(KERNEL), bz2.compress(KERNEL), lzma.compress(KERNEL)]))
def test_truncated_payloads_never_give_more_than_there_is(length: int, packed: bytes) -> None:
    with contextlib.suppress(PayloadError):
        assert KERNEL.startswith(uncompressed(packed[:length]))


def test_a_configuration_that_is_broken_inside_a_sound_kernel_is_unknown(tmp_path: Path) -> None:
    broken = KERNEL.replace(b"IKCFG_ST\x1f\x8b", b"IKCFG_STxx")

    assert inspect_kernel(_file(tmp_path, bzimage(zlib.compress(b"") + b""))).config is None
    assert inspect_kernel(_file(tmp_path, bzimage(gzip.compress(broken)))).config is None


def test_what_a_kernel_lacks_is_told_with_what_it_is_for(tmp_path: Path) -> None:
    missing = inspect_kernel(_file(tmp_path, GOOD)).missing(qdiscs=["fq", "pfifo"], congestion=["bbr", "reno"])

    assert "CONFIG_64BIT" not in missing
    assert missing["CONFIG_NET_SCH_FQ"] == "is a module, and guests load none; with it a guest has the qdisc fq"
    assert missing["CONFIG_TCP_CONG_BBR"] == "is not set; with it a guest has the congestion control bbr"
    assert set(missing) == NEEDED.keys() - {"CONFIG_64BIT"} | {"CONFIG_NET_SCH_FQ", "CONFIG_TCP_CONG_BBR"}


def test_symbols_are_those_of_the_kernel() -> None:
    assert [qdisc_symbol(kind) for kind in ("tbf", "fq_codel", "ingress", "clsact", "pfifo", "bfifo", "mq")] == [
        *("CONFIG_NET_SCH_TBF", "CONFIG_NET_SCH_FQ_CODEL", "CONFIG_NET_SCH_INGRESS", "CONFIG_NET_SCH_INGRESS"),
        *(None, None, None),
    ]
    assert congestion_symbol("cubic") == "CONFIG_TCP_CONG_CUBIC"
    assert congestion_symbol("reno") is None
    for feature, symbols in FEATURES.items():
        assert needs(features=[feature]).items() >= symbols.items()


def test_every_kernel_of_the_registry_has_the_files_it_names() -> None:
    found = recipes()

    assert "stock" in found
    for name, kernel in found.items():
        assert kernel.name == name
        assert kernel.description
        assert all(path.is_file() for path in (*kernel.config, *kernel.patches))


def test_an_unknown_kernel_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="there is no kernel 'nope'") as caught:
        recipe("nope")

    assert "stock" in caught.value.hint
    assert recipe("stock").config
