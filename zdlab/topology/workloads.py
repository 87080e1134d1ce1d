"""Workloads: the traffic between nodes."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from zdlab.errors import MistakeError
from zdlab.topology._types import Argument, Model, Name, Size, Time
from zdlab.topology.arguments import address_family, check_arguments

SECOND = 10**9


class Workload(Model):
    """Flows of one traffic tool from one node to another."""

    tool: Literal["tcp_stream", "tcp_rr"] = Field(
        description="tcp_stream: bulk data; tcp_rr: requests and responses", examples=["tcp_stream"]
    )
    source: Name = Field(alias="from", description="node that sends (the tool's client)", examples=["NODE"])
    to: Name = Field(description="node that receives (the tool's server)", examples=["NODE"])
    flows: int = Field(1, ge=1, le=1_000_000, description="TCP connections")
    threads: int = Field(1, ge=1, le=1024, description="threads on either side")
    buffer: Size | None = Field(None, ge=1, le=1 << 30, description="bytes a write or read call moves")
    duration: Annotated[Time, Field(ge=SECOND // 10, le=86400 * SECOND)] = Field(
        10 * SECOND, description="from when the flows are connected"
    )
    start: Annotated[Time, Field(le=3600 * SECOND)] = Field(0, description="begin this long after the others")
    request: Size | None = Field(None, ge=1, description="tcp_rr: bytes of a request")
    response: Size | None = Field(None, ge=1, description="tcp_rr: bytes of a response")
    args: tuple[Argument, ...] = Field((), description="further arguments of the tool, at both sides")

    @field_validator("args", mode="after")
    @classmethod
    def _may_be_given(cls, args: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if "tool" in info.data:
            check_arguments(info.data["tool"], args)
        return args

    @property
    def family(self) -> int | None:
        """The version of IP its flows are to use; ``None`` where the file leaves it open."""
        return address_family(self.tool, self.args)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.threads > self.flows:
            raise MistakeError(
                f"{self.threads} threads have only {self.flows} flows",
                f"use fewer threads, {self.flows} at most, or more flows",
            )
        if self.tool != "tcp_rr" and (self.request is not None or self.response is not None):
            raise MistakeError("request and response are for tcp_rr", "leave them out, or write tool: tcp_rr")
        return self
