"""Modules are compiled to the same bytes, whatever the process that does it had loaded before."""

from __future__ import annotations

import marshal
import sys
from pathlib import Path

from zdlab.guest.image.gather import compiled

_SOURCE = '''\
"""Docstring."""
EDGES = ("\u00e6", "zdlab-interned-nowhere-else", 1.5, None)
ANY = {"b", "a", "c"}

def middle(value):
    """Return something."""
    assert value
    return value in {"x", "y", "z"}, "\u00e6"
'''


def test_what_the_process_has_interned_or_refers_to_makes_no_difference(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(_SOURCE, encoding="utf-8")
    before = compiled(str(path))
    kept = [sys.intern("\u00e6"), sys.intern("EDGES"), sys.intern("middle"), sys.intern("module.py")]

    after = compiled(str(path))

    assert after == before
    assert len(kept) == 4
    # What the interpreter writes by itself does differ, or this shows nothing.
    code = compile(_SOURCE, "module.py", "exec", dont_inherit=True, optimize=2)
    assert marshal.dumps(code) != before[16:]


def test_modules_lose_their_docstrings_and_checks_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(_SOURCE, encoding="utf-8")
    found: dict[str, object] = {}

    exec(marshal.loads(compiled(str(path))[16:]), found)  # noqa: S102, S302 - written above

    assert found["EDGES"] == ("\u00e6", "zdlab-interned-nowhere-else", 1.5, None)
    assert found["ANY"] == {"a", "b", "c"}
    middle = found["middle"]
    assert callable(middle)
    assert middle(0) == (False, "\u00e6")
    assert (found.get("__doc__"), middle.__doc__) == (None, None)
