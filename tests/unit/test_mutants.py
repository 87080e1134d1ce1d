"""What counts as a broken kernel that was caught."""

from __future__ import annotations

from tests.integration.zd_guest import COMPLAINED
from tests.mutants.check import read_report

SUITE = "<testsuites><testsuite>{}</testsuite></testsuites>"


def _case(inner: str = "") -> str:
    return f'<testcase name="test_it">{inner}</testcase>'


def test_a_test_that_fails_catches_it_and_one_that_could_not_run_does_not() -> None:
    passed = read_report(SUITE.format(_case()))
    failed = read_report(SUITE.format(_case() + _case('<failure message="assert 1 == 2">at line 7</failure>')))
    unbooted = read_report(SUITE.format(_case('<error message="failed on setup">GuestBootError: no agent</error>')))

    assert passed.good
    assert (failed.good, failed.passed, failed.failed) == (False, 1, ("assert 1 == 2",))
    assert (unbooted.good, unbooted.failed) == (False, ())
    assert len(unbooted.broken) == 1


def test_what_the_kernel_complains_about_catches_it() -> None:
    error = f'<error message="failed on teardown">AssertionError: {COMPLAINED}: WARNING</error>'

    assert len(read_report(SUITE.format(_case(error))).failed) == 1


def test_no_tests_are_no_good() -> None:
    assert not read_report(SUITE.format("")).good
    assert not read_report(SUITE.format(_case("<skipped/>"))).good
