"""Directories for what a capsule or a bundle needs while it is used."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zdlab.lab.shepherd import LOCK
from zdlab.paths import runtime_dir


@contextmanager
def scratch(prefix: str) -> Iterator[Path]:
    """Yield a private directory that is removed afterwards.

    It is locked as labs' are: when this process is killed, ``zdlab gc`` finds that nobody holds it, and removes it.
    """
    with tempfile.TemporaryDirectory(prefix=f".{prefix}-", dir=runtime_dir()) as name:
        lock = os.open(Path(name) / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield Path(name)
        finally:
            os.close(lock)
