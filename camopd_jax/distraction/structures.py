"""Operations of structure and format: what the text says, laid out in a given form; see operations.py."""

import json as json_module
from collections.abc import Callable, Sequence

from camopd_jax.distraction.content import Fact, Genre
from camopd_jax.distraction.operations import (
    LINE,
    NAMED,
    Plan,
    Rng,
    Solved,
    alone,
    focused,
    parts,
    pick,
    task_of,
    values,
)
from camopd_jax.distraction.texts import NUMBERS, Document


def line(genre: Genre, rng: Rng, *, joint: str, types: Sequence[str]) -> Plan:
    """A line of a form: a key and its value."""
    (fact,) = pick(genre, types, 1, rng)

    def solve(doc):
        form = [{"kind": "begins", "opening": fact.name + joint.strip()}, LINE]
        return Solved(
            {"key": fact.name},
            f"{fact.name}{joint}{doc.facts[fact.name]}",
            focused(task_of(fact, doc), doc, fact.name),
            form,
        )

    return Plan((fact.name,), solve)


def comma_list(genre: Genre, rng: Rng) -> Plan:
    """The listed things on one line, in any order."""

    def solve(doc):
        form = [{"kind": "series", "n": len(doc.listed)}]
        return Solved({"noun": genre.list["noun"]}, ", ".join(doc.listed), _listed(doc, doc.listed, False), form)

    return Plan(("list",), solve)


def bullets(genre: Genre, rng: Rng) -> Plan:
    """The listed things, a dash each."""

    def solve(doc):
        gold = "\n".join(f"- {item}" for item in doc.listed)
        slots = {"noun": genre.list["noun"], "one": genre.list["one"]}
        return Solved(slots, gold, _listed(doc, doc.listed, True), [{"kind": "dashes", "n": len(doc.listed)}])

    return Plan(("list",), solve)


def sorted_(genre: Genre, rng: Rng, *, backwards: bool) -> Plan:
    """The listed things, numbered and sorted."""

    def solve(doc):
        ranked = sorted(doc.listed, reverse=backwards)
        gold = "\n".join(f"{i}. {item}" for i, item in enumerate(ranked, 1))
        form = [{"kind": "numbered", "n": len(ranked)}]
        return Solved({"noun": genre.list["noun"]}, gold, _listed(doc, ranked, True), form)

    return Plan(("list",), solve)


def _listed(doc: Document, items: Sequence[str], ordered: bool) -> dict:
    known = doc.genre.list["values"]
    return parts(*(values([[item]], [v for v in known if v != item]) for item in items), ordered=ordered)


def pair(genre: Genre, rng: Rng, *, joint: str, first: Sequence[str], second: Sequence[str]) -> Plan:
    """Two values with a joint between them."""
    a, b = (pick(genre, types, 1, rng)[0] for types in (first, second))

    def solve(doc):
        gold = doc.facts[a.name] + joint + doc.facts[b.name]
        task = parts(*(alone(task_of(f, doc), doc, f.name) for f in (a, b)), ordered=True)
        return Solved(
            {"a": a.noun, "b": b.noun}, gold, task, [{"kind": "joined_by", "joint": joint.strip(), "n": 2}]
        )  # fmt: skip

    return Plan((a.name, b.name), solve)


def enclosed(genre: Genre, rng: Rng, *, left: str, right: str, types: Sequence[str]) -> Plan:
    """A value in brackets."""
    (fact,) = pick(genre, types, 1, rng)

    def solve(doc):
        form = [{"kind": "enclosed", "left": left, "right": right}, LINE]
        return Solved(
            {"noun": fact.noun},
            f"{left}{doc.facts[fact.name]}{right}",
            focused(task_of(fact, doc), doc, fact.name),
            form,
        )

    return Plan((fact.name,), solve)


def json(genre: Genre, rng: Rng, *, n: int) -> Plan:
    """n values as a JSON object."""

    def lay_out(facts: list[Fact], doc: Document) -> str:
        return json_module.dumps({f.name: _typed(f, doc) for f in facts}, ensure_ascii=False)

    return _record(genre, rng, lay_out, [{"kind": "json_keys"}], n)


def table(genre: Genre, rng: Rng) -> Plan:
    """Three values as a Markdown table."""

    def lay_out(facts: list[Fact], doc: Document) -> str:
        return "| field | value |\n|---|---|\n" + "\n".join(f"| {f.name} | {doc.facts[f.name]} |" for f in facts)

    return _record(genre, rng, lay_out, [{"kind": "table"}], 3)


def csv(genre: Genre, rng: Rng) -> Plan:
    """Three values as CSV with a header."""

    def lay_out(facts: list[Fact], doc: Document) -> str:
        return ",".join(f.name for f in facts) + "\n" + ",".join(doc.facts[f.name] for f in facts)

    return _record(genre, rng, lay_out, [{"kind": "csv"}], 3)


def xml(genre: Genre, rng: Rng) -> Plan:
    """Three values as XML elements."""

    def lay_out(facts: list[Fact], doc: Document) -> str:
        return "\n".join(f"<{f.name}>{doc.facts[f.name]}</{f.name}>" for f in facts)

    return _record(genre, rng, lay_out, [{"kind": "elements"}], 3)


def keyvalue(genre: Genre, rng: Rng, *, joint: str) -> Plan:
    """Three values as a settings file."""

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
        task = {"kind": "keyed", "tasks": {f.name: alone(task_of(f, doc), doc, f.name) for f in facts}}
        return Solved(slots, lay_out(facts, doc), task, [{**requirement, "keys": keys} for requirement in form])

    return Plan(tuple(keys), solve)


def _typed(fact: Fact, doc: Document) -> str | int:
    value = doc.facts[fact.name]
    return int(value) if fact.type in NUMBERS else value


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + f" and {parts[-1]}"
