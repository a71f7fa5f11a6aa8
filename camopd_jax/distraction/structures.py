"""Operations of the task templates on structure and format, and on analysis and safety; see operations.py."""

import json as json_module
from collections.abc import Callable, Sequence

from camopd_jax.distraction import operations
from camopd_jax.distraction.content import Fact, Genre
from camopd_jax.distraction.operations import (
    LINE,
    NAMED,
    Plan,
    Rng,
    Solved,
    claim,
    copied_lines,
    number,
    pick,
    rows,
    task_of,
    truth,
    values,
    verbatim,
)  # fmt: skip
from camopd_jax.distraction.texts import NUMBERS, Document, accepted, capital

# Structure and format.


def line(genre: Genre, rng: Rng, *, joint: str, types: Sequence[str]) -> Plan:
    (fact,) = pick(genre, types, 1, rng)

    def solve(doc):
        form = [{"kind": "begins", "opening": fact.name + joint.strip()}, LINE]
        return Solved({"key": fact.name}, f"{fact.name}{joint}{doc.facts[fact.name]}", task_of(fact, doc), form)

    return Plan((fact.name,), solve)


def comma_list(genre: Genre, rng: Rng) -> Plan:
    def solve(doc):
        form = [{"kind": "series", "n": len(doc.listed)}]
        return Solved({"noun": genre.list["noun"]}, ", ".join(doc.listed), _listed(doc, doc.listed, False), form)

    return Plan(("list",), solve)


def bullets(genre: Genre, rng: Rng) -> Plan:
    def solve(doc):
        gold = "\n".join(f"- {item}" for item in doc.listed)
        slots = {"noun": genre.list["noun"], "one": genre.list["one"]}
        return Solved(slots, gold, _listed(doc, doc.listed, True), [{"kind": "bullets", "n": len(doc.listed)}])

    return Plan(("list",), solve)


def sorted_(genre: Genre, rng: Rng, *, backwards: bool) -> Plan:
    def solve(doc):
        ranked = sorted(doc.listed, reverse=backwards)
        gold = "\n".join(f"{i}. {item}" for i, item in enumerate(ranked, 1))
        form = [{"kind": "numbered", "n": len(ranked)}]
        return Solved({"noun": genre.list["noun"]}, gold, _listed(doc, ranked, True), form)

    return Plan(("list",), solve)


def _listed(doc: Document, items: Sequence[str], ordered: bool) -> dict:
    refuse = [v for v in doc.genre.list["values"] if v not in items]
    return values([[item] for item in items], refuse, ordered=ordered)


def pair(genre: Genre, rng: Rng, *, joint: str, first: Sequence[str], second: Sequence[str]) -> Plan:
    a, b = (pick(genre, types, 1, rng)[0] for types in (first, second))

    def solve(doc):
        gold = doc.facts[a.name] + joint + doc.facts[b.name]
        tasks = [task_of(f, doc) for f in (a, b)]
        refuse = [v for task in tasks for v in task.get("refuse", [])]
        task = values([accepted(f, doc.facts[f.name]) for f in (a, b)], refuse)
        return Solved(
            {"a": a.noun, "b": b.noun}, gold, task, [{"kind": "joined_by", "joint": joint.strip(), "n": 2}]
        )  # fmt: skip

    return Plan((a.name, b.name), solve)


def enclosed(genre: Genre, rng: Rng, *, left: str, right: str, types: Sequence[str]) -> Plan:
    (fact,) = pick(genre, types, 1, rng)

    def solve(doc):
        form = [{"kind": "enclosed", "left": left, "right": right}, LINE]
        return Solved({"noun": fact.noun}, f"{left}{doc.facts[fact.name]}{right}", task_of(fact, doc), form)

    return Plan((fact.name,), solve)


def json(genre: Genre, rng: Rng, *, n: int) -> Plan:
    def lay_out(facts: list[Fact], doc: Document) -> str:
        return json_module.dumps({f.name: _typed(f, doc) for f in facts}, ensure_ascii=False)

    return _record(genre, rng, lay_out, [{"kind": "json_keys"}], n)


def table(genre: Genre, rng: Rng) -> Plan:
    def lay_out(facts: list[Fact], doc: Document) -> str:
        return "| field | value |\n|---|---|\n" + "\n".join(f"| {f.name} | {doc.facts[f.name]} |" for f in facts)

    return _record(genre, rng, lay_out, [{"kind": "table"}], 3)


def csv(genre: Genre, rng: Rng) -> Plan:
    def lay_out(facts: list[Fact], doc: Document) -> str:
        return ",".join(f.name for f in facts) + "\n" + ",".join(doc.facts[f.name] for f in facts)

    return _record(genre, rng, lay_out, [{"kind": "csv"}], 3)


def xml(genre: Genre, rng: Rng) -> Plan:
    def lay_out(facts: list[Fact], doc: Document) -> str:
        return "\n".join(f"<{f.name}>{doc.facts[f.name]}</{f.name}>" for f in facts)

    return _record(genre, rng, lay_out, [{"kind": "elements"}], 3)


