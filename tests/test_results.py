"""What an experiment reports, of workdirs that were made up: tables, verdicts, orderings, figures, the page."""

import json
import re
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import synthetic
from scipy import stats

from camopd_jax.experiment import grid, report, results, tables, verdicts
from camopd_jax.experiment.results import RECOVERED, Run

ROOT = Path(__file__).parent.parent
METHODS = ["camopd", "no_selection", "mix", "vanilla_mopd"]


def a_grid(cells, seeds=(0, 1, 2)):
    config = runpy.run_path(str(ROOT / "configs" / "medical.py"))["get_config"]("tiny")
    return grid.make("configs/medical.py:tiny", {"steps": 8}, config, cells, seeds), config


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("grid")
    synthetic.write(out, *a_grid(grid.method_cells(METHODS)))
    return out


@pytest.fixture
def copied(made, tmp_path, monkeypatch):
    """One's own copy, at runs/grid of the working directory."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(made, "runs/grid"))


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch):
    monkeypatch.setattr(verdicts, "RESAMPLES", 1000)


@pytest.fixture
def undrawn(monkeypatch):
    """Reports without figures, which take most of the time."""
    monkeypatch.setattr(report.charts, "draw", lambda found, folder: [])


def column(found, label):
    return next(c for c in results.columns(found) if c.label == label)


def test_a_cells_values_are_those_of_its_runs(made):
    found = results.read(made)
    run = found.runs["mix"][1].models[RECOVERED]["reverse_kl"]
    value = run.numerator.sum() / run.denominator.sum()
    start = synthetic.TRUTH["domain teacher = start"][0]
    kl = results.by_seed(found, "mix", column(found, "reverse KL"))
    recovery = results.by_seed(found, "mix", column(found, "recovery of reverse KL"))
    assert kl[1] == pytest.approx(value)
    assert recovery[1] == pytest.approx((value - start) / (0 - start))
    mean, (low, high) = results.mean(kl)
    assert mean == pytest.approx(np.mean(list(kl.values())))
    expected = stats.t.interval(0.95, 2, loc=mean, scale=stats.sem(list(kl.values())))
    assert (low, high) == pytest.approx(expected)
    share = results.by_seed(found, "mix", column(found, "length / general teacher's"))[1]
    lengths = [found.runs["mix"][1].models[m]["length"].numerator.sum() for m in (RECOVERED, "general teacher")]
    assert share == pytest.approx(lengths[0] / lengths[1])


def test_costs_are_those_of_the_metrics(made):
    found = results.read(made)
    run = found.runs["camopd"][0]
    costs = results.costs(run)
    assert costs["selected share"] == sum(r["selected"] for r in run.steps) / (12 * 12)
    assert costs["trained tokens"] == sum(r["trained_tokens"] for r in run.steps)
    assert costs["minutes"] == 6
    assert results.costs(Run({}, {}, [{"seconds_update": 0.0, "seconds": 1.0}], [], [], None)) == {
        "selected share": None, "trained tokens": 0, "seconds of update": 0, "seconds a step": 1, "minutes": None
    }  # fmt: skip


def test_a_ratio_of_nothing_is_undefined_and_the_rest_stands(copied):
    for path in copied.glob("*/seed*/evaluation.json"):
        evaluation = json.loads(path.read_text())
        general, start = "general teacher", "domain teacher = start"
        evaluation["models"][general]["instructions"] = evaluation["models"][start]["instructions"]
        path.write_text(json.dumps(evaluation))
    found = results.read(copied)
    assert results.by_seed(found, "camopd", column(found, "recovery of instructions")) is None
    assert "| undefined |" in tables.quality(found)
    report.write(copied, None)
    assert "(figures/tradeoff.png)" in (copied / "results.md").read_text(), "of reverse KL"


def test_what_differs_is_told_apart_and_what_does_not_is_not(made):
    found = results.read(made)
    said = {(c.a, c.line.measure): c for c in verdicts.against_first(found)}
    assert {a for a, _ in said} == set(METHODS[1:])
    assert {m for _, m in said} == {"reverse_kl", "forward_kl", "instructions", "domain"}
    worst = said["vanilla_mopd", "reverse_kl"]
    assert worst.verdict == "worse" and worst.bootstrap.value > 0 and worst.seeds == 3
    assert said["vanilla_mopd", "instructions"].verdict == "worse" and worst.over_seeds.p < 0.05
    assert said["mix", "domain"].verdict == "not told apart"
    assert all(c.corrected_p >= c.bootstrap.p for c in said.values())
    free = {(c.b, c.line.measure): c.verdict for c in verdicts.first_against_references(found)}
    assert free["domain teacher = start", "reverse_kl"] == "better"
    assert free["interpolation 0.75", "reverse_kl"] == "worse"
    assert free["interpolation 0.75", "domain"] == "better"
    assert not [b for b, _ in free if b == "general teacher"]


def test_the_papers_orderings_get_their_verdicts(copied):
    for seed in (0, 1, 2):  # here mix follows more instructions than all others
        path = copied / "mix" / f"seed{seed}" / "evaluation.json"
        models = json.loads(path.read_text())["models"]
        models[RECOVERED] = synthetic.model(0.27, 0.75, 0.82, seed=seed)
        synthetic.write_evaluation(path.parent, models)
    found = results.read(copied)
    said = {(o.above, o.below, o.line.measure): o.verdict for o in verdicts.orderings(found)}
    assert said["camopd", "vanilla_mopd", "instructions"] == "holds"
    assert said["camopd", "vanilla_mopd", "reverse_kl"] == "holds", "less is better"
    assert said["vanilla_mopd", "camopd", "domain"] == "not told apart", "as the paper has it for medical"
    assert said["no_scaling", "mix", "instructions"] == "not run"
    assert ("camopd", "mix", "instructions") not in said, "no step of the chain"
    three = verdicts.compare(found, found.line("instructions"), [("camopd", "mix")])
    assert three[0].verdict == "worse"
    counts = [o.verdict for o in verdicts.orderings(found) if o.aspect == "general"]
    assert len(counts) == 14 and counts.count("not run") == 10


def test_a_reversed_ordering_is_called_so(tmp_path):
    synthetic.write(tmp_path, *a_grid(grid.method_cells(["camopd", "selectkd"])))
    for seed in (0, 1, 2):
        workdir = tmp_path / "selectkd" / f"seed{seed}"
        models = json.loads((workdir / "evaluation.json").read_text())["models"]
        models[RECOVERED] = synthetic.model(0.02, 0.54, 0.83, seed=seed)
        synthetic.write_evaluation(workdir, models)
    said = [o for o in verdicts.orderings(results.read(tmp_path)) if o.below == "selectkd"]
    assert [o.verdict for o in said] == ["reversed", "reversed", "not told apart"]


def test_pairs_are_made_of_the_seeds_that_both_have(copied, undrawn):
    shutil.rmtree(copied / "mix" / "seed1")
    (copied / "camopd" / "seed2" / "evaluation.json").unlink()
    shutil.rmtree(copied / "vanilla_mopd")
    found = results.read(copied)
    assert found.missing == [
        *("vanilla_mopd, seed 0", "mix, seed 1", "vanilla_mopd, seed 1", "camopd, seed 2", "vanilla_mopd, seed 2")
    ]
    pairs = [("mix", "camopd"), ("vanilla_mopd", "camopd"), ("no_selection", "mix")]
    compared = verdicts.compare(found, found.line("domain"), pairs)
    assert [c.seeds if c else None for c in compared] == [1, None, 2]
    assert compared[0].over_seeds is None and compared[2].over_seeds is not None
    assert "one seed" in tables.differences([compared[0]])
    report.write(copied, None)
    text = (copied / "results.md").read_text()
    sentence = next(line for line in text.splitlines() if line.startswith("- **mix** against camopd"))
    assert sentence.endswith("(One seed: how much seeds differ is not in this.)")
    assert not [x for x in text.splitlines() if x.startswith("- **no_selection** against") and "One seed" in x]
    assert "7 of 12 runs are finished. Missing: vanilla_mopd, seed 0; mix, seed 1;" in text


def test_the_page_names_its_command_and_has_its_figures_and_notes(copied):
    docs = Path("docs/results.md")
    docs.parent.mkdir()
    Path("docs/results-notes.md").write_text("What we make of it.\n")
    report.write(copied, docs)
    text = docs.read_text()
    assert (
        "    python bin/experiment.py --config=configs/medical.py:tiny --out=runs/grid "
        "--methods=camopd,no_selection,mix,vanilla_mopd --seeds=0,1,2 --config.steps=8 --docs=docs/results.md\n"
    ) in text
    assert "    python bin/experiment.py --out=runs/grid --report --docs=docs/results.md" in text
    assert "<!-- from results-notes.md -->\n\nWhat we make of it.\n\n<!-- end" in text
    assert "12 of 12 runs are finished." in text and "git revision, of all runs: " in text
    measured = [d["pairs"]["general/domain"] for run in results.read(copied).runs["mix"].values()
                for d in run.diagnostics if d["step"]]  # fmt: skip
    negative = sum(m["dot"] < 0 for m in measured)
    assert f"- **mix**: the gradients of general and domain had a negative dot product in {negative} of 15 mea" in text
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert len(pictures) == 4 and all((docs.parent / p).stat().st_size > 10_000 for p in pictures)
    own = (copied / "results.md").read_text()
    assert "(figures/tradeoff.png)" in own and "What we make of it" not in own
    assert str(Path.cwd()) not in text + own
    numbers = json.loads((copied / "results.json").read_text())
    assert numbers["cells"]["mix"]["measures"]["reverse KL"]["by_seed"].keys() == {"0", "1", "2"}
    assert {o["verdict"] for o in numbers["orderings"]} <= {"holds", "reversed", "not told apart", "not run"}
    report.write(copied, docs)
    assert docs.read_text() == text


def test_the_tables_have_a_row_a_model_and_a_column_a_measure(made):
    rows = [line.strip("| ").split(" | ") for line in tables.quality(results.read(made)).splitlines()]
    assert len(rows) == 2 + 5 + 4
    assert {len(row) for row in [rows[0], *rows[2:]]} in ({10}, {9, 10})  # the first head is empty
    camopd = next(line for line in tables.quality(results.read(made)).splitlines() if "camopd" in line)
    assert re.fullmatch(r"\| \*\*camopd\*\* \(3\) (\| -?[\d.]+( \[-?[\d.]+, -?[\d.]+\])? ){9}\|", camopd)


def test_figures_without_data_are_left_out_with_a_line(tmp_path):
    out = tmp_path / "one"
    synthetic.write(out, *a_grid(grid.method_cells(["camopd", "mix"]), seeds=(4,)), diagnostics=False)
    (out / "figures").mkdir()
    (out / "figures" / "counteraction.png").write_text("of an earlier report")
    report.write(out, None)
    text = (out / "results.md").read_text()
    assert "Counteraction of the branches: left out, no run has diagnostics.jsonl." in text
    assert "Gradient coherence gain and selected share: left out" in text
    assert sorted(p.name for p in (out / "figures").iterdir()) == ["reverse_kl.png", "tradeoff.png"]
    assert "of one seed, without an interval" in text and "One seed: no band." in text
    assert "negative dot product" not in text


def test_the_sweep_has_its_own_charts_and_orderings(tmp_path):
    _, config = a_grid(())
    synthetic.write(tmp_path, *a_grid(grid.sweep_cells(config), seeds=(0, 1)))
    report.write(tmp_path, None)
    names = {p.name for p in (tmp_path / "figures").iterdir()}
    assert names == {f"sweep-{n}.png" for n in ("tradeoff", "cells", "reverse_kl", "counteraction", "coherence")}
    text = (tmp_path / "results.md").read_text()
    assert "--sweep --seeds=0,1" in text
    assert "| general | 3-1_r2_rho0.8 > 1-1_r2_rho0.8 | 49.07 > 47.64 (role-play) |" in text
    assert "vanilla_mopd" not in text


def test_teachers_that_were_evaluated_otherwise_are_told(copied, undrawn):
    report.write(copied, None)
    assert "evaluations differ" not in (copied / "results.md").read_text()
    workdir = copied / "mix" / "seed2"
    models = json.loads((workdir / "evaluation.json").read_text())["models"]
    models["interpolation 0.5"] = synthetic.model(0.5, 0.5, 0.5)
    synthetic.write_evaluation(workdir, models)
    report.write(copied, None)
    assert "teachers' evaluations differ between the runs" in (copied / "results.md").read_text()


def test_a_damaged_evaluation_is_named(copied):
    (copied / "mix" / "seed0" / "evaluation.json").write_text("{")
    with pytest.raises(ValueError, match=r"mix/seed0/evaluation.json is no evaluation of a run"):
        results.read(copied)


@pytest.mark.parametrize(
    "value, around, digits, text",
    [
        (0.1234, (0.1, 0.2), 3, "0.123 [0.100, 0.200]"),
        (-0.0001, None, 2, "0.00"),
        (2997.4, (2874.0, 3121.0), 0, "2,997 [2,874, 3,121]"),
        (0.5, (0.5, 0.5), 2, "0.50"),
    ],
)
def test_numbers(value, around, digits, text):
    assert tables.number(value, around, digits) == text
