"""From a capsule's result to what was observed in it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zdlab.errors import GuestError, LabError, ZdlabError
from zdlab.experiment.nodes import HungError
from zdlab.experiment.observe import Observation
from zdlab.experiment.traffic import Ended
from zdlab.guest.agent_client import RawSamples


def observation(header: Mapping[str, Any], pieces: Mapping[str, bytes]) -> Observation:
    """Return what was observed.

    :raises LabError: when nothing was, because the lab could not be built; with what in the topology file led to it,
        if anything.
    :raises GuestError: when the result makes no sense.
    """
    try:
        error = _error(header["error"]) if "error" in header else None
        if error is not None and "observation" not in header:
            raise error
        seen = header["observation"]
        ended = {
            (item["work"], item["side"]): Ended(
                returncode=None if item["returncode"] is None else int(item["returncode"]),
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
            error=error,
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise GuestError(f"the capsule's result makes no sense: {error!r}", machine="capsule") from error


def _error(said: Mapping[str, Any]) -> ZdlabError:
    message, hint = str(said["message"]), str(said["hint"])
    if said["kind"] == "hung":
        return HungError(message, hint=hint)
    return LabError(message, hint=hint, origin=tuple(said["origin"]))
