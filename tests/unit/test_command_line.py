"""The command as users run it, as far as it needs neither root nor a lab."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import typer
from typer.testing import CliRunner

import zdlab
from tests.conftest import bash_completes, shell_line
from zdlab.cli.main import app
from zdlab.cli.stats import drop_rate
from zdlab.errors import ExitCode
from zdlab.experiment.model import Slot, Trial
from zdlab.results.store import RunStore

ROOT = Path(__file__).parents[2]
NS_TBF = ROOT / "topologies" / "ns-tbf.yaml"
GOLDEN = Path(__file__).parent / "golden"


def _zdlab(*arguments: str | Path, home: Path, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(ROOT), "HOME": str(home), "XDG_DATA_HOME": str(home), "XDG_RUNTIME_DIR": str(home)}
    return subprocess.run(
        [sys.executable, "-m", "zdlab", *map(str, arguments)],
        env=environment | ({"PATH": path} if path is not None else {}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def _verbs(command: object, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield words
    for name, below in getattr(command, "commands", {}).items():
        yield from _verbs(below, (*words, name))


VERBS = sorted(_verbs(typer.main.get_command(app)))


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_every_verb_has_help_that_says_what_it_does(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*words, "--help"], prog_name="zdlab")

    assert result.exit_code == 0
    usage, _, rest = result.output.partition("\n")
    assert usage.strip().startswith(" ".join(["Usage: zdlab", *words]))
    assert any(line.startswith("  ") and line.strip().endswith((".", "-")) for line in rest.splitlines()[:6])


def test_the_verbs_are_these() -> None:
    names = {" ".join(words) for words in VERBS}

    assert names >= {
        "up",
        "down",
        "ps",
        "exec",
        "validate",
        "plan",
        "graph",
        "schema",
        "run",
        "results",
        "kernels list",
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("validate",),
        ("validate", NS_TBF, "--colour"),
        ("validate", NS_TBF, "-o", "xml"),
        ("plan", NS_TBF, "--arm", "nope"),
        ("graph", NS_TBF, "-f", "gif"),
        ("graph", NS_TBF, "--to", "/nowhere/at/all.mmd"),
        ("validate", "missing.yaml"),
        ("run", NS_TBF, "--blocks", "0"),
        ("run", NS_TBF, "--arms", "nope"),
        ("run", NS_TBF, "--arms", ","),
        ("run", NS_TBF, "--neper-dir", "/nowhere"),
        ("kernels", "build", "stock", "--source", "/nowhere"),
        ("run", NS_TBF, "--resume"),
        ("results",),
        ("results", "nope"),
        ("status", "nope"),
        ("kernels", "inspect", "/dev/null"),
    ],
    ids=lambda arguments: " ".join(str(word) for word in arguments[-2:]).replace(str(ROOT), ""),
)
def test_a_wrong_command_line_ends_with_2_and_says_why_on_standard_error(
    arguments: tuple[str | Path, ...], tmp_path: Path
) -> None:
    done = _zdlab(*arguments, home=tmp_path)

    assert done.returncode == ExitCode.USAGE
    assert done.stdout == ""
    assert "rror" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("verb", ["validate", "plan", "graph", "run", "up"])
def test_a_wrong_topology_ends_with_2_and_names_file_and_line(verb: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(NS_TBF.read_text(encoding="utf-8").replace("rate: 200mbit", "rate: 200mbps"), encoding="utf-8")
    line = (
        path.read_text(encoding="utf-8")
        .splitlines()
        .index("        qdisc: {kind: tbf, rate: 200mbps, burst: 32kb, limit: 150kb}")
    )
    done = _zdlab(verb, path, home=tmp_path)

    assert done.returncode == ExitCode.USAGE
    assert done.stdout == ""
    assert f"{path}:{line + 1}: " in done.stderr
    assert "write bits, like 200mbit" in done.stderr


def test_markup_in_a_users_file_is_shown_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("nodes: {a: {kind: '[red]x[/]'}}\n", encoding="utf-8")

    assert "unknown kind '[red]x[/]'" in _zdlab("validate", path, home=tmp_path).stderr


def test_validate_prints_what_it_found_as_json_or_as_a_table(tmp_path: Path) -> None:
    done = _zdlab("validate", NS_TBF, "-o", "json", home=tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {
        "name": "ns-tbf",
        "nodes": 2,
        "links": 1,
        "workloads": 2,
        "arms": ["stock", "deep"],
        "expectations": 3,
    }
    assert "stock deep" in _zdlab("validate", NS_TBF, home=tmp_path).stdout


def test_plan_prints_a_line_for_each_operation_or_json(tmp_path: Path) -> None:
    text = _zdlab("plan", NS_TBF, home=tmp_path).stdout
    operations = json.loads(_zdlab("plan", NS_TBF, "-o", "json", home=tmp_path).stdout)

    assert text == (GOLDEN / "plan-ns-tbf.txt").read_text(encoding="utf-8")
    assert [operation["operation"] for operation in operations] == [line.split()[0] for line in text.splitlines()]


def test_plan_shows_an_arm(tmp_path: Path) -> None:
    assert "limit 67108864" in _zdlab("plan", NS_TBF, "--arm", "deep", home=tmp_path).stdout


def test_graph_prints_or_writes_a_drawing(tmp_path: Path) -> None:
    done = _zdlab("graph", NS_TBF, home=tmp_path)
    written = _zdlab("graph", NS_TBF, "-f", "dot", "--to", tmp_path / "x.dot", home=tmp_path)

    assert done.stdout == (GOLDEN / "graph-ns-tbf.mmd").read_text(encoding="utf-8")
    assert (written.returncode, written.stdout) == (0, "")
    assert (tmp_path / "x.dot").read_text(encoding="utf-8") == (GOLDEN / "graph-ns-tbf.dot").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("target", "code", "hint"),
    [("/dev/full", ExitCode.INFRASTRUCTURE, "free space"), ("/dev/null/x", ExitCode.USAGE, "name another file")],
)
def test_a_full_disk_is_told_from_a_file_of_the_wrong_name(
    tmp_path: Path, target: str, code: ExitCode, hint: str
) -> None:
    done = _zdlab("graph", NS_TBF, "--to", target, home=tmp_path)

    assert done.returncode == code
    assert f"cannot write {target}" in done.stderr
    assert hint in done.stderr


def test_a_dash_is_standard_output(tmp_path: Path) -> None:
    done = _zdlab("graph", NS_TBF, "--to", "-", home=tmp_path)

    assert done.stdout == (GOLDEN / "graph-ns-tbf.mmd").read_text(encoding="utf-8")


@pytest.mark.parametrize("verb", ["validate", "run", "up"])
def test_a_pipe_is_no_topology_file(verb: str, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    done = _zdlab(verb, pipe, home=tmp_path)

    assert done.returncode == ExitCode.USAGE
    assert f"{pipe} is not a file" in done.stderr


def test_what_is_built_is_a_boolean(tmp_path: Path) -> None:
    rows = json.loads(_zdlab("kernels", "list", "-o", "json", home=tmp_path).stdout)

    assert {type(row["built"]) for row in rows} == {bool}


def test_a_missing_program_ends_with_3_and_names_its_package(tmp_path: Path) -> None:
    done = _zdlab("graph", NS_TBF, "-f", "svg", home=tmp_path, path=str(tmp_path))

    assert done.returncode == ExitCode.INFRASTRUCTURE
    assert "the program dot is missing" in done.stderr
    assert "graphviz" in done.stderr


def test_schema_prints_a_json_schema_and_nothing_else(tmp_path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(_zdlab("schema", home=tmp_path).stdout))


def _kept_run(home: Path, drops: float) -> RunStore:
    text = NS_TBF.read_text(encoding="utf-8").partition("expectations:")[0] + "expectations: [deep.qdisc_drops == 0]\n"
    description = {
        "experiment": "ns-tbf",
        "topology": text,
        "topology_file": "ns-tbf.yaml",
        "arms": ["stock", "deep"],
        "blocks": 1,
        "seed": 1,
        "provenance": {},
    }
    store = RunStore.create("ns-tbf", description, home / "zdlab" / "runs")
    store.add(Trial(Slot(0, 0, "stock", 1), "done", figures={"qdisc_drops": 9.0}))
    store.add(Trial(Slot(1, 0, "deep", 1), "done", figures={"qdisc_drops": drops}))
    return store


@pytest.mark.parametrize(("drops", "verdict"), [(0.0, "pass"), (5.0, "fail")])
def test_results_judges_a_kept_run_again(tmp_path: Path, drops: float, verdict: str) -> None:
    store = _kept_run(tmp_path, drops)
    shown = _zdlab("results", "-o", "json", home=tmp_path)
    listed = _zdlab("results", "--list", "-o", "json", home=tmp_path)
    table = _zdlab("results", "--csv", home=tmp_path)

    assert shown.returncode == 0
    assert json.loads(shown.stdout)["verdict"] == verdict
    assert json.loads(shown.stdout)["arms"]["deep"]["qdisc_drops"] == [drops]
    assert [(row["run"], row["trials"]) for row in json.loads(listed.stdout)] == [(store.name, "2/2")]
    assert table.stdout.splitlines()[1:] == [
        "0,0,stock,1,done,,qdisc_drops,9",
        f"1,0,deep,1,done,,qdisc_drops,{drops:g}",
    ]


def test_of_several_runs_the_newest_is_shown_and_named(tmp_path: Path) -> None:
    stores = [_kept_run(tmp_path, drops) for drops in (5.0, 0.0)]
    for store, stamp in zip(stores, ("20250101T000000", "20250102T000000"), strict=True):
        store.directory.rename(store.directory.with_name(f"{stamp}-ns-tbf-aa"))
    several = _zdlab("results", "ns-tbf", "-o", "json", home=tmp_path)
    exact = _zdlab("results", "20250101T000000-ns-tbf-aa", "-o", "json", home=tmp_path)

    assert json.loads(several.stdout)["verdict"] == "pass"
    assert "several runs match 'ns-tbf'; this is the newest, 20250102T000000-ns-tbf-aa" in several.stderr
    assert json.loads(exact.stdout)["verdict"] == "fail"
    assert exact.stderr == ""


@pytest.mark.parametrize("options", ["--csv -o json", "--list --csv", "--list ns-tbf"])
def test_options_that_ask_for_different_outputs_are_refused(tmp_path: Path, options: str) -> None:
    _kept_run(tmp_path, 0.0)
    done = _zdlab("results", *options.split(), home=tmp_path)

    assert (done.returncode, done.stdout) == (ExitCode.USAGE, "")
    assert "hint: " in done.stderr


def test_a_run_that_is_not_readable_is_told_and_left_out(tmp_path: Path) -> None:
    store = _kept_run(tmp_path, 0.0)
    broken = store.directory.with_name("20260101T000000-broken-aa")
    broken.mkdir()
    (broken / "run.json").write_text("[]")

    listed = _zdlab("results", "--list", "-o", "json", home=tmp_path)
    shown = _zdlab("results", str(broken), home=tmp_path)

    assert [row["run"] for row in json.loads(listed.stdout)] == [store.name]
    assert "the run 20260101T000000-broken-aa is not readable" in listed.stderr
    assert shown.returncode == 3
    assert "Traceback" not in shown.stderr


def test_what_a_terminal_would_obey_is_not_printed(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text('nodes: {"\\e]0;x\\a": {kind: host}}')

    told = _zdlab("validate", str(file), home=tmp_path)

    assert told.returncode == 2
    assert "\N{REPLACEMENT CHARACTER}]0;x" in told.stderr
    assert "\x1b" not in told.stderr


def test_a_runtime_directory_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    missing = _in_shell(f"XDG_RUNTIME_DIR={tmp_path}/none/x zdlab ps", tmp_path)
    relative = _in_shell(f"cd {tmp_path} && XDG_RUNTIME_DIR=here zdlab ps", tmp_path)

    assert missing.returncode == 3
    assert f"there is no directory {tmp_path}/none/x" in missing.stderr
    assert relative.returncode == 0
    assert not list(tmp_path.glob("none")) + list(tmp_path.glob("here"))


def test_without_labs_there_are_none_to_show(tmp_path: Path) -> None:
    done = _zdlab("ps", "-o", "json", home=tmp_path)

    assert (done.returncode, json.loads(done.stdout)) == (0, [])


def _in_shell(words: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of shell in which ``zdlab`` is the command."""
    environment = {"PYTHONPATH": str(ROOT), "HOME": str(home), "XDG_RUNTIME_DIR": str(home), "PATH": os.environ["PATH"]}
    return subprocess.run(
        ["/bin/bash", "-c", shell_line(words)], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("verb", ["ps", "ps -o json", "schema", "--help", f"graph {NS_TBF}"])
@pytest.mark.parametrize(("where", "why"), [(">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")])
def test_an_output_that_cannot_be_written_ends_with_3_and_says_why(
    tmp_path: Path, verb: str, where: str, why: str
) -> None:
    done = _in_shell(f"zdlab {verb} {where}", tmp_path)

    assert done.returncode == ExitCode.INFRASTRUCTURE
    assert done.stderr.splitlines()[0] == f"error: cannot write to standard output: {why}"
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("verb", ["ps", "schema", f"graph {NS_TBF}"])
def test_an_output_nobody_reads_any_more_ends_quietly_with_141(tmp_path: Path, verb: str) -> None:
    done = _in_shell(f"zdlab {verb} | true; exit ${{PIPESTATUS[0]}}", tmp_path)

    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(("words", "code"), [("ps", 0), ("nonsense", 2), ("status nope", 2)])
@pytest.mark.parametrize("where", ["2>/dev/full", "2>&-", "<&- 2>&-"])
def test_messages_nobody_can_be_told_do_not_change_the_exit_code(
    tmp_path: Path, words: str, code: int, where: str
) -> None:
    assert _in_shell(f"zdlab {words} {where}", tmp_path).returncode == code


def test_exit_codes_are_the_documented_ones() -> None:
    assert {code.name: int(code) for code in ExitCode} == {
        "PASS": 0,
        "FAILED": 1,
        "USAGE": 2,
        "INFRASTRUCTURE": 3,
        "INCONCLUSIVE": 4,
    }


def test_the_version_is_an_option_as_well(tmp_path: Path) -> None:
    done = _zdlab("--version", home=tmp_path)

    assert (done.returncode, done.stdout, done.stderr) == (0, f"zdlab {zdlab.__version__}\n", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_completion_script(tmp_path: Path, shell: str) -> None:
    done = _zdlab("completion", shell, home=tmp_path)

    assert done.returncode == 0
    assert f"_ZDLAB_COMPLETE=complete_{shell}" in done.stdout
    if shell != "bash":  # may not be installed
        return
    assert _in_shell("zdlab completion bash | bash -n", tmp_path).stderr == ""


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["capt"], ["capture"]),
        (["kernels", "inspect", "sto"], ["stock"]),
        (["results", "2025"], ["20250101T000000-ns-tbf-aa"]),
        (["plan", "x.yaml", "-o", "j"], ["json"]),
        (["completion", "f"], ["fish"]),
        (["exec", "--lab", "none"], []),
    ],
    ids=" ".join,
)
def test_bash_completes(tmp_path: Path, words: list[str], completed: list[str]) -> None:
    store = _kept_run(tmp_path / ".local" / "share", 0.0)
    store.directory.rename(store.directory.with_name("20250101T000000-ns-tbf-aa"))

    assert bash_completes(tmp_path, words, {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}) == completed


def test_rates_are_of_the_time_that_passed() -> None:
    assert drop_rate(30, 10, 4.0) == "5"
    assert drop_rate(30, None, 4.0) == "-"
    assert drop_rate(30, 10, 0.0) == "-"


def test_lines_of_shell_leave_a_path_alone_that_has_the_commands_name_in_it() -> None:
    """As a checkout has that ``git clone`` made."""
    assert shell_line("cd /x/zdlab && zdlab ps /x/zdlab/a", "python") == "cd /x/zdlab && python -m zdlab ps /x/zdlab/a"
