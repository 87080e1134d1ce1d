"""Nodes of a topology: hosts (network namespaces), machines (QEMU guests) and bridges."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator

from zdlab import units
from zdlab.errors import MistakeError
from zdlab.topology._types import Argument, Destination, Gateway, Model, Name, Size, Subnets, Sysctls

MIB = 1 << 20
#: What the registry's kernel stock boots zdlab's image in; with 16 MB less the image does not fit.
LEAST_MEMORY = 96 * MIB

#: A kernel of the registry, or the path of a bzImage (recognised by a slash).
KernelName = Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=r"^[^\x00-\x1f]+$")]

#: What QEMU takes after ``-cpu``: a model and its switches.
CpuModel = Annotated[str, StringConstraints(max_length=256, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.,=+-]*$")]


class Route(Model):
    """A static route of a host or machine."""

    to: Destination = Field(description="subnet, or default", examples=["default"])
    via: Gateway = Field(description="address of the next hop", examples=["10.0.0.1"])


class _Node(Model):
    inside: Name | None = Field(None, alias="in", description="the machine it lives in; in the lab when left out")
    sysctls: Sysctls = Field(default_factory=dict, description="set on this node, and read back")


class Host(_Node):
    """A network namespace on the kernel the lab runs on."""

    kind: Literal["host"] = Field(description="kind of node")
    routes: tuple[Route, ...] = Field((), description="static routes")


class Bridge(_Node):
    """An Ethernet bridge. Its links' other ends share one segment."""

    kind: Literal["bridge"] = Field(description="kind of node")
    subnet: Subnets = Field((), description="addresses for the segment's ends are assigned from here")


class Machine(_Node):
    """A QEMU guest with a kernel of its own."""

    kind: Literal["machine"] = Field(description="kind of node")
    kernel: KernelName = Field("stock", description="a kernel of the registry, or a path of a bzImage")
    memory: Size = Field(512 * MIB, le=1 << 42, description="guest memory, at least 96mb")
    cpus: int = Field(1, ge=1, le=256, description="virtual CPUs")
    accelerator: Literal["auto", "kvm", "tcg"] = Field("auto", description="auto proves KVM, else TCG")
    append: tuple[Argument, ...] = Field((), description="further words of the kernel command line")
    cpu_model: CpuModel | None = Field(None, description="QEMU's -cpu; what works when left out")
    irqchip: Literal["on", "off", "split"] | None = Field(None, description="QEMU's kernel-irqchip; as cpu_model")
    routes: tuple[Route, ...] = Field((), description="static routes")

    @field_validator("append")
    @classmethod
    def _words(cls, append: tuple[str, ...]) -> tuple[str, ...]:
        for word in append:
            if any(character.isspace() for character in "".join(word.split('"')[::2])):
                raise MistakeError(
                    f"{word[:80]!r} is more than one word of a kernel command line",
                    f"write a list of words: [{', '.join(word.split())[:80]}]",
                )
        return append

    @field_validator("memory")
    @classmethod
    def _enough(cls, memory: int) -> int:
        if memory < LEAST_MEMORY:
            least = units.format_size(LEAST_MEMORY)
            raise MistakeError(
                f"a guest needs at least {least}: with less, zdlab's image does not fit into its memory",
                f"write memory: {least} or more",
            )
        return memory


Node = Annotated[Host | Machine | Bridge, Field(discriminator="kind")]
