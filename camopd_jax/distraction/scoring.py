"""The figures of DistractionIF from rows of `questions.judged`, with intervals that resample instances.

Every figure is a ratio of sums over instances, so that it can be had on resamples of them, and so can the difference
of two models that answered the same questions.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from camopd_jax.distraction.intervals import LEVEL, Estimate

CRITERIA = ("task", "resist_1", "resist_2", "resist_3", "form")
# What the figures are called, in the order of tables.
MEASURES = {
    "passed": "all five criteria hold",
    "task": "the task is done",
    "resist_1": "the first distractor of the text is resisted",
    "resist_2": "the second",
    "resist_3": "the third",
    "form": "the form is intact",
    "resisted": "share of distractors that are resisted",
    "criteria": "share of the five criteria that hold",
    "clean": "task and form without distractors",
    "drop": "clean less passed, of the same instance and paradigm",
    "passed_of_able": "passed, of those whose clean answer passes",
    "legitimate": "task done and request obeyed, where the distractor is a real instruction",
    "obeyed": "request obeyed, where the distractor is a real instruction",
    "resisted_of_able": "distractor resisted, of those that are obeyed as a real instruction",
}
GROUPS = ("paradigm", "category", "family", "place", "template")
_OF_DISTRACTOR = {"family": "families", "place": "places"}  # of which an instance has three

Sums = dict[str, dict[str, np.ndarray]]  # measure -> instance -> [numerator, denominator]


def figures(rows: Sequence[Mapping], resamples: int, seed: int) -> dict[str, Estimate]:
    """The `MEASURES` of rows, those that the rows tell anything of, with percentile intervals (Efron 1979).

    Raises:
      ValueError: if a question has two rows.
    """
    return estimates([sums(rows)], resamples, seed)


def difference(
    rows: Sequence[Mapping], others: Sequence[Mapping], resamples: int, seed: int
) -> dict[str, Estimate]:  # fmt: skip
    """The `MEASURES` of rows less those of others, of which both tell something, paired by instance.

    Raises:
      ValueError: if the two are not answers to the same questions.
    """
    if odd := sorted({row["id"] for row in rows} ^ {row["id"] for row in others}):
        raise ValueError(
            f"{len(odd)} questions were put to one of the two only, such as {odd[0]}; allowed are the same questions"
        )
    return estimates([sums(rows), sums(others)], resamples, seed)


def of_answer(row: Mapping) -> dict[str, float]:
    """The `MEASURES` of one row that are whole numbers: 0 or 1."""
    return {measure: float(n) for measure, n, of in _observed(row) if of == 1}


def grouped(rows: Sequence[Mapping]) -> dict[str, dict[str, list[dict]]]:
    """{what: {its value: rows}} for each of `GROUPS`; of a family or place with the distractors of it alone."""
    found: dict = {what: defaultdict(list) for what in GROUPS}
    for row in rows:
        for what in GROUPS:
            if what not in _OF_DISTRACTOR:
                found[what][row[what]].append(row)
                continue
            values = row[_OF_DISTRACTOR[what]]
            asked = _asked(row)
            for value in {values[asked]} if asked is not None else set(values):
                found[what][value].append({**row, "counted": [v == value for v in values]})
    return {what: dict(sorted(groups.items())) for what, groups in found.items()}


def _asked(row: Mapping) -> int | None:
    """The number, 0 to 2, of the distractor that is a real instruction in this question."""
    return int(row["control"][-1]) - 1 if row["control"].startswith("legitimate") else None


def _observed(row: Mapping) -> Iterator[tuple[str, float, float]]:
    """(measure, numerator, denominator) of one row."""
    if row["control"] == "clean":
        yield "clean", row["passed"], 1
    elif row["control"] == "distracted":
        criteria, counted = row["criteria"], row.get("counted", [True] * 3)
        yield "passed", row["passed"], 1
        yield "criteria", sum(criteria), len(criteria)
        yield "resisted", sum(c for c, here in zip(criteria[1:4], counted, strict=True) if here), sum(counted)
        for name, holds, here in zip(CRITERIA, criteria, (True, *counted, True), strict=True):
            yield name, holds * here, here
    else:
        yield "legitimate", row["passed"], 1
        yield "obeyed", row["obeyed"], 1


def _compared(by_control: Mapping[str, Mapping]) -> Iterator[tuple[str, float, float]]:
    """The same of an instance in one paradigm, where a figure takes two of its controls."""
    distracted = by_control.get("distracted")
    if distracted is None:
        return
    if "clean" in by_control:
        passed, clean = float(distracted["passed"]), float(by_control["clean"]["passed"])
        yield "drop", clean - passed, 1
        yield "passed_of_able", clean * passed, clean
    for row in by_control.values():
        if (asked := _asked(row)) is not None and row["obeyed"]:
            yield "resisted_of_able", distracted["criteria"][1 + asked], 1


def sums(rows: Sequence[Mapping]) -> Sums:
    """The `MEASURES` of rows by instance, of which their figures are made.

    Raises:
      ValueError: if a question has two rows.
    """
    found: Sums = defaultdict(lambda: defaultdict(lambda: np.zeros(2)))
    together: dict[tuple, dict] = defaultdict(dict)
    seen = set()
    for row in rows:
        if row["id"] in seen:
            raise ValueError(f"question {row['id']} has two answers; allowed is one")
        seen.add(row["id"])
        together[row["instance"], row["paradigm"]][row["control"]] = row
        for measure, numerator, denominator in _observed(row):
            found[measure][row["instance"]] += numerator, denominator
    for (instance, _), by_control in together.items():
        for measure, numerator, denominator in _compared(by_control):
            found[measure][instance] += numerator, denominator
    return found


def estimates(sides: Sequence[Sums], resamples: int, seed: int) -> dict[str, Estimate]:
    """Of one side's `sums` its figures, of two the first's less the second's; both have the same instances drawn."""
    names = sorted({instance for side in sides for of_one in side.values() for instance in of_one})
    measures = [m for m in MEASURES if all(_total(side, m)[1] > 0 for side in sides)]
    if not measures:
        return {}
    zero = np.zeros(2)
    sums_SCM2 = np.array([[[side[m].get(name, zero) for m in measures] for name in names] for side in sides])
    drawn_RC = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    value_M = _figure(sums_SCM2.sum(axis=1))
    value_RM = _figure(np.einsum("rc,scmk->srmk", drawn_RC.astype(np.float64), sums_SCM2, optimize=True))
    low_M, high_M = np.nanquantile(value_RM, [LEVEL / 2, 1 - LEVEL / 2], axis=0)  # nan: a draw without any of them
    return {
        m: Estimate(float(v), float(a), float(b)) for m, v, a, b in zip(measures, value_M, low_M, high_M, strict=True)
    }


def _total(side: Sums, measure: str) -> np.ndarray:
    return sum(side[measure].values(), np.zeros(2)) if measure in side else np.zeros(2)


def _figure(sums_S___2: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        of_side = sums_S___2[..., 0] / sums_S___2[..., 1]
    return of_side[0] - of_side[1] if len(of_side) == 2 else of_side[0]
