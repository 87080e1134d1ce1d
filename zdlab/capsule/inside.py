"""The only program of a capsule: take the request, run the trial, hand out the result, end.

Nothing comes from outside while it runs. Everything is imported before the request is read, and the lab's supervisor
is forked from here rather than started anew: an import is paid for once.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 - asyncio.to_thread asks for it when first used
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from zdlab.agent.__main__ import find_port
from zdlab.capsule.wire import PROGRESS_PORT, REQUEST, RESULT_PORT, packed
from zdlab.errors import GuestHungError, LabError, ZdlabError
from zdlab.experiment.nodes import HungError
from zdlab.experiment.observe import Observation, observe
from zdlab.experiment.task import Task
from zdlab.lab import supervisor  # noqa: F401 - the lab's, which is forked from here, finds it loaded
from zdlab.lab.client import Lab
from zdlab.lab.launch import fork_shepherd
from zdlab.lab.request import BootFiles

#: Virtual seconds between words of progress.
_BEAT: Final = 0.25


class Progress:
    """Says how far the trial is, without ever waiting for anybody to listen."""

    def __init__(self) -> None:
        self._port = os.open(find_port(PROGRESS_PORT), os.O_WRONLY)
        self._text = ""
        threading.Thread(target=self._beat, daemon=True).start()

    def phase(self, text: str) -> None:
        """Say that another phase began."""
        self._text = text
        self._say()

    def _beat(self) -> None:
        while True:
            time.sleep(_BEAT)
            self._say()

    def _say(self) -> None:
        line = json.dumps({"seconds": round(time.monotonic(), 3), "phase": self._text})
        os.write(self._port, line.encode() + b"\n")


def main() -> int:
    """Run the trial of the request."""
    request = json.loads(Path(REQUEST).read_text(encoding="utf-8"))
    progress = Progress()
    pieces: dict[str, bytes] = {}
    try:
        header = _run(Task.from_json(request["task"]), _boot(request["boot"]), progress, pieces)
    except ZdlabError as error:
        header = {"error": _described(error)}
    except Exception:
        header = {
            "error": {
                "message": traceback.format_exc(),
                "hint": "this is a bug in zdlab",
                "kind": "failed",
                "origin": [],
            }
        }
    port = os.open(find_port(RESULT_PORT), os.O_WRONLY)
    with os.fdopen(port, "wb") as stream:
        stream.write(packed(header, pieces))
    return 0


def _boot(value: Mapping[str, Sequence[str]]) -> dict[str, BootFiles]:
    return {name: BootFiles(Path(kernel), Path(initrd), release) for name, (kernel, initrd, release) in value.items()}


def _run(task: Task, boot: Mapping[str, BootFiles], progress: Progress, pieces: dict[str, bytes]) -> dict[str, Any]:
    progress.phase("building the lab")
    begun = time.monotonic_ns()
    say = progress.phase
    lab = Lab.start(task.outline, boot, name="capsule", progress=say, launch=fork_shepherd, capsule=True)
    built = time.monotonic_ns()
    seen = observe(task, lab, say, _meter)
    # The lab is left to end with the capsule.
    failure = {} if seen.error is None else {"error": _described(seen.error)}
    return failure | {
        "observation": _header(seen, pieces),
        "booted_ns": begun,
        "built_ns": built,
        "ended_ns": time.monotonic_ns(),
    }


def _header(seen: Observation, pieces: dict[str, bytes]) -> dict[str, Any]:
    """Return what is no bytes of an observation, and put the rest into ``pieces``."""
    for node, raw in seen.samples.items():
        pieces[f"samples {node}"] = raw.data
    for node, text in seen.consoles.items():
        pieces[f"console {node}"] = text
    ended = []
    for (work, side), end in seen.ended.items():
        place = f"{work} {side}"
        pieces[f"stdout {place}"] = end.stdout
        pieces[f"stderr {place}"] = end.stderr
        for path, data in end.files.items():
            pieces[f"file {place} {path}"] = data
        ended.append({"work": work, "side": side, "returncode": end.returncode, "at": end.at, "files": list(end.files)})
    return {
        "before": seen.before,
        "after": seen.after,
        "samples": {node: raw.header for node, raw in seen.samples.items()},
        "ended": ended,
        "status": seen.status,
        "consoles": list(seen.consoles),
        "effort": seen.effort,
    }


def _meter() -> dict[str, int]:
    """Return the virtual time, and how much of it the CPU was idle, in ns: all else were instructions."""
    now = time.monotonic_ns()
    for line in Path("/proc/timer_list").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == ".idle_sleeptime":
            return {"ns": now, "idle_ns": int(value.split()[0])}
    return {}


def _described(error: ZdlabError) -> dict[str, Any]:
    hung = isinstance(error, HungError | GuestHungError)
    origin = list(error.origin) if isinstance(error, LabError) else []
    return {"message": error.message, "hint": error.hint, "kind": "hung" if hung else "failed", "origin": origin}


if __name__ == "__main__":
    sys.exit(main())
