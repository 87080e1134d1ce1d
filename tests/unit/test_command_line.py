"""The command as users run it, as far as it needs neither root nor a lab."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import typer
from typer.testing import CliRunner

from zdlab.cli.main import app
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


def test_without_labs_there_are_none_to_show(tmp_path: Path) -> None:
    done = _zdlab("ps", "-o", "json", home=tmp_path)

    assert (done.returncode, json.loads(done.stdout)) == (0, [])


def test_exit_codes_are_the_documented_ones() -> None:
    assert {code.name: int(code) for code in ExitCode} == {
        "PASS": 0,
        "FAILED": 1,
        "USAGE": 2,
        "INFRASTRUCTURE": 3,
        "INCONCLUSIVE": 4,
    }
