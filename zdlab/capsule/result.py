"""From a capsule's result to what was observed in it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zdlab.errors import GuestError, LabError
from zdlab.experiment.nodes import HungError
from zdlab.experiment.observe import Observation
from zdlab.experiment.traffic import Ended
from zdlab.guest.agent_client import RawSamples


def observation(header: Mapping[str, Any], pieces: Mapping[str, bytes]) -> Observation:
    """Return what was observed.

    :raises HungError: when the trial hung.
    :raises LabError: when something else went wrong inside; with what in the topology file led to it, if anything.
    :raises GuestError: when the result makes no sense.
    """
    try:
        if "error" in header:
            raise _error(header["error"])
        seen = header["observation"]
        ended = {
            (item["work"], item["side"]): Ended(
                returncode=int(item["returncode"]),
                stdout=pieces[f"stdout {item['work']} {item['side']}"],
                stderr=pieces[f"stderr {item['work']} {item['side']}"],
                at=float(item["at"]),
                files={path: pieces[f"file {item['work']} {item['side']} {path}"] for path in item["files"]},
            )
            for item in seen["ended"]
        }
        return Observation(
            before=seen["before"],
            after=seen["after"],
            samples={node: RawSamples(head, pieces[f"samples {node}"]) for node, head in seen["samples"].items()},
            ended=ended,
            status=seen["status"],
            consoles={name: pieces[f"console {name}"] for name in seen["consoles"]},
            effort=(seen["effort"][0], seen["effort"][1]),
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise GuestError(f"the capsule's result makes no sense: {error!r}", machine="capsule") from error


def _error(said: Mapping[str, Any]) -> Exception:
    message, hint = str(said["message"]), str(said["hint"])
    if said["kind"] == "hung":
        return HungError(message, hint=hint)
    return LabError(message, hint=hint, origin=tuple(said["origin"]))
