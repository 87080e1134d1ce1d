"""Qdiscs in topology files that are wrong: what is wrong, in which line, and what would be right."""

from __future__ import annotations

import pytest

from tests.unit.mistakes import WIRE_A, refused


@pytest.mark.parametrize(
    ("text", "problem", "hint"),
    [
        (
            "a: {qdisc: {kind: tbf, rate: 1mbit, limit: 15kb}}",
            "links.wire.ends.a.qdisc needs burst",
            "write burst: 32kb",
        ),
        ("a: {qdisc: {kind: tbf, rate: 1mbit, burst: 32kb}}", "needs either limit (bytes) or latency", ""),
        ("a: {qdisc: {kind: tbf, rate: 1mbit, burst: 32kb, limit: 9kb, latency: 1s}}", "not both", ""),
        ("a: {qdisc: {kind: tbf, rate: 1mbit, burst: 1kb, limit: 9kb}}", "smaller than one packet", "32kb"),
        ("a: {qdisc: {kind: tbf, rate: 1mbit, burst: 32kb, limit: 1kb}}", "holds no packet", "few packets"),
        ("a: {qdisc: {kind: tbf, rate: 1mbps, burst: 32kb, limit: 15kb}}", "tc reads 'bps' as bytes", ""),
        ("a: {qdisc: {kind: tbf, rate: 1ms, burst: 32kb, limit: 15kb}}", "'ms' is not a unit of a rate", ""),
        ("a: {qdisc: {kind: tbf, rate: 0bit, burst: 32kb, limit: 15kb}}", "above zero", ""),
        ("a: {qdisc: {kind: tfb}}", "unknown kind 'tfb'", "'tbf'"),
        ("a: {qdisc: {limit: 3}}", "qdisc needs kind", "one of: pfifo"),
        ("a: {qdisc: {kind: ingress}}", "unknown kind 'ingress'", "write `ingress: on` beside qdisc"),
        ("a: {qdisc: {kind: fq, limits: 3}}", "unknown key 'limits'", "did you mean 'limit'?"),
        ("a: {qdisc: {kind: netem, jitter: 1ms}}", "jitter needs delay", ""),
        ("a: {qdisc: {kind: netem, loss: 1.5}}", "loss is at most 1", ""),
        (
            "a: {qdisc: {kind: tbf, rate: 1mbit, burst: 32kb, limit: 90kb, peakrate: 2mbit}}",
            "peakrate and minburst go together",
            "add minburst: 2kb",
        ),
        (
            "a: {qdisc: {kind: tbf, rate: 2mbit, burst: 32kb, limit: 90kb, peakrate: 1mbit, minburst: 2kb}}",
            "peakrate is the higher",
            "write one above 2mbit",
        ),
        (
            "a: {qdisc: {kind: htb, default: 1, classes: [{id: 1, rate: 1mbit, qdisc: {kind: fq}, "
            "classes: [{id: 2, rate: 1mbit}]}]}}",
            "only a class without classes below",
            "to one of the classes below",
        ),
        (
            "a: {qdisc: {kind: htb, default: 1, classes: [{id: 1, rate: 7bit}]}}",
            "rate must be at least 8bit",
            "write rate: 100mbit",
        ),
        (
            "a: {qdisc: {kind: htb, default: 1, classes: [{id: 1, rate: 2mbit, ceil: 1mbit}]}}",
            "not below its rate",
            "write ceil: 2mbit or more",
        ),
        (
            f"a: {{qdisc: {{kind: prio, priomap: {[3] + [0] * 15}}}}}",
            "priomap names band 3",
            "bands there count 0 to 2",
        ),
        ("a: {qdisc: {kind: netem, reorder: 0.05}}", "reorder needs delay", "add delay: 5ms"),
        (
            "a: {qdisc: {kind: red, limit: 400kb, min: 30kb, max: 90kb, probability: 0}}",
            "probability is above zero",
            "write probability: 0.02",
        ),
        ("a: {qdisc: {kind: prio, qdiscs: {4: {kind: fq}}}}", "band 4 is not one of 1 to 3", ""),
        ("a: {qdisc: {kind: prio, bands: 4}}", "give priomap", ""),
        ("a: {qdisc: {kind: red, limit: 9kb, min: 5kb, max: 4kb}}", "0 < min < max <= limit", ""),
        (
            "a: {qdisc: {kind: htb, default: 2, classes: [{id: 1, rate: 1mbit}]}}",
            "not one of its leaf",
            "classes: 1",
        ),
        (
            "a: {qdisc: {kind: htb, default: 1, classes: [{id: 1, rate: 1mbit}, {id: 1, rate: 1mbit}]}}",
            "class 1 stands twice",
            "",
        ),
        (
            "a: {qdisc: {kind: htb, default: 1, classes: [{id: 1, rate: 1mbit, ceiling: 2mbit}]}}",
            "unknown key 'ceiling'",
            "did you mean 'ceil'?",
        ),
        ("a: {qdisc: pfifo}", "links.wire.ends.a.qdisc is a mapping", "{kind: pfifo, limit: 100p}"),
        ("a: {qdisc: {kind: netem, loss: 5%}}", "'5%' is no number", "write 0.05 for 5 %"),
        ("a: {qdisc: {kind: pfifo, limit: 0}}", "limit is at least 1", ""),
        ("a: {qdisc: {kind: bfifo, limit: 5gb}}", "limit is at most 4294967295", ""),
        ("a: {qdisc: {kind: sfq, divisor: 1000}}", "divisor is a power of two", ""),
        ("a: {qdisc: {kind: fq, buckets: 1000}}", "buckets is a power of two", ""),
        ("a: {qdisc: {kind: tbf, rate: 1bit, burst: 9kb, limit: 9kb}}", "rate must be at least 8bit", ""),
        ("a: {qdisc: {kind: tbf, rate: 9mbit, burst: 9kb, latency: 0ms}}", "latency is at least", ""),
    ],
)
def test_a_mistake_in_a_qdisc_is_named_with_its_line_and_what_would_be_right(
    text: str, problem: str, hint: str
) -> None:
    refused(WIRE_A, text, problem, hint)
