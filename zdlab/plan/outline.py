"""What building a lab takes of a plan, in plain values: dataclasses of texts and numbers that JSON can carry.

A plan holds the models of the topology it came from. What carries it out needs none of them, and under the virtual
clock loads none of them: there every import is paid for in every trial.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zdlab.plan import operations as ops


@dataclass(frozen=True)
class Outline:
    """A lab to build.

    :param kinds: kind of each node, by its name, in the order of the file.
    :param places: the machine each node lives in, empty for the lab itself.
    :param ends: for each end of a link where it is, and where its packets are captured.
    :param operations: in the order they are carried out.
    """

    name: str
    kinds: Mapping[str, str]
    places: Mapping[str, str]
    ends: tuple[Mapping[str, str], ...]
    operations: tuple[ops.Operation, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the outline as plain values."""
        return {
            "name": self.name,
            "kinds": dict(self.kinds),
            "places": dict(self.places),
            "ends": [dict(end) for end in self.ends],
            "operations": [{**op.to_json(), "origin": list(op.origin)} for op in self.operations],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Outline:
        """Return the outline that :meth:`to_json` wrote.

        :raises (KeyError, TypeError, ValueError): when the value is none.
        """
        return cls(
            name=str(value["name"]),
            kinds=dict(value["kinds"]),
            places=dict(value["places"]),
            ends=tuple(dict(end) for end in value["ends"]),
            operations=tuple(map(_operation, value["operations"])),
        )


def _operation(value: Mapping[str, Any]) -> ops.Operation:
    verbs = {kind.verb: kind for kind in ops.Operation.__subclasses__()}
    fields = {name: _frozen(item) for name, item in value.items() if name != "operation"}
    if "nics" in fields:
        fields["nics"] = tuple(ops.Nic(**nic) for nic in fields["nics"])
    return verbs[value["operation"]](**fields)


def _frozen(value: Any) -> Any:
    """Turn JSON's lists back into the tuples operations are made of."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
