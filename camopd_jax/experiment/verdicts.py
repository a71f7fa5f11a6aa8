"""Which differences between methods are told apart, and what becomes of the paper's orderings."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from camopd_jax import comparison, rules
from camopd_jax.comparison import Difference
from camopd_jax.evals.suite import Line
from camopd_jax.experiment.results import Results, higher_is_better
from camopd_jax.published import averages

RESAMPLES = 10_000
PUBLISHED = averages()  # the sweep was made for role-play
CHAIN = ("camopd", "no_selection", "no_scaling", "mix")  # each removes one part of the one before
BASELINES = ("vanilla_mopd", "relaxed_opd", "selectkd", "off_policy_kd")
OF_PAPER = {"better": "holds", "worse": "reversed", "not told apart": "not told apart"}


@dataclass(frozen=True)
class Comparison:
    """One method less another in one measure."""

    line: Line
    a: str
    b: str
    seeds: int
    over_seeds: Difference | None  # None: one seed
    bootstrap: Difference
    corrected_p: float  # of the bootstrap
    verdict: str  # of a against b


@dataclass(frozen=True)
class Ordering:
    """What the paper orders, and a measure of that here."""

    aspect: str  # "general" or "domain"
    scenario: str  # of the paper's figures
    above: str
    below: str
    published: tuple[float, float]
    line: Line
    comparison: Comparison | None  # None: not run

    @property
    def verdict(self) -> str:
        return OF_PAPER[self.comparison.verdict] if self.comparison else "not run"


def compare(results: Results, line: Line, pairs: Sequence[tuple[str, str]]) -> list[Comparison | None]:
    """Compare pairs of cells or references in one measure, corrected for their number (Holm).

    None stands for a pair of which no seed is finished on both sides.
    """
    found, drawn = {}, {}
    for a, b in pairs:
        seeds = _common(results, a, b)
        if not seeds:
            continue
        scores = [results.scores(name, seeds, line.measure) for name in (a, b)]
        shape = scores[0].numerator_SN.shape
        if shape not in drawn:
            drawn[shape] = comparison.resampling(*shape, RESAMPLES, seed=0)
        over_seeds = comparison.paired_t(scores[0].by_seed(), scores[1].by_seed())
        found[a, b] = len(seeds), over_seeds, comparison.paired_bootstrap(*scores, drawn[shape])
    corrected = dict(zip(found, comparison.holm([d.p for *_, d in found.values()]), strict=True))
    higher = higher_is_better(line)
    return [
        Comparison(line, *pair, *found[pair], corrected[pair],
                   comparison.verdict(found[pair][-1].value, corrected[pair], higher))
        if pair in found else None
        for pair in pairs
    ]  # fmt: skip


def against_first(results: Results) -> list[Comparison]:
    """Every other cell less the first one, in every measure that has a better and a worse."""
    first, *others = [cell.name for cell in results.grid.cells]
    return _all(results, [(name, first) for name in others])


def first_against_references(results: Results) -> list[Comparison]:
    """The first cell less the start and the averaged weights: what comes for free."""
    first = results.grid.cells[0].name
    free = [title for title in results.references if "teacher" not in title or title == results.start]
    return _all(results, [(first, title) for title in free])


def orderings(results: Results) -> list[Ordering]:
    """The paper's orderings among cells of the kinds that the grid has, each in every measure that stands for it.

    The general average stands beside instruction following and reverse KL to the general teacher, the domain average
    beside the measure of each domain.
    """
    of_aspect = {
        "general": [results.line("instructions"), results.line("reverse_kl")],
        "domain": [ln for ln in results.lines if ln.measure == ln.task and ln.measure not in rules.MEASURES],
    }
    wanted = [(aspect, *pair) for aspect in of_aspect for pair in _pairs(results, aspect)]
    out = []
    for aspect, lines in of_aspect.items():
        pairs = [(above, below) for a, _, above, below, _ in wanted if a == aspect]
        for line in lines:
            compared = dict(zip(pairs, compare(results, line, pairs), strict=True))
            for a, scenario, above, below, published in wanted:
                if a == aspect:
                    out.append(Ordering(aspect, scenario, above, below, published, line, compared[above, below]))
    return out


def _pairs(results: Results, aspect: str) -> list[tuple[str, str, str, tuple[float, float]]]:
    """(scenario, above, below, published averages) as the paper orders two cells in one aspect."""
    kinds = {cell.kind for cell in results.grid.cells}
    scenario = results.grid.base["name"]
    scenario = scenario if scenario in PUBLISHED else "medical"
    sweep = [name for name in PUBLISHED["roleplay"] if "-1_" in name]
    pairs = []
    if "method" in kinds:
        methods = [*itertools.pairwise(CHAIN), *((CHAIN[0], name) for name in BASELINES)]
        pairs += [(scenario, *pair) for pair in methods]
    if "sweep" in kinds:
        pairs += [("roleplay", sweep[0], name) for name in sweep[1:]]
    out = []
    for place, a, b in pairs:
        x, y = (PUBLISHED[place][name][("general", "domain").index(aspect)] for name in (a, b))
        out.append((place, a, b, (x, y)) if x > y else (place, b, a, (y, x)))
    return out


def _all(results: Results, pairs: list[tuple[str, str]]) -> list[Comparison]:
    lines = [line for line in results.lines if higher_is_better(line) is not None]
    return [found for line in lines for found in compare(results, line, pairs) if found]


def _common(results: Results, a: str, b: str) -> list[int]:
    sides = [results.runs[name].keys() for name in (a, b) if name in results.runs]
    if not sides or any(name not in results.runs and name not in results.references for name in (a, b)):
        return []
    return [seed for seed in results.grid.seeds if all(seed in side for side in sides)]
