"""Where zdlab keeps what it makes: caches, running labs, results; and where its own data files are.

All directories are the user's own (mode 0700) and follow the XDG base directory rules through platformdirs.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from platformdirs import PlatformDirs

from zdlab.errors import InfrastructureError

_DIRS = PlatformDirs("zdlab", appauthor=False)


def _private(path: Path) -> Path:
    """Make ``path`` (mode 0700) and return it; refuse one that belongs to somebody else.

    :raises InfrastructureError: when it cannot be made or is not the user's own directory.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.lstat()
    except OSError as error:
        raise InfrastructureError(
            f"cannot make the directory {path}: {error.strerror}",
            hint="check its owner and the free space",
        ) from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise InfrastructureError(
            f"{path} is not a directory of the current user",
            hint="remove it, or point the matching XDG variable at a directory of your own",
        )
    if status.st_mode & 0o077:
        path.chmod(0o700)
    return path


def cache_dir(*parts: str) -> Path:
    """Return (and make) a directory for things that can be made again: kernels, images, tools."""
    path = _private(Path(_DIRS.user_cache_dir))
    for part in parts:
        path = _private(path / part)
    return path


def runtime_dir() -> Path:
    """Return (and make) the directory that holds one subdirectory for each running lab.

    ``XDG_RUNTIME_DIR`` decides where it is set; else ``/run`` for root, who often has none, and ``/tmp`` for others.
    A relative one counts for nothing, as the XDG base directory specification has it.

    :raises InfrastructureError: when it cannot be made or is not the user's own, or ``XDG_RUNTIME_DIR`` is not there.
    """
    base = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    if base.is_absolute():
        # The system makes it, when a user logs in: one made here would be found by nobody else.
        if not base.is_dir():
            raise InfrastructureError(
                f"there is no directory {base}, which XDG_RUNTIME_DIR names",
                hint="unset XDG_RUNTIME_DIR, or point it at a directory of your own",
            )
        return _private(base / "zdlab")
    return _private(Path("/run/zdlab") if os.geteuid() == 0 else Path(f"/tmp/zdlab-{os.geteuid()}"))  # noqa: S108


def results_dir() -> Path:
    """Return (and make) the directory that holds one subdirectory for each run."""
    return _private(Path(_DIRS.user_data_dir) / "runs")


def images_dir() -> Path:
    """Return the directory of what goes into guests: kernel registry, init, traffic tool's source.

    It stands beside the package in a checkout.

    :raises InfrastructureError: when it is not there.
    """
    path = Path(__file__).resolve().parent.parent / "images"
    if not path.is_dir():
        raise InfrastructureError(
            f"zdlab's guest files are missing: no directory {path}",
            hint="run zdlab from a checkout (pip install -e .)",
        )
    return path
