"""Operations of analysis and safety: claims, comparisons, personal data; see operations.py."""

from collections.abc import Callable

from camopd_jax.distraction.content import Genre
from camopd_jax.distraction.operations import (
    LINE,
    NAMED,
    Plan,
    Rng,
    Solved,
    claim,
    copied_lines,
    focused,
    number,
    pick,
    rows,
    truth,
    values,
    verbatim,
)
from camopd_jax.distraction.texts import NUMBERS, capital


def claim_(genre: Genre, rng: Rng, *, yes: str, no: str) -> Plan:
    """Whether a claim about a fact holds."""
    (fact,) = pick(genre, (*NAMED, *NUMBERS, "date", "time", "weekday"), 1, rng)
    holds = bool(rng.integers(2))

    def solve(doc):
        return Solved({"claim": claim(fact, doc, holds, rng)}, yes if holds else no, truth(holds), [LINE])

    return Plan((fact.name,), solve)


def has(genre: Genre, rng: Rng, *, what: str) -> Plan:
    """Whether the text has such a thing as a telephone number."""
    holds = bool(rng.integers(2))

    def solve(doc):
        return Solved({}, "Yes" if holds else "No", truth(holds), [LINE])

    return Plan((what,) if holds else (), solve, without=frozenset() if holds else frozenset({what}))


def more(genre: Genre, rng: Rng) -> Plan:
    """Whether a number is above a bound."""
    (fact,) = pick(genre, NUMBERS, 1, rng)
    holds, gap = bool(rng.integers(2)), int(rng.integers(2, 9))

    def solve(doc):
        bound = int(doc.facts[fact.name]) + (-gap if holds else gap)
        return Solved({"noun": fact.noun, "bound": str(bound)}, "Yes" if holds else "No", truth(holds), [LINE])

    return Plan((fact.name,), solve)


def compare(genre: Genre, rng: Rng, *, least: bool) -> Plan:
    """The larger or the smaller of two numbers."""

    def finish(a: int, b: int) -> tuple[str, dict, list[dict]]:
        value = min(a, b) if least else max(a, b)
        return str(value), number(value), [LINE]

    return _of_two(genre, rng, finish)


def total(genre: Genre, rng: Rng) -> Plan:
    """The sum of two numbers."""
    return _of_two(genre, rng, lambda a, b: _figure("Total:", a + b, (a, b)))


def difference(genre: Genre, rng: Rng) -> Plan:
    """The difference of two numbers."""
    return _of_two(genre, rng, lambda a, b: _figure("Difference:", abs(a - b), (a, b)))


def _of_two(genre: Genre, rng: Rng, finish: Callable[[int, int], tuple[str, dict, list[dict]]]) -> Plan:
    a, b = pick(genre, ("count",), 2, rng)

    def solve(doc):
        gold, task, form = finish(int(doc.facts[a.name]), int(doc.facts[b.name]))
        return Solved({"a": a.noun, "b": b.noun}, gold, task, form)

    return Plan((a.name, b.name), solve)


def _figure(opening: str, value: int, parts: tuple[int, int]) -> tuple[str, dict, list[dict]]:
    return f"{opening} {value}", number(value, also=parts), [{"kind": "begins", "opening": opening}, LINE]


def claims(genre: Genre, rng: Rng, *, yes: str, no: str) -> Plan:
    """Whether each of three claims holds, on numbered lines."""
    facts = pick(genre, (*NAMED, *NUMBERS), 3, rng)
    holds = [bool(x) for x in rng.integers(2, size=3)]

    def solve(doc):
        slots = {f"claim{i}": claim(f, doc, holds[i - 1], rng) for i, f in enumerate(facts, 1)}
        gold = "\n".join(f"{i}. {yes if true else no}" for i, true in enumerate(holds, 1))
        return Solved(slots, gold, rows(*map(truth, holds)), [{"kind": "numbered", "n": 3}])

    return Plan(tuple(f.name for f in facts), solve)


def one_of_three(genre: Genre, rng: Rng, *, odd: bool) -> Plan:
    """Three numbered claims, of which one alone is true (odd) or false (not odd)."""
    facts = pick(genre, (*NAMED, *NUMBERS), 3, rng)
    right = int(rng.integers(3))

    def solve(doc):
        claims = [claim(f, doc, (i == right) == odd, rng) for i, f in enumerate(facts)]
        slots = {f"claim{i}": capital(text) for i, text in enumerate(claims, 1)}
        wrong = [n for n in (1, 2, 3) if n != right + 1]
        return Solved(
            slots, str(right + 1), number(right + 1, refuse=wrong), [{"kind": "line_count", "n": 1, "most": 30}]
        )

    return Plan(tuple(f.name for f in facts), solve)


def contradiction(genre: Genre, rng: Rng) -> Plan:
    """Which of three claims the text contradicts."""
    return one_of_three(genre, rng, odd=False)


def headline(genre: Genre, rng: Rng) -> Plan:
    """Which of three headlines fits the text."""
    return one_of_three(genre, rng, odd=True)


def redact(genre: Genre, rng: Rng, *, by: str) -> Plan:
    """The sentence that names a person, with something else in the place of the name."""
    (fact,) = pick(genre, ("person",), 1, rng)

    def solve(doc):
        person = doc.facts[fact.name]
        gold = doc.sentences[doc.where[fact.name]].replace(person, by)
        return Solved(
            {"person": person}, gold, verbatim(gold), [{"kind": "holds", "part": by}, copied_lines(1)]
        )  # fmt: skip

    return Plan((fact.name,), solve)


def personal_data(genre: Genre, rng: Rng) -> Plan:
    """Telephone number and e-mail address, each behind its key."""

    def solve(doc):
        task = {"phone": values([[doc.phone, doc.phone.replace("-", "")]], []), "e-mail": values([[doc.email]], [])}
        gold = f"Phone: {doc.phone}\nE-mail: {doc.email}"
        return Solved({}, gold, {"kind": "keyed", "tasks": task}, [{"kind": "pairs", "keys": list(task), "joint": ":"}])

    return Plan(("phone", "email"), solve)


def private_phone(genre: Genre, rng: Rng) -> Plan:
    """The telephone number."""

    def solve(doc):
        task = values([[doc.phone, doc.phone.replace("-", "")]], [])
        return Solved({}, doc.phone, focused(task, doc, "phone"), [LINE])

    return Plan(("phone",), solve)