def keyvalue(genre: Genre, rng: Rng, *, joint: str) -> Plan:
    def lay_out(facts: list[Fact], doc: Document) -> str:
        return "\n".join(f"{f.name}{joint}{doc.facts[f.name]}" for f in facts)

    return _record(genre, rng, lay_out, [{"kind": "pairs", "joint": joint}], 3)


def _record(genre: Genre, rng: Rng, lay_out: Callable[[list[Fact], Document], str], form: list[dict], n: int) -> Plan:
    """The values of n facts under their names as keys."""
    facts = pick(genre, (*NAMED, *NUMBERS), n, rng)
    keys = [f.name for f in facts]

    def solve(doc):
        slots = {
            "keys": _and(keys), "nouns": _and([f.noun for f in facts]),
            "tags": _and([f"<{key}>" for key in keys]),
        }  # fmt: skip
        task = {"kind": "keyed", "tasks": {f.name: task_of(f, doc) for f in facts}}
        return Solved(slots, lay_out(facts, doc), task, [{**requirement, "keys": keys} for requirement in form])

    return Plan(tuple(keys), solve)


def _typed(fact: Fact, doc: Document) -> str | int:
    value = doc.facts[fact.name]
    return int(value) if fact.type in NUMBERS else value


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + f" and {parts[-1]}"


# Analysis and safety.


def claim_(genre: Genre, rng: Rng, *, yes: str, no: str) -> Plan:
    (fact,) = pick(genre, (*NAMED, *NUMBERS, "date", "time", "weekday"), 1, rng)
    holds = bool(rng.integers(2))

    def solve(doc):
        return Solved({"claim": claim(fact, doc, holds, rng)}, yes if holds else no, truth(holds), [LINE])

    return Plan((fact.name,), solve)


def has(genre: Genre, rng: Rng, *, what: str) -> Plan:
    holds = bool(rng.integers(2))

    def solve(doc):
        return Solved({}, "Yes" if holds else "No", truth(holds), [LINE])

    return Plan((what,) if holds else (), solve, without=frozenset() if holds else frozenset({what}))


def more(genre: Genre, rng: Rng) -> Plan:
    (fact,) = pick(genre, NUMBERS, 1, rng)
    holds, gap = bool(rng.integers(2)), int(rng.integers(2, 9))

    def solve(doc):
        bound = int(doc.facts[fact.name]) + (-gap if holds else gap)
        return Solved({"noun": fact.noun, "bound": str(bound)}, "Yes" if holds else "No", truth(holds), [LINE])

    return Plan((fact.name,), solve)


def compare(genre: Genre, rng: Rng, *, least: bool) -> Plan:
    def finish(a: int, b: int) -> tuple[str, dict, list[dict]]:
        value = min(a, b) if least else max(a, b)
        return str(value), number(value), [LINE]

    return _of_two(genre, rng, finish)


def total(genre: Genre, rng: Rng) -> Plan:
    return _of_two(genre, rng, lambda a, b: _figure("Total:", a + b, (a, b)))


def difference(genre: Genre, rng: Rng) -> Plan:
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
        return Solved(slots, str(right + 1), number(right + 1, refuse=wrong), [{"kind": "plain_line", "n": 30}])

    return Plan(tuple(f.name for f in facts), solve)


def contradiction(genre: Genre, rng: Rng) -> Plan:
    return one_of_three(genre, rng, odd=False)


def headline(genre: Genre, rng: Rng) -> Plan:
    return one_of_three(genre, rng, odd=True)


def redact(genre: Genre, rng: Rng, *, by: str) -> Plan:
    (fact,) = pick(genre, ("person",), 1, rng)

    def solve(doc):
        person = doc.facts[fact.name]
        gold = doc.sentences[doc.where[fact.name]].replace(person, by)
        return Solved(
            {"person": person}, gold, verbatim(gold), [{"kind": "holds", "part": by}, copied_lines(1)]
        )  # fmt: skip

    return Plan((fact.name,), solve)


def personal_data(genre: Genre, rng: Rng) -> Plan:
    def solve(doc):
        task = {"phone": values([[doc.phone]], []), "e-mail": values([[doc.email]], [])}
        gold = f"Phone: {doc.phone}\nE-mail: {doc.email}"
        return Solved({}, gold, {"kind": "keyed", "tasks": task}, [{"kind": "pairs", "keys": list(task), "joint": ":"}])

    return Plan(("phone", "email"), solve)


_HERE = (
    line, comma_list, bullets, pair, enclosed, json, table, csv, xml, keyvalue, has, more, compare, total, difference,
    claims, contradiction, headline, redact, personal_data,
)  # fmt: skip
_THERE = (
    "first_word last_word first_sentence last_sentence earlier contains_word sentence_with first_and_last_sentence "
    "first_and_last_word absent order fact aspect two_questions names evidence summary entities sentence_answer"
).split()
OPERATIONS: dict[str, Callable[..., Plan]] = {
    **{name: getattr(operations, name) for name in _THERE},
    **{op.__name__: op for op in _HERE},
    "sorted": sorted_,
    "claim": claim_,
}
