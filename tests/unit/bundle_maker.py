"""Makes bundles for the tests of them: sound ones, and others."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import zdlab
from zdlab.capsule.bundle import MANIFEST
from zdlab.capsule.case import Case, command_of
from zdlab.capsule.wire import packed

HEADER = {"ended_ns": 4_500_000_000, "observation": {"after": {"a": {"snmp": {"Tcp": {"OutSegs": 5}}}}}}
PIECES = {"samples a": b"\x00\x01"}


def sound_case(**changes: Any) -> dict[str, Any]:
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


class BundleMaker:
    """Writes bundles, sound ones and others."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content = {
            f"kernel-{hashlib.sha256(b'kernel').hexdigest()}": b"kernel",
            f"image-{hashlib.sha256(b'image').hexdigest()}": b"image",
            "result-0003.gz": gzip.compress(packed(HEADER, PIECES), mtime=0),
        }
        self.manifest: dict[str, Any] = {
            "format": 2,
            "zdlab": zdlab.__version__,
            "trials": [{"number": 3, "arm": "stock", "case": sound_case()}],
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

    def fill(self, manifest: bytes | None = None) -> BundleMaker:
        self.add(MANIFEST, json.dumps(self.manifest).encode() if manifest is None else manifest)
        for name, data in self.content.items():
            self.add(name, data)
        return self

    def write(self) -> Path:
        with tarfile.open(self.path, "w:gz") as archive:
            for member, data in self.members:
                archive.addfile(member, io.BytesIO(data))
        return self.path
