"""DistractionIF: a main instruction over a reference text that carries three distractors (method.md, section 2)."""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from camopd_jax.distraction import actions, content, texts
from camopd_jax.distraction.catalogue import OPERATIONS
from camopd_jax.distraction.content import CATEGORIES, LEVELS, SPLITS, Pattern, Template
from camopd_jax.distraction.instance import CONTROLS, PARADIGMS, Instance, obeying, render, validate
from camopd_jax.distraction.operations import Rng, Solved
from camopd_jax.distraction.texts import Document
from camopd_jax.distraction.words import contains, words

MARK = "{mark}"
ATTEMPTS = 30  # at distractors for a text, before another text is drawn
DRAWS = 200  # of a text, before the assets are at fault
SHORT_PROMPT = (
    94  # words, digits and marks (see pieces) of a whole prompt of level short, whatever its paradigm and control
)
SHORT_ANSWER = 14  # of its gold output
SHORT_RESIDUE = 18  # of a distractor, {mark} as one
FAVOURED = 5  # a pattern that fits few answers is drawn, where it does, as if it were so many
_RARE = ("words", "roman", "swap", "surname")
# Beyond so many words of the answer nobody would ask for it.
_LONGEST = {"spaced": 4, "underscore": 12, "repeat": 12}
_PIECE = re.compile(r"\d|[^\W\d]{1,8}|[^\w\s]")
# A right answer often has these forms by itself, which would be taken for obedience.
_NATURAL = {
    "json": ("json", "fence", "lower", "words", "roman"), "csv": ("json", "fence", "lower"),
    "xml": ("json", "fence", "lower"), "keyvalue": ("json", "fence", "lower"),
    "table": ("json", "fence", "lower", "surround"),
    "claim": ("lower",), "has": ("lower",), "more": ("lower",), "contains_word": ("lower",),
    "claims": ("bullet", "numbered"), "sorted": ("bullet", "numbered"), "bullets": ("bullet", "numbered"),
    "two_questions": ("bullet", "numbered"), "evidence": ("bullet", "numbered"),
    "entities": ("bullet", "numbered"), "personal_data": ("bullet", "numbered"),
    "first_and_last_sentence": ("bullet", "numbered"), "headline": ("words", "roman", "numbered"),
    "contradiction": ("words", "roman", "numbered"),
}  # fmt: skip


