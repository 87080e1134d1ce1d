"""What a trial consists of once everything is decided: plain values that JSON can carry into a capsule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from zdlab.plan.outline import Outline


@dataclass(frozen=True)
class End:
    """One end of a workload.

    :param node: where its program runs.
    :param files: those it may leave behind; they are fetched when it ended.
    """

    node: str
    argv: tuple[str, ...]
    files: tuple[str, ...]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> End:
        """Return the end ``asdict`` wrote."""
        return cls(str(value["node"]), tuple(map(str, value["argv"])), tuple(map(str, value["files"])))


@dataclass(frozen=True)
class Work:
    """One workload.

    :param start: seconds after the first workload may begin.
    :param deadline: seconds after its client's start by which both ends have ended on their own.
    :param announced: its server says when it listens.
    """

    name: str
    client: End
    server: End
    start: float
    deadline: float
    announced: bool

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Work:
        """Return the workload ``asdict`` wrote."""
        fields = dict(value) | {side: End.from_json(value[side]) for side in ("client", "server")}
        return cls(**fields)


@dataclass(frozen=True)
class Task:
    """A trial to carry out.

    :param intervals: nanoseconds between samples of each place packets pass; all of them are counted.
    :param watched: nodes whose devices must move bytes while the traffic flows.
    :param consoles: the machines.
    :param saying: what flows, for people.
    """

    outline: Outline
    works: tuple[Work, ...]
    intervals: Mapping[str, int]
    watched: tuple[str, ...]
    consoles: tuple[str, ...]
    saying: str

    def to_json(self) -> dict[str, Any]:
        """Return the task as plain values."""
        return {
            "outline": self.outline.to_json(),
            "works": [asdict(work) for work in self.works],
            "intervals": dict(self.intervals),
            "watched": list(self.watched),
            "consoles": list(self.consoles),
            "saying": self.saying,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Task:
        """Return the task that :meth:`to_json` wrote.

        :raises (KeyError, TypeError, ValueError): when the value is none.
        """
        return cls(
            outline=Outline.from_json(value["outline"]),
            works=tuple(map(Work.from_json, value["works"])),
            intervals={str(node): int(interval) for node, interval in value["intervals"].items()},
            watched=tuple(map(str, value["watched"])),
            consoles=tuple(map(str, value["consoles"])),
            saying=str(value["saying"]),
        )
