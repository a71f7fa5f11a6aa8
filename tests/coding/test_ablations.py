"""Ablations of ICD coding over seeds: what is compared with what, and the figures of made-up runs by hand."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from camopd_jax.coding import ablations, rules
from camopd_jax.experiment import grid

CONFIG = Path(__file__).parents[2] / "configs" / "icd.py"
NAMES = ["probias", "no_graph", "probias_strength0", "no_graph_strength0"]
RARE = {
    "probias": (0.5, 0.7),
    "no_graph": (0.3, 0.4),
    "probias_strength0": (0.2, 0.2),
    "no_graph_strength0": (0.3, 0.2),
}


def config():
    spec = importlib.util.spec_from_file_location("icd_config", CONFIG)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config("tiny")


@pytest.fixture
def out(tmp_path):
    """The record of a grid, and evaluations in which every figure is the same."""
    made = grid.make("configs/icd.py:tiny", {}, config(), ablations.cells(NAMES), (0, 1))
    grid.write(made, tmp_path)
    for cell, seed in made.runs():
        value, place = RARE[cell.name][seed], grid.workdir(tmp_path, cell, seed)
        place.mkdir(parents=True)
        figures = dict.fromkeys(
            ("micro_f1", "macro_f1_caml", "macro_f1_present", "macro_auc", "map", "precision_at_8"), value
        )
        (place / grid.FINISHED).write_text(json.dumps({"figures": figures, "buckets": {"1-10": figures}}))
    return tmp_path


def test_each_cell_is_compared_with_the_first_of_the_same_notes(out):
    found = ablations.pairs(ablations.read(out))
    assert found == [("probias", "no_graph"), ("probias_strength0", "no_graph_strength0")]


def test_shuffled_edges_are_compared_with_none_too(out):
    made = grid.make("configs/icd.py:tiny", {}, config(), ablations.cells([*NAMES, "shuffled"]), (0, 1))
    grid.write(made, out)
    shutil.copytree(out / "no_graph", out / "shuffled")
    assert ablations.pairs(ablations.read(out))[-1] == ("shuffled", "no_graph")
    text = ablations.page(ablations.read(out), out, "figures")
    assert "- shuffled is not told apart from no_graph in rare micro-F1" in text


def test_differences_are_paired_by_seed(out):
    found = ablations.difference(ablations.read(out), "probias", "no_graph", "rare micro-F1")
    d = np.array([0.5 - 0.3, 0.7 - 0.4])
    half = 12.706 * d.std(ddof=1) / np.sqrt(2)  # t of one degree of freedom
    assert found.value == pytest.approx(0.25)
    assert (found.low, found.high) == (pytest.approx(0.25 - half, abs=1e-3), pytest.approx(0.25 + half, abs=1e-3))


def test_only_seeds_that_both_have_are_paired(out):
    (out / "no_graph" / "seed1" / grid.FINISHED).unlink()
    assert ablations.difference(ablations.read(out), "probias", "no_graph", "rare micro-F1") is None
    assert "one seed tells no interval" in ablations.page(ablations.read(out), out, "figures")


def test_the_page_has_every_cell_and_its_command(out):
    ablations.write(out, None)
    text = (out / "results.md").read_text()
    assert "| probias (2) | 0.600 [" in text and "| probias - no_graph | +0.250 [" in text
    assert f"--out={out} --methods=probias,no_graph,probias_strength0,no_graph_strength0 --seeds=0,1" in text
    assert "8 of 8 runs are finished" in text and "(figures/cells.png)" in text
    assert (out / "figures" / "cells.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "names, words", [(["camopd"], "there is no 'camopd'"), (["probias"] * 2, "each once"), ([], "one or")]
)
def test_unknown_or_doubled_names_are_refused(names, words):
    with pytest.raises(ValueError, match=words):
        ablations.cells(names)


@pytest.mark.parametrize("name", ablations.CELLS)
def test_each_cell_sets_keys_that_there_are_and_that_go_together(name):
    (cell,) = ablations.cells([name])
    assert rules.check_config(grid.configured(config(), cell, 3)) > 50


def test_an_experiment_without_a_finished_run_says_so(tmp_path):
    grid.write(grid.make("configs/icd.py:tiny", {}, config(), ablations.cells(NAMES), (0,)), tmp_path)
    with pytest.raises(ValueError, match="no run of it is finished"):
        ablations.read(tmp_path)
