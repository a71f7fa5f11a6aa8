"""Drawings: what is drawn, read back from the figure."""

import matplotlib.figure
import numpy as np
import pytest

from camopd_jax.figures import Point
from camopd_jax.probias import drawing
from camopd_jax.probias.calibration import Reliability


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """draw(function, ...) gives the figure that was written."""
    kept = []
    save = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(
        matplotlib.figure.Figure, "savefig", lambda self, *a, **k: (kept.append(self), save(self, *a, **k))
    )

    def draw(function, *rest):
        path = tmp_path / "figure.png"
        function(path, *rest)
        assert path.read_bytes().startswith(b"\x89PNG")
        return kept[-1]

    return draw


@pytest.mark.filterwarnings("error")
def test_reliability(drawn):
    raw = Reliability(np.array([0, 0.5, 0.75, 1]), np.array([400, 0, 2]), np.array([0.1, np.nan, 0.9]),
                      np.array([0.2, np.nan, 0.5]))  # fmt: skip
    nothing = Reliability(raw.edge_K1, np.zeros(3, int), np.full(3, np.nan), np.full(3, np.nan))
    top, bottom = drawn(drawing.reliability, {"as trained": raw, "empty": nothing}).axes
    diagonal, curve, empty = top.lines
    assert curve.get_xydata().tolist() == [[0.1, 0.2], [0.9, 0.5]] and len(empty.get_xydata()) == 0
    assert curve.get_label() == f"as trained: ECE {(400 * 0.1 + 2 * 0.4) / 402:.4f}" and empty.get_label() == "empty"
    assert diagonal.get_xydata().tolist() == [[0, 0], [1, 1]]
    assert bottom.patches[0].get_data().values.tolist() == [400, 0, 2]


@pytest.mark.filterwarnings("error")
def test_bars_by_bucket(drawn):
    systems = {
        "ProBias": {"1-10": Point(0.2, (0.15, 0.3)), "11-50": Point(0.5, None)},
        "no graph": {"1-10": Point(0.1, (0.05, 0.12))},
    }
    (axis,) = drawn(drawing.buckets, "macro-F1", systems, {"0": 0, "1-10": 1200, "11-50": 90}).axes
    assert [bar.get_height() for bar in axis.patches] == [0.2, 0.5, 0.1]
    centres = [bar.get_x() + bar.get_width() / 2 for bar in axis.patches]
    assert centres == pytest.approx([-0.2, 0.8, 0.2])
    assert [label.get_text() for label in axis.get_xticklabels()] == ["1-10\n1,200 codes", "11-50\n90 codes"]
    ends = [[tuple(map(float, end)) for end in segment] for bars in axis.collections for segment in bars.get_segments()]
    assert [[y for _, y in segment] for segment in ends] == [pytest.approx([0.15, 0.3]), pytest.approx([0.05, 0.12])]
