"""Show that the tests of zD can fail: build it broken on purpose, one way at a time, and see a test catch each.

Run as root, on demand: ``.venv/bin/python -m tests.mutants.check [NAME]...``. Each patch beside this file says what it
breaks and which tests (an expression of pytest's ``-k``) must fail, and may name another kernel of the registry to
build it with. These tests must pass on that kernel as it is: whatever fails there catches nothing. And a test must
fail, or the kernel complain: a guest that does not boot, or a fixture that breaks, says nothing either. A build is
incremental, a minute or two; for another kernel than ``zd`` ten.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from xml.etree import ElementTree

from tests.integration.zd_guest import COMPLAINED
from zdlab.errors import KernelBuildError
from zdlab.guest.kernels import build_kernel

HERE: Final = Path(__file__).parent
TESTS: Final = [str(HERE.parent / "integration" / name) for name in ("test_zd.py", "test_zd_taps.py")]


@dataclass(frozen=True)
class Tested:
    """What came of tests.

    :param failed: what those say that did not hold.
    :param broken: what kept tests from being run.
    """

    passed: int
    failed: tuple[str, ...]
    broken: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Whether there were tests, and all of them held."""
        return self.passed > 0 and not self.failed and not self.broken


def read_report(report: str) -> Tested:
    """Read what pytest reports as JUnit's XML: errors are of fixtures, of which one looks at the kernel's log."""
    passed, failed, broken = 0, [], []
    for case in ElementTree.fromstring(report).iter("testcase"):  # noqa: S314 - our own
        errors = [f"{error.get('message')}\n{error.text}" for error in case.iter("error")]
        failed += [str(failure.get("message")) for failure in case.iter("failure")]
        failed += [error for error in errors if COMPLAINED in error]
        broken += [error for error in errors if COMPLAINED not in error]
        passed += not len(case)
    return Tested(passed, tuple(failed), tuple(broken))


@cache
def tested(expression: str, kernel: Path) -> Tested:
    """Run the tests that an expression names on a kernel, up to the first that fails."""
    with TemporaryDirectory() as directory:
        report = Path(directory) / "report.xml"
        command = [sys.executable, "-m", "pytest", *TESTS, "-q", "-x", "--timeout=300", f"--junitxml={report}"]
        subprocess.run(
            [*command, "-k", expression],
            env={**os.environ, "ZDLAB_ZD_KERNEL": str(kernel)},
            capture_output=True,
            check=False,
        )
        return read_report(report.read_text(encoding="utf-8"))


def verdict(mutant: Path) -> tuple[bool, str]:
    """Build a mutant and tell whether its tests catch it, and how."""
    said = dict(re.findall(r"^(Caught-by|Kernel): (.+)$", mutant.read_text(encoding="utf-8"), re.MULTILINE))
    name, expression = said.get("Kernel", "zd"), said["Caught-by"]
    whole = tested(expression, build_kernel(name).path)
    if not whole.good:
        return False, f"its tests do not pass on {name} itself: {whole}"
    try:
        broken = build_kernel(name, patches=[mutant])
    except KernelBuildError as error:
        return False, f"cannot be built: {error.message}"
    found = tested(expression, broken.path)
    if found.failed:
        return True, f"caught: {found.failed[0].splitlines()[0]}"
    return False, f"NOT CAUGHT: {found}"


def main() -> None:
    """Check the mutants that are named, or all."""
    wanted = set(sys.argv[1:])
    mutants = [path for path in sorted(HERE.glob("*.patch")) if not wanted or path.stem in wanted]
    results = []
    for mutant in mutants:
        caught, how = verdict(mutant)
        sys.stdout.write(f"{mutant.stem:<36} {how}\n")
        sys.stdout.flush()
        results.append(caught)
    sys.exit(0 if results and all(results) else 1)


if __name__ == "__main__":
    main()
