"""Workloads: the traffic between nodes."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from zdlab.topology._types import Argument, Model, Name, Size, Time

SECOND = 10**9


class Workload(Model):
    """Flows of one traffic tool from one node to another."""

    tool: Literal["tcp_stream", "tcp_rr"]
    source: Name = Field(alias="from", description="node that sends (the tool's client)")
    to: Name = Field(description="node that receives (the tool's server)")
    flows: int = Field(1, ge=1, le=1_000_000)
    threads: int = Field(1, ge=1, le=1024, description="threads on either side")
    buffer: Size | None = Field(None, ge=1, le=1 << 30, description="bytes a write or read call moves")
    duration: Annotated[Time, Field(ge=SECOND // 10, le=86400 * SECOND)] = 10 * SECOND
    start: Annotated[Time, Field(le=3600 * SECOND)] = Field(0, description="begin this long after the others")
    request: Size | None = Field(None, ge=1, description="tcp_rr: bytes of a request")
    response: Size | None = Field(None, ge=1, description="tcp_rr: bytes of a response")
    args: tuple[Argument, ...] = Field((), description="further arguments of the tool, at both sides")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.threads > self.flows:
            raise ValueError(f"{self.threads} threads have only {self.flows} flows: use fewer threads")
        if self.tool != "tcp_rr" and (self.request is not None or self.response is not None):
            raise ValueError("request and response are for tcp_rr")
        return self
