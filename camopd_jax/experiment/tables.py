"""The tables of an experiment's report, as Markdown."""

from collections.abc import Sequence

from camopd_jax.comparison import Difference
from camopd_jax.experiment.grid import Cell
from camopd_jax.experiment.results import Results, by_seed, columns, costs, figure, mean, short
from camopd_jax.experiment.verdicts import Comparison, Ordering

COST_DIGITS = {"selected share": 2, "trained tokens": 0, "seconds of update": 1, "seconds a step": 1, "minutes": 1}
PAPER_NAMES = {"roleplay": "role-play"}


def quality(results: Results) -> str:
    """A row a reference, then a row a cell; a column a measure."""
    shown = columns(results)
    rows = [["", *(column.label for column in shown)]]
    for title in results.references:
        found = [figure(results, results.models, title, column) for column in shown]
        cells = [number(f[0], f[1:], c.digits) if f else "undefined" for f, c in zip(found, shown, strict=True)]
        rows.append([title, *cells])
    for cell in _finished(results):
        cells = []
        for column in shown:
            values = by_seed(results, cell.name, column)
            cells.append(number(*mean(values), column.digits) if values else "undefined")
        rows.append([f"**{cell.name}** ({len(results.runs[cell.name])})", *cells])
    return markdown(rows)


def cost(results: Results) -> str:
    """A row a cell: what its runs took, mean over seeds."""
    rows = [["", *COST_DIGITS]]
    for cell in _finished(results):
        by_name: dict[str, dict[int, float]] = {name: {} for name in COST_DIGITS}
        for seed, run in results.runs[cell.name].items():
            for name, value in costs(run).items():
                if value is not None:
                    by_name[name][seed] = value
        cells = [number(mean(v)[0], None, COST_DIGITS[name]) if v else "-" for name, v in by_name.items()]
        rows.append([f"**{cell.name}**", *cells])
    return markdown(rows)


def differences(found: Sequence[Comparison]) -> str:
    """A row a comparison."""
    rows = [["measure", "difference", "value [95 %], seeds and items", "p, corrected",
             "[95 %] by t over seeds", "p by t", "verdict"]]  # fmt: skip
    for c in found:
        t = c.over_seeds
        by_t = ["one seed", "-"] if t is None else [interval(t.low, t.high, c.line.digits), p_value(t.p)]
        rows.append([short(c.line), f"{c.a} - {c.b}", signed(c.bootstrap, c.line.digits), p_value(c.corrected_p),
                     *by_t, c.verdict])  # fmt: skip
    return markdown(rows)


def orderings(found: Sequence[Ordering]) -> str:
    """A row an ordering of the paper and a measure here."""
    rows = [["average", "ordering in the paper", "averages there", "measure here", "difference here [95 %]",
             "p, corrected", "verdict"]]  # fmt: skip
    for o in found:
        c = o.comparison
        here = [signed(c.bootstrap, o.line.digits), p_value(c.corrected_p)] if c else ["-", "-"]
        there = f"{o.published[0]:.2f} > {o.published[1]:.2f} ({PAPER_NAMES.get(o.scenario, o.scenario)})"
        rows.append([o.aspect, f"{o.above} > {o.below}", there, short(o.line), *here, o.verdict])
    return markdown(rows)


def number(value: float, around: tuple[float, float] | None, digits: int) -> str:
    """A value and its interval, which is left out where it has no width or is not known."""
    text = f"{round(value, digits) + 0.0:,.{digits}f}"  # + 0.0: no minus in front of 0
    if around is None or around[0] == around[1]:
        return text
    return f"{text} {interval(*around, digits)}"


def interval(low: float, high: float, digits: int) -> str:
    return f"[{number(low, None, digits)}, {number(high, None, digits)}]"


def signed(d: Difference, digits: int) -> str:
    value, low, high = (f"{round(x, digits) + 0.0:+.{digits}f}" for x in (d.value, d.low, d.high))
    return f"{value} [{low}, {high}]"


def p_value(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def _finished(results: Results) -> list[Cell]:
    return [cell for cell in results.grid.cells if cell.name in results.runs]
