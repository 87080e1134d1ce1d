"""The look at what a test leaves: it finds what there is, whatever that hides behind."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.conftest import await_that

if TYPE_CHECKING:
    from tests.conftest import Sandbox


@pytest.mark.parametrize(
    ("leaving", "noticed"),
    [
        ("setsid sleep 4244 >/dev/null 2>&1 &", "sleep 4244"),
        ("env -i /usr/bin/setsid /usr/bin/sleep 4245 >/dev/null 2>&1 &", "sleep 4245"),
        ("env -i /usr/bin/unshare --net /usr/bin/setsid /usr/bin/sleep 4246 >/dev/null 2>&1 &", "sleep 4246 in net:["),
        ("mktemp", "/tmp."),
        ("mkdir -p $XDG_RUNTIME_DIR/zdlab/some", "/zdlab/some"),
    ],
)
def test_what_a_test_leaves_is_found(sandbox: Sandbox, leaving: str, noticed: str) -> None:
    assert not sandbox.left()
    subprocess.run(["/bin/sh", "-c", leaving], env=sandbox.environment, stdout=subprocess.DEVNULL, check=True)

    await_that(lambda: any(noticed in line for line in sandbox.left()), lambda: f"not found: {sandbox.left()}")

    sandbox.end()
    subprocess.run(
        ["/bin/sh", "-c", "rm -rf $XDG_RUNTIME_DIR/zdlab/some $TMPDIR/*"], env=sandbox.environment, check=True
    )
    sandbox.await_nothing_left()
