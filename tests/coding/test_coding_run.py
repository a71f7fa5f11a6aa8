"""configs/icd.py:tiny as a user starts it: whole, killed anywhere and started again, ended early, checked only."""

import json
import signal
from types import SimpleNamespace

import coding_runs
import icd_files
import jax
import numpy as np
import pytest
from coding_runs import rows
from safetensors.numpy import load_file
from scipy import special

from camopd_jax.coding import coder, inputs, outcome, rules, run
from camopd_jax.probias import calibration
from camopd_jax.probias.scores import Split

LEFT = (
    "config.json", "metrics.jsonl", "eval.jsonl", "evaluation.json", "manifest.json", "summary.md",
    "plots/training.png", "plots/reliability.png", "plots/buckets.png", "export/model.safetensors",
    "export/codes.safetensors", "export/icd.json", "export/tokenizer.json",
)  # fmt: skip


def assert_same(ours, theirs):
    for name in ("metrics.jsonl", "eval.jsonl"):
        assert rows(ours / name) == rows(theirs / name), name
    for name in ("evaluation.json", "summary.md", "manifest.json", "export/icd.json", "export/tokenizer.json",
                 "export/model.safetensors", "export/codes.safetensors"):  # fmt: skip
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name


def test_a_run_leaves_what_it_promises(finished):
    steps = rows(finished.workdir / "metrics.jsonl")
    assert [row["step"] for row in steps] == [1, 2, 3, 4, 5, 6]
    assert all(row["batch"] == 16 and row["micro_steps"] == 2 and row["loss"] > 0 for row in steps)
    found = rows(finished.workdir / "eval.jsonl")
    assert {row["step"] for row in found} == {0, 2, 4, 6}
    assert {row["metric"] for row in found} == {*run.SHORT, "rare_micro_f1"}
    for name in LEFT:
        assert (finished.workdir / name).stat().st_size > 0, name
    manifest = json.loads((finished.workdir / "manifest.json").read_text())
    notes = {name: part["notes"] for name, part in manifest["splits"].items()}
    evaluation = json.loads((finished.workdir / "evaluation.json").read_text())
    for found in evaluation["documents"].values():
        assert len(found["numerator"]) == len(found["denominator"]) == notes["test"]
    total = evaluation["documents"]["micro_f1"]
    assert sum(total["numerator"]) / sum(total["denominator"]) == pytest.approx(evaluation["figures"]["micro_f1"])
    assert f"test, {notes['test']} notes" in finished.output and "Traceback" not in finished.output
    assert "warning" not in finished.output.lower(), "a preset does what it is meant to"


def test_stopped_four_times_it_is_the_undisturbed_run_bit_for_bit(finished, tmp_path):
    """Killed in a step, then in an evaluation, sent SIGTERM in the next, killed with the export alone written."""
    workdir, said = tmp_path / "run", []
    for stop in (("SIGKILL", "step", "3"), ("SIGKILL", "evaluation", "1"), ("SIGTERM", "evaluation", "1"),
                 ("SIGKILL", "tables", "1"), ()):  # fmt: skip
        code, output = coding_runs.run(workdir, finished.cache, stop=stop)
        expected = -signal.SIGKILL if "SIGKILL" in stop else 128 + signal.SIGTERM if stop else 0
        assert code == expected and "Traceback" not in output, output
        assert (workdir / "evaluation.json").exists() == (not stop)
        said.append([line for line in output.splitlines() if "going on from" in line or "is saved" in line])
    assert [[line.split("step ")[1].split(";")[0].strip() for line in lines] for lines in said] == [
        [], ["2"], ["2", "4"], ["4"], ["6"],
    ]  # fmt: skip
    assert_same(workdir, finished.workdir)


def test_a_finished_run_started_again_trains_nothing_and_says_the_same(finished):
    before = {name: (finished.workdir / name).read_bytes() for name in LEFT[1:] if not name.endswith(".png")}
    code, output = coding_runs.run(finished.workdir, finished.cache)
    assert code == 0 and "training 6/6" not in output and "going on from the checkpoint at step 6" in output, output
    assert {name: (finished.workdir / name).read_bytes() for name in before} == before


def test_check_trains_nothing_and_leaves_nothing(finished, tmp_path):
    code, output = coding_runs.run(tmp_path / "run", finished.cache, "--check")
    assert code == 0 and "All checks are passed" in output, output
    assert "24 codes, 15 of them in at most 10 training notes" in output
    assert not (tmp_path / "run").exists()


def test_another_config_is_refused_in_one_line(finished):
    code, output = coding_runs.run(finished.workdir, finished.cache, "--config.graph.bias=none")
    assert code == 2 and output.splitlines()[-1].startswith("error: config.graph.bias = 'none'")
    assert "--allow_change=graph.bias" in output


def test_patience_ends_a_run_and_so_it_stays(finished, tmp_path):
    never = ("--config.threshold.rule=fixed", "--config.threshold.value=0.999", "--config.eval.patience=1")
    code, output = coding_runs.run(tmp_path / "run", finished.cache, *never)
    assert code == 0 and "dev/micro_f1 had no new best in 1 evaluations" in output, output
    assert [row["step"] for row in rows(tmp_path / "run" / "metrics.jsonl")] == [1, 2]
    first = (tmp_path / "run" / "evaluation.json").read_text()
    code, _ = coding_runs.run(tmp_path / "run", finished.cache, *never)
    assert code == 0 and len(rows(tmp_path / "run" / "metrics.jsonl")) == 2
    assert (tmp_path / "run" / "evaluation.json").read_text() == first