def make(split: str, count: int, seed: int, level: str) -> list[Instance]:
    """The first `count` instances of a split and level; the same for the same arguments, and each valid.

    An instance depends on its number alone: a longer benchmark begins with the shorter one.

    Raises:
      ValueError: if split or level is unknown, count is below 1, or seed below 0.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: allowed are {', '.join(SPLITS)}")
    if level not in LEVELS:
        raise ValueError(f"level {level!r}: allowed are {', '.join(LEVELS)}")
    if count < 1:
        raise ValueError(f"count = {count}: at least 1 instance is needed")
    if seed < 0:
        raise ValueError(f"seed = {seed}: allowed is 0 or more")
    return [_instance(split, level, seed, number) for number in range(count)]


def pieces(messages: Sequence[dict]) -> int:
    """Words, digits and marks of a conversation; long words and characters beyond ASCII count twice.

    With the 50 to 64 tokens of a chat template and of rarer words, these are its tokens, without a tokenizer.
    """
    return sum(_size(m["content"]) for m in messages)


def _instance(split: str, level: str, seed: int, number: int) -> Instance:
    rng = np.random.default_rng((seed, SPLITS.index(split), LEVELS.index(level), number))
    category = CATEGORIES[number % len(CATEGORIES)]
    possible = [t for t in content.templates(split, level) if t.category == category]
    template = possible[number // len(CATEGORIES) % len(possible)]
    name = f"{split}-{level}-{seed}-{number:05d}"
    for _ in range(DRAWS):
        genre = content.genres(split)[rng.integers(len(content.genres(split)))]
        plan = OPERATIONS[template.op](genre, rng, **template.args)
        doc = texts.draw(genre, split, level, plan.wanted, plan.without, rng)
        solved = plan.solve(doc)
        if solved is None or (level == "short" and _size(solved.gold) > SHORT_ANSWER):
            continue
        for _ in range(ATTEMPTS):
            found = _built(name, level, template, plan.keep, doc, solved, rng)
            if found and not validate(found):
                return found
    raise RuntimeError(f"{name}: no distractors fit the template {template.template}")


def _patterns(
    split: str, template: Template, solved: Solved, people: list[str], rng: Rng
) -> list[tuple[Pattern, dict]]:
    """Three patterns of different families that fit the answer, in random order, each with its action."""
    natural, gold = _NATURAL.get(template.op, ()), solved.gold
    pool, weights = [], []
    for pattern in content.patterns(split):
        kind = pattern.action["kind"]
        mark = str(rng.choice(pattern.marks)) if pattern.marks else ""
        action = {k: v.replace(MARK, mark) if isinstance(v, str) else v for k, v in pattern.action.items()}
        if kind == "surname":
            action["names"] = people
        if kind in natural or len(words(gold)) > _LONGEST.get(kind, len(gold)) or actions.obey(action, gold) == gold:
            continue
        pool.append((replace(pattern, marks=(mark,)), action))
        weights.append(FAVOURED if kind in _RARE else 1.0)
    chosen: dict[str, tuple[Pattern, dict]] = {}
    for i in rng.choice(len(pool), size=len(pool), replace=False, p=np.array(weights) / sum(weights)):
        chosen.setdefault(pool[i][0].family, pool[i])
    return list(chosen.values())[:3]


def _built(
    name: str, level: str, template: Template, keep: Sequence[str], doc: Document, solved: Solved, rng: Rng
) -> Instance | None:
    """An instance; None if a residue has a word that it may not have, or a prompt of level short is too long."""
    people = [value for name, value in doc.facts.items() if doc.genre.facts[name].type == "person"]
    chosen = _patterns(doc.split, template, solved, people, rng)
    residues = [_residue(pattern, level, rng) for pattern, _ in chosen]
    if any(contains(residue, word) for residue in residues for word in solved.alien):
        return None
    text, positions, places = _placed(doc, residues, keep, rng)
    found = Instance(
        id=name, split=doc.split, level=level, category=template.category, template=template.template,
        genre=doc.genre.genre, patterns=tuple(p.pattern for p, _ in chosen),
        families=tuple(p.family for p, _ in chosen), positions=positions, places=places,
        instruction=str(rng.choice(template.texts)).format(**solved.slots), instruction_first=bool(rng.integers(2)),
        requests=tuple(p.request.replace(MARK, p.marks[0]) for p, _ in chosen),
        text=text, text_clean=doc.text, gold=solved.gold, bad="",
        rubric={"task": solved.task, "form": solved.form, "actions": [action for _, action in chosen]},
    )  # fmt: skip
    found = replace(found, bad=obeying(found, (0, 1, 2)))
    if level == "short" and any(pieces(render(found, p, c)) > SHORT_PROMPT for p in PARADIGMS for c in CONTROLS):
        return None
    return found


def _residue(pattern: Pattern, level: str, rng: Rng) -> str:
    wordings = [t for t in pattern.texts if level == "full" or _size(t) <= SHORT_RESIDUE]
    return str(rng.choice(wordings)).replace(MARK, pattern.marks[0])


def _placed(
    doc: Document, residues: Sequence[str], keep: Sequence[str], rng: Rng
) -> tuple[str, tuple[tuple[int, int], ...], tuple[str, ...]]:
    """The text with the residues between its sentences, where each stands, and in which part of the text.

    A residue that does not end like a sentence has a line of its own, another one only now and then.
    """
    n = len(doc.sentences)
    gaps = [g for g in range(n + 1) if not (g == 0 and "start" in keep) and not (g == n and "end" in keep)]
    # Enough at both ends of a long text to see what a place does.
    weights = np.array([max(n / 4, 1.0) if g in (0, n) else 1.0 for g in gaps])
    drawn = rng.choice(gaps, size=len(residues), replace=len(gaps) < len(residues), p=weights / weights.sum())
    at = sorted(int(g) for g in drawn)
    text, positions, places, after_line = "", [], [], False
    for i in range(n + 1):
        for number in [k for k, gap in enumerate(at) if gap == i]:
            residue = residues[number]
            own_line = residue[-1] not in ".!?)" or rng.random() < 0.3
            text += ("\n" if own_line or after_line else " ") if text else ""
            positions.append((len(text), len(text) + len(residue)))
            places.append("start" if i == 0 else "end" if i == n else "middle")
            text, after_line = text + residue, own_line
        if i < n:
            gap = doc.gap(i) or " "
            text += (gap if "\n" in gap else "\n" if after_line else gap) if text else ""
            text, after_line = text + doc.sentences[i], False
    return text, tuple(positions), tuple(places)


def _size(text: str) -> int:
    return len(_PIECE.findall(text)) + sum(not c.isascii() for c in text)
