"""Show that the tests of zD can fail: build it broken on purpose, one way at a time, and see a test catch each.

Run as root, on demand: ``.venv/bin/python -m tests.mutants.check [NAME]...``. Each patch beside this file says what it
breaks and which tests (an expression of pytest's ``-k``) must fail. A build is incremental, a minute or two.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from zdlab.guest.kernels import build_kernel

HERE = Path(__file__).parent
TESTS = [str(HERE.parent / "integration" / name) for name in ("test_zd.py", "test_zd_taps.py")]


def caught(mutant: Path) -> bool:
    """Build a mutant and tell whether its tests fail."""
    expression = re.search(r"^Caught-by: (.+)$", mutant.read_text(), re.MULTILINE)
    assert expression is not None, mutant
    kernel = build_kernel("zd", patches=[mutant])
    command = [sys.executable, "-m", "pytest", *TESTS, "-q", "-x", "--no-header", "--tb=line", "--timeout=120"]
    done = subprocess.run(
        [*command, "-k", expression[1]],
        env={**os.environ, "ZDLAB_ZD_KERNEL": str(kernel.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stdout.strip().splitlines()[-1:]
    sys.stdout.write(f"{mutant.stem:<28} {'caught' if done.returncode == 1 else 'NOT CAUGHT'}   {' '.join(last)}\n")
    sys.stdout.flush()
    return done.returncode == 1


def main() -> None:
    """Check the mutants that are named, or all."""
    wanted = set(sys.argv[1:])
    mutants = [path for path in sorted(HERE.glob("*.patch")) if not wanted or path.stem in wanted]
    results = [caught(mutant) for mutant in mutants]
    sys.exit(0 if results and all(results) else 1)


if __name__ == "__main__":
    main()