def test_the_best_step_on_dev_is_taken(tmp_path, monkeypatch):
    """Figures of dev are planted: step 4 is the best of those that are kept, not the last and not the start."""
    planted, seen = iter((0.9, 0.2, 0.8, 0.3)), []
    config = coding_runs.tiny()
    config.data.source = f"path:{icd_files.write(tmp_path / 'notes.jsonl', icd_files.rows())}"
    read = inputs.read(config)
    ours = coder.Coder(read)

    def compute(*_):
        value = next(planted)
        return SimpleNamespace(
            figures=dict.fromkeys(run.SHORT, value), documents=8, buckets={"1-10": {"micro_f1": value}}
        )

    real = ours.split
    monkeypatch.setattr(run.scores, "compute", compute)
    monkeypatch.setattr(ours, "split", lambda params, *a: (seen.append(jax.device_get(params)), real(params, *a))[1])
    found = jax.device_get(run.train(read, ours, tmp_path / "run"))
    same = [all(map(np.array_equal, jax.tree.leaves(found), jax.tree.leaves(params))) for params in seen]
    assert same == [False, False, True, False]
    assert [row["value"] for row in rows(tmp_path / "run" / "eval.jsonl") if row["metric"] == "micro_f1"] == [
        0.9, 0.2, 0.8, 0.3,
    ]  # fmt: skip


@pytest.fixture
def read_of(tmp_path):
    def read(**shifts):
        config = coding_runs.tiny()
        config.data.source = f"path:{icd_files.write(tmp_path / 'notes.jsonl', icd_files.rows(**shifts))}"
        config.threshold.figure = "macro"
        rules.check_config(config)
        return inputs.read(config)

    return read


def of_training(read) -> dict:
    """All that a run has of its notes before it trains, but for the splits themselves."""
    codes = coder.Coder(read).codes
    return {
        "labels": read.labels.codes, "titles": read.labels.titles, "frequency": read.labels.frequency_C.tolist(),
        "graph": {k: np.asarray(v).tolist() for k, v in vars(read.graph).items()}, "texts": read.texts,
        "codes": {k: np.asarray(v).tolist() for k, v in vars(codes).items()}, "model": read.cfg,
        "tokenizer": read.tokenizer.get_vocab(), "digests": read.digests(), "shift": read.shift_C().tolist(),
        "parameters": [x.tolist() for x in jax.tree.leaves(jax.device_get(coder.Coder(read).fresh(0)))],
    }  # fmt: skip


def test_notes_and_codes_of_dev_and_test_say_nothing_of_what_trains(read_of):
    before = of_training(read_of())
    assert len(before["labels"]) == 6 and before["graph"]["bucket_RK"]
    assert of_training(read_of(dev=1, test=2)) == before
    changed = of_training(read_of(train=1))
    assert {name for name in before if changed[name] != before[name]} >= {"frequency", "graph", "tokenizer", "digests"}


@pytest.mark.parametrize("split", ["dev", "test"])
def test_splits_without_a_code_in_common_are_refused(tmp_path, split):
    lines = [row | {"codes": ["Z99.2"]} if row["split"] == split else row for row in icd_files.rows()]
    config = coding_runs.tiny()
    config.data.source = f"path:{icd_files.write(tmp_path / 'notes.jsonl', lines)}"
    with pytest.raises(ValueError, match=f"no note of {split} has one of the 6 codes of training"):
        inputs.read(config)


def test_codes_of_test_set_neither_threshold_nor_temperature(read_of):
    def guessed(truth_NC, seed):
        noise_NC = np.random.default_rng(seed).normal(size=truth_NC.shape)  # a temperature inside calibration.RANGE
        return Split(special.expit(2 * truth_NC.toarray() - 1 + noise_NC).astype(np.float32), truth_NC)

    def judged(**shifts):
        read = read_of(**shifts)
        return outcome.judge(read, {k: guessed(read.parts[k].truth_NC, i) for i, k in enumerate(("dev", "test"))})

    before, of_test, of_dev = judged(), judged(test=2), judged(dev=2)
    assert calibration.RANGE[0] < before.temperature < calibration.RANGE[1]
    assert of_test.temperature == before.temperature
    np.testing.assert_array_equal(of_test.threshold_C, before.threshold_C)
    assert of_test.scores.figures != before.scores.figures
    assert of_dev.temperature != before.temperature
    assert (of_dev.threshold_C != before.threshold_C).any()


def test_the_export_is_of_the_evaluated_parameters(finished):
    about = json.loads((finished.workdir / "export" / "icd.json").read_text())
    evaluation = json.loads((finished.workdir / "evaluation.json").read_text())
    assert about["temperature"] == evaluation["temperature"]
    assert len(about["threshold"]) == len(about["labels"]) == 24
    assert all(np.isfinite(x).all() for x in load_file(finished.workdir / "export" / "model.safetensors").values())
