"""What names a kernel in the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from zdlab.errors import UsageError
from zdlab.guest.kernels.build import kernel_key

if TYPE_CHECKING:
    from pathlib import Path


def test_a_patch_of_the_users_makes_another_kernel_by_its_content(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("one.patch", "same.patch", "other.patch"))
    one.write_text("a patch\n")
    same.write_text("a patch\n")
    other.write_text("another\n")

    plain, first, again, second = (
        kernel_key("stock", patches=patches)[0] for patches in ((), (one,), (same,), (other,))
    )

    assert first == again
    assert len({plain, first, second}) == 3


def test_the_users_patches_come_after_the_kernels_own(tmp_path: Path) -> None:
    mine = tmp_path / "mine.patch"
    mine.write_text("a patch\n")

    _, plain, _ = kernel_key("zd")
    _, patched, _ = kernel_key("zd", patches=[mine])

    assert patched.patches == (*plain.patches, mine)


def test_a_patch_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the patch"):
        kernel_key("stock", patches=[tmp_path / "none.patch"])
