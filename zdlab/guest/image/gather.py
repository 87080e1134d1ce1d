"""Run by the computer's Python, not imported by zdlab: find and compile the modules a guest's Python needs.

Arguments: the directory zdlab lies in, then the modules to load beside the agent's, then ``--`` and the directories
where packages of others are found. Those packages, like zdlab's own, stand below ``AGENT_ROOT`` in the guest.

Prints JSON: ``files`` maps paths in the guest to compiled modules in base64, ``inputs`` lists what was read, and
``library`` is where the standard library lives. Modules are compiled to be taken unchecked (PEP 552), without their
docstrings, and stand beside where their source would: the guest neither looks for sources nor compares times.
"""

from __future__ import annotations

import _imp
import base64
import importlib
import importlib.util
import json
import marshal
import os
import sys

#: For a user's small scripts: loaded only when something asks for them, so they cost a guest nothing but memory.
MORE = (
    "argparse",
    "array",
    "base64",
    "bisect",
    "collections.abc",
    "contextlib",
    "csv",
    "ctypes",
    "dataclasses",
    "datetime",
    "encodings.ascii",
    "encodings.idna",
    "encodings.latin_1",
    "enum",
    "fcntl",
    "functools",
    "glob",
    "heapq",
    "io",
    "ipaddress",
    "itertools",
    "json",
    "logging",
    "math",
    "mmap",
    "operator",
    "os",
    "pathlib",
    "pty",
    "queue",
    "random",
    "re",
    "resource",
    "select",
    "selectors",
    "shlex",
    "shutil",
    "signal",
    "site",
    "socket",
    "string",
    "struct",
    "subprocess",
    "tempfile",
    "termios",
    "textwrap",
    "threading",
    "time",
    "traceback",
    "tty",
    "typing",
)
AGENT_ROOT = "/usr/lib/zdlab"
#: Optional parts of modules above, whose libraries are large.
WITHOUT = ("_bz2", "_decimal", "_hashlib", "_lzma")
#: Of these, what zdlab's own modules cannot do without.
NEEDED = ("_decimal",)
#: Packages that come without their own ``__init__``: zdlab's belongs to the computer's side, and pyroute2's loads all
#: there is of it, most of which zdlab does not use, while every capsule pays for each import.
BARE = ("zdlab", "pyroute2")
#: Of marshal's formats the last that writes down nothing but the code. Later ones tell strings that are interned, and
#: values something else refers to as well, from others: what this process happened to load before would show.
PLAIN = 2
#: Python finds its library by this module, whether or not it reads it.
LANDMARK = "os"


def compiled(path: str) -> bytes:
    """Return a module's ``.pyc``, with no trace of where or when it was compiled."""
    with open(path, "rb") as file:
        source = file.read()
    code = compile(source, os.path.basename(path), "exec", dont_inherit=True, optimize=2)
    # The flags say: identified by a hash of the source, not to be checked. The hash is not needed then.
    return importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8) + marshal.dumps(code, PLAIN)


def guest_path(path: str, roots: list[str]) -> str:
    """Return where a module goes in the guest; the innermost root counts: a virtual environment may lie in another."""
    for root in sorted(roots, key=len, reverse=True):
        if path.startswith(root + "/"):
            return AGENT_ROOT + path.removeprefix(root)
    return path


def load(root: str, modules: list[str], others: list[str]) -> None:
    """Import all of it; what each of them imports comes along."""
    sys.path.insert(0, root)
    sys.path.extend(others)
    for name in BARE:
        for directory in (root, *others):
            if os.path.isdir(os.path.join(directory, name)):
                package = type(sys)(name)
                package.__path__ = [os.path.join(directory, name)]
                sys.modules[name] = package
                break
    for file in sorted(os.listdir(os.path.join(root, "zdlab", "agent"))):
        if file.endswith(".py"):
            importlib.import_module(f"zdlab.agent.{file[:-3]}".removesuffix(".__init__"))
    for name in (*MORE, *modules):
        importlib.import_module(name)


def main(root: str, modules: list[str], others: list[str]) -> None:
    """Print what the agent below ``root``, further modules, and a user's small script need."""
    load(root, modules, others)
    # The interpreter holds these itself.
    names = _imp._frozen_module_names()  # type: ignore[attr-defined]
    frozen = {*names, "importlib._bootstrap", "importlib._bootstrap_external"} - {LANDMARK}
    without = set(WITHOUT) - set(NEEDED if modules else ())
    files = {}
    inputs = []
    for name, module in sorted(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if path is None or name == "__main__" or name in frozen or name in without:
            continue
        inputs.append(path)
        target = guest_path(path, [root, *others])
        if path.endswith(".py"):
            files[target + "c"] = base64.b64encode(compiled(path)).decode()
        elif target != path:
            sys.exit(f"{path} is not pure Python")
        else:
            with open(path, "rb") as file:
                files[target] = base64.b64encode(file.read()).decode()
    json.dump({"files": files, "inputs": inputs, "library": os.path.dirname(os.__file__)}, sys.stdout)


if __name__ == "__main__":
    place = sys.argv.index("--")
    main(sys.argv[1], sys.argv[2:place], sys.argv[place + 1 :])
