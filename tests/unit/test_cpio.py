"""Initramfs archives: readable by cpio, the same bytes every time."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zdlab.guest.image.cpio import Entry, archive, character_device, directory, file, symlink

ENTRIES = {
    "/init": file(b"#!/bin/sh\n", 0o755),
    "/etc/empty": file(b""),
    "/usr/lib/deep/er/data": file(bytes(range(256)) * 3),
    "/bin": symlink("usr/bin"),
    "/tmp": directory(0o1777),
}


def _read(data: bytes) -> dict[str, tuple[int, bytes, tuple[int, int]]]:
    """Read a newc archive as the kernel does (buffer-format.rst)."""
    found: dict[str, tuple[int, bytes, tuple[int, int]]] = {}
    offset = 0
    while True:
        assert data[offset : offset + 6] == b"070701"
        fields = [int(data[offset + 6 + 8 * n : offset + 14 + 8 * n], 16) for n in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = data[offset + 110 : offset + 110 + name_size - 1].decode()
        assert data[offset + 110 + name_size - 1] == 0
        start = (offset + 110 + name_size + 3) // 4 * 4
        if name == "TRAILER!!!":
            assert not any(data[start:])
            return found
        assert name not in found
        found[name] = (mode, data[start : start + size], (fields[9], fields[10]))
        offset = (start + size + 3) // 4 * 4


_NAMES = st.text("abcé.-_ 0", min_size=1, max_size=6).filter(lambda name: name not in {".", ".."})
_PATHS = st.lists(_NAMES, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))


@given(st.dictionaries(_PATHS, st.binary(max_size=40), max_size=6))
def test_what_was_put_in_comes_out_with_every_directory_on_the_way(files: dict[str, bytes]) -> None:
    # A file cannot also be a directory of another.
    paths = {path: data for path, data in files.items() if not any(other.startswith(path + "/") for other in files)}
    found = _read(archive({path: file(data) for path, data in paths.items()}))

    contents = {"/" + name: data for name, (mode, data, _) in found.items() if stat.S_ISREG(mode)}
    assert contents == paths
    names = list(found)
    for name in names:
        parent = name.rpartition("/")[0]
        assert not parent or (stat.S_ISDIR(found[parent][0]) and names.index(parent) < names.index(name))


def test_modes_links_and_devices_are_kept() -> None:
    found = _read(archive(ENTRIES | {"/dev/console": character_device(5, 1)}))

    assert found["init"][0] == stat.S_IFREG | 0o755
    assert found["bin"] == (stat.S_IFLNK | 0o777, b"usr/bin", (0, 0))
    assert found["tmp"][0] == stat.S_IFDIR | 0o1777
    assert found["dev/console"] == (stat.S_IFCHR | 0o600, b"", (5, 1))
    assert found["usr/lib"][0] == stat.S_IFDIR | 0o755


def test_the_same_content_gives_the_same_bytes_in_any_order() -> None:
    assert archive(ENTRIES) == archive(dict(reversed(ENTRIES.items())))
    assert archive(ENTRIES) != archive(ENTRIES | {"/init": file(b"#!/bin/sh\n", 0o700)})


def test_an_archive_fills_whole_blocks_so_that_archives_can_follow_each_other() -> None:
    assert len(archive({})) % 512 == 0
    assert len(archive(ENTRIES)) % 512 == 0


@pytest.mark.skipif(shutil.which("cpio") is None, reason="needs the program cpio")
def test_the_program_cpio_unpacks_what_was_put_in(tmp_path: Path) -> None:
    command = ["cpio", "-idm", "--quiet", "--no-absolute-filenames"]
    result = subprocess.run(command, input=archive(ENTRIES), cwd=tmp_path, capture_output=True, check=False)

    assert result.returncode == 0, result.stderr
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")} == {
        *("init", "etc", "etc/empty", "usr", "usr/lib", "usr/lib/deep", "usr/lib/deep/er", "usr/lib/deep/er/data"),
        *("bin", "tmp"),
    }
    assert (tmp_path / "usr/lib/deep/er/data").read_bytes() == bytes(range(256)) * 3
    assert (tmp_path / "bin").readlink() == Path("usr/bin")
    assert stat.S_IMODE((tmp_path / "init").stat().st_mode) == 0o755
    assert (tmp_path / "init").stat().st_mtime == 0


def test_a_record_says_nothing_of_who_made_it_when() -> None:
    data = archive({"/f": Entry(stat.S_IFREG | 0o644, b"x")})

    fields = [int(data[6 + 8 * n : 14 + 8 * n], 16) for n in range(13)]
    assert fields == [1, stat.S_IFREG | 0o644, 0, 0, 1, 0, 1, 0, 0, 0, 0, 2, 0]
