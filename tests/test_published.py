"""The paper's table beside ours: what results files mean, what is missing, and the commands that fill it."""

import importlib.util
import json
import shlex
from pathlib import Path

import pytest

from camopd_jax import published
from camopd_jax.acting import judging
from camopd_jax.evals import letters
from camopd_jax.experiment import verdicts

ROOT = Path(__file__).parents[1]
GENERAL = [b["name"] for b in published.paper()["benchmarks"]["general"]]


def program():
    spec = importlib.util.spec_from_file_location("table_program", ROOT / "bin" / "paper_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def put(path, body):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body))
    return str(path.parent)


def figure(value, n=100, stderr=0.01):
    return {"value": value, "n": n, "stderr": stderr}


LETTERS = {"task": "medqa_letters", "figures": {"accuracy": figure(0.5), "no_letter": figure(0.1)}}
ACTING = {"task": "coser_gca", "figures": {d.name: figure(40.0, 8, 3.0) for d in judging.DIMENSIONS} | {"average": {}}}
OF_LM_EVAL = {
    "results": {
        "gpqa_diamond_cot_zeroshot": {
            "alias": "x", "exact_match,strict-match": 0.1, "exact_match,flexible-extract": 0.25,
            "exact_match_stderr,flexible-extract": 0.03,
        },
        "ifeval": {"prompt_level_strict_acc,none": 0.75, "prompt_level_strict_acc_stderr,none": "N/A"},
    },
    "n-samples": {"gpqa_diamond_cot_zeroshot": {"original": 198, "effective": 20}},
}  # fmt: skip


def test_the_data_agree_with_the_rest_of_the_program():
    paper = published.paper()
    assert verdicts.PUBLISHED["medical"]["camopd"] == (45.84, 54.71)
    assert verdicts.PUBLISHED["roleplay"]["general_teacher"] == (53.39, 30.92)
    assert all(set(paper["rows"]) <= set(paper["averages"][place]) for place in published.SCENARIOS)
    assert [(b["name"], b["label"], b["items"]) for b in paper["benchmarks"]["medical"]] == [
        (task.name, task.label, task.count) for task in letters.TASKS.values()
    ]
    assert [b["name"] for b in paper["benchmarks"]["roleplay"]] == [d.name for d in judging.DIMENSIONS]


def test_lm_eval_has_the_tasks_that_it_is_said_to_have_and_not_the_others():
    tasks = pytest.importorskip("lm_eval.tasks", reason="lm_eval is not installed").TaskManager().all_tasks
    for b in published.paper()["benchmarks"]["general"]:
        if b["lm_eval"] is not None:
            assert b["lm_eval"] in tasks
        else:
            word = b["name"].partition("_")[0].removesuffix("25")
            assert not [t for t in tasks if word in t.lower()], f"{b['label']} has come to lm_eval"


def test_results_of_each_kind_are_points_of_a_hundred(tmp_path):
    put(tmp_path / "a" / "medqa" / "results.json", LETTERS)
    put(tmp_path / "a" / "results.json", OF_LM_EVAL)
    put(tmp_path / "b" / "results.json", ACTING)
    put(tmp_path / "b" / "scores.json", {"hmmt25": {"value": 41.5, "n": 30, "stderr": None}})
    found = published.figures([str(tmp_path / "a"), str(tmp_path / "b")])
    assert found["medqa_letters"] == published.Figure(50.0, 100, 1.0)
    assert found["gpqa_diamond"] == published.Figure(25.0, 20, 3.0)
    assert found["ifeval"] == published.Figure(75.0, None, None)
    assert found["anthropomorphism"] == published.Figure(40.0, 8, 3.0)
    assert found["hmmt25"] == published.Figure(41.5, 30, None)
    assert len(found) == 4 + 4


def test_averages_by_hand():
    some = {
        "a": published.Figure(40.0, 1, 3.0),
        "b": published.Figure(60.0, 1, 4.0),
        "c": published.Figure(1.0, 1, None),
    }
    assert published.average(some, ["a", "b"]) == "50.00 ± 2.50"
    assert published.average(some, ["a", "b", "d", "e"]) == "50.00 ± 2.50 (2 of 4)"
    assert published.average(some, ["a", "c"]) == "20.50"
    assert published.average(some, ["d"]) == "-"


def test_the_table_of_the_command(tmp_path, capsys):
    place = put(tmp_path / "r" / "results.json", LETTERS)
    out = tmp_path / "made" / "table.md"
    command = ["paper_table", "--scenario=medical", f"camopd={place}", f"my|own={place}", f"--out={out}"]
    assert program().main(command) == 0
    said = capsys.readouterr().out
    assert "| CaMOPD | 45.84 | - | 54.71 | 50.00 ± 1.00 (1 of 2) |" in said
    assert "| general teacher | 53.36 | - | 48.13 | - |" in said
    assert "| my\\|own | - | - | - | 50.00 ± 1.00 (1 of 2) |" in said
    assert "| ours, by benchmark | CaMOPD | my\\|own |" in said
    assert "| MedQA-USMLE | 50.00 ± 1.00 (n 100) | 50.00 ± 1.00 (n 100) |" in said
    assert "| MedXpertQA Text | - | - |" in said and "| GPQA-Diamond | - | - |" in said
    assert out.read_text() in said


def test_commands_are_ones_that_the_programs_take(capsys):
    for scenario in published.SCENARIOS:
        command = ["x", "--commands", f"--scenario={scenario}", "--model=runs/x", "--results=a b"]
        assert program().main(command) == 0
        lines = capsys.readouterr().out.splitlines()
        assert sum("not in lm_eval" in line for line in lines) == 7
        calls = [shlex.split(line) for line in lines if not line.startswith("#")]
        assert len(calls) == {"medical": 4, "roleplay": 3}[scenario]
        for call in calls:
            names = {word.removeprefix("--").partition("=")[0] for word in call[2:]}
            source = (ROOT / call[1]).read_text() + (ROOT / "camopd_jax/evals/answering.py").read_text()
            source += (ROOT / "camopd_jax/remote.py").read_text()
            assert all(f'"{name.removeprefix("judge_")}"' in source for name in names), call
            assert any(word.startswith("--out=a b/") for word in call)


@pytest.mark.parametrize(
    "name, body, says",
    [
        ("results.json", {"task": "distractionif", "figures": {}}, "no results of bin/evaluate.py"),
        ("results.json", [], "no results of bin/evaluate.py"),
        ("results.json", {"task": "medqa_letters", "figures": {"accuracy": figure("half")}}, "no results of"),
        ("scores.json", {"hmmt": figure(1)}, "there is no benchmark 'hmmt'; allowed are gpqa_diamond, hmmt25"),
        ("scores.json", {"hmmt25": 4}, "with value, n and stderr (or null) of each"),
        ("other.json", {}, "there is no results.json or scores.json below it"),
    ],
)
def test_files_that_are_no_results(tmp_path, name, body, says):
    with pytest.raises(ValueError) as error:
        published.figures([put(tmp_path / name, body)])
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_benchmark_that_comes_twice_is_refused(tmp_path):
    for name in ("one", "two"):
        put(tmp_path / name / "results.json", LETTERS)
    with pytest.raises(ValueError, match="a result of medqa_letters comes twice for one model"):
        published.figures([str(tmp_path)])


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["camopd=x"], "--scenario is missing: allowed are medical, roleplay"),
        (["--scenario=medical", "results"], "allowed is NAME=DIR[,DIR]"),
        (["--scenario=medical", "a=none"], "none: there is no results.json"),
        (["--scenario=medical", "--commands"], "--commands needs --model=SOURCE_OR_RUN"),
    ],
)
def test_mistakes(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert program().main(["paper_table", *arguments]) == 2
    assert says in capsys.readouterr().err
