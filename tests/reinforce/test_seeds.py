"""The table over seeds: figures by hand, and runs that cannot be compared."""

import json

import pytest

from camopd_jax.reinforce import seeds


def run(path, start, trained, items=4):
    def measures(value):
        return {name: {"numerator": [value] * items, "denominator": [1.0] * items} for name in seeds.LABELS}

    path.mkdir(parents=True)
    record = {"models": {"start": measures(start), "trained": measures(trained)}}
    (path / "evaluation.json").write_text(json.dumps(record))
    return path


def test_gains_over_the_start_and_over_the_control(tmp_path):
    ours = [run(tmp_path / f"a{i}", 0.25, value) for i, value in enumerate((0.5, 0.5))]
    control = [run(tmp_path / f"b{i}", 0.25, 0.25) for i in range(2)]
    text = seeds.table(ours, control)
    assert "| clean accuracy | 0.250 | 0.500, 0.500 | +0.250 [+0.250, +0.250] |" in text
    assert "| clean accuracy | 0.250 | 0.250, 0.250 | +0.000 [+0.000, +0.000] |" in text
    assert text.endswith("| instruction following | +0.250 [+0.250, +0.250] |")


def test_seeds_that_differ_widen_the_interval(tmp_path):
    ours = [run(tmp_path / f"a{i}", 0.25, value) for i, value in enumerate((0.3, 0.5, 0.7))]
    found = seeds.read(ours)
    difference = seeds._difference(found["trained"]["passed"], found["start"]["passed"])
    assert difference.value == pytest.approx(0.25) and difference.low < 0 < difference.high


def test_what_cannot_be_compared_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"there is no evaluation\.json; allowed are"):
        seeds.table([tmp_path / "none"], [])
    odd = run(tmp_path / "a", 0, 1), run(tmp_path / "b", 0, 1, items=5)
    with pytest.raises(ValueError, match="have other held-out questions"):
        seeds.table(odd, [])
    (tmp_path / "a" / "evaluation.json").write_text('{"models": 3}')
    with pytest.raises(ValueError, match="is no evaluation of a reinforcement run"):
        seeds.table([tmp_path / "a"], [])
