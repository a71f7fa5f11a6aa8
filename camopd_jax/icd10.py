"""`builtin:icd10`: medical-coding questions that can be answered by reading, from the PyPI package simple-icd-10-cm.

A question gives a clinical term (an inclusion term of an ICD-10-CM code) and a few candidate lines of title and
code, one of which fits. Train and held-out questions share neither a three-character category nor a template.
"""

import re
from dataclasses import dataclass
from functools import cache

import numpy as np

SYSTEM = "You are a medical coder."
TRAIN_TEMPLATES = (
    "Which code fits the term?\nTerm: {term}\n{lines}",
    'Pick the ICD-10-CM code for "{term}".\n{lines}',
    "{lines}\nThe note says: {term}. Which line is right?",
    "Code this diagnosis: {term}\nCandidates:\n{lines}",
)
HELDOUT_TEMPLATES = (
    'Choose the right code for the entry "{term}" from this list:\n{lines}',
    "Candidates:\n{lines}\nA doctor wrote: {term}\nFind the code.",
)
LINE = "{title}: {code}"
ANSWER = '"{term}" matches {title}: {code}.'
HELDOUT_SHARE = 0.2  # of the three-character categories


@dataclass(frozen=True)
class Entry:
    term: str
    title: str
    code: str


@dataclass(frozen=True)
class Question:
    messages: list[dict]
    answer: str
    code: str


def make_questions(split: str, count: int, candidates: int, seed: int) -> list[Question]:
    """Draw questions of a split, deterministically.

    Raises:
      ValueError: if split is not "train" or "heldout", count is below 1, or candidates is not between 2 and 10.
    """
    if split not in ("train", "heldout"):
        raise ValueError(f"split {split!r}: allowed are 'train', 'heldout'")
    if count < 1:
        raise ValueError(f"data.NAME.count = {count}: builtin:icd10 makes as many questions as asked for, at least 1")
    if not 2 <= candidates <= 10:
        raise ValueError(f"icd10.candidates = {candidates}: allowed is 2 to 10")
    entries = _entries(split)
    templates = TRAIN_TEMPLATES if split == "train" else HELDOUT_TEMPLATES
    rng = np.random.default_rng((seed, split == "train"))
    order = np.concatenate([rng.permutation(len(entries)) for _ in range(-(-count // len(entries)))])
    return [_question(entries, entries[i], templates, candidates, rng) for i in order[:count]]


def exact_match(response: str, code: str) -> bool:
    """True if the response is of the fixed form `"term" matches title: X.` and X is the code."""
    found = re.search(r'^".+" matches .+: (\S+?)\.?\s*$', response)
    return found is not None and found.group(1) == code


def _question(entries, entry, templates, candidates, rng) -> Question:
    chosen = [entry]
    while len(chosen) < candidates:
        other = entries[rng.integers(len(entries))]
        # Another letter (nearly always another chapter) and no word in common: a reader must find one answer.
        if other.code[0] not in {c.code[0] for c in chosen} and not set(_stems(other.title)) & set(_stems(entry.term)):
            chosen.append(other)
    lines = "\n".join(LINE.format(title=chosen[i].title, code=chosen[i].code) for i in rng.permutation(candidates))
    text = templates[rng.integers(len(templates))].format(term=entry.term, lines=lines)
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
    return Question(messages, ANSWER.format(term=entry.term, title=entry.title, code=entry.code), entry.code)


@cache
def _entries(split: str) -> list[Entry]:
    """The inclusion terms of a split's categories that can be told by reading."""
    import simple_icd_10_cm as icd  # reads its tables on import

    entries = []
    codes = [c for c in icd.get_all_codes(True) if icd.is_category_or_subcategory(c)]
    categories = sorted({c[:3] for c in codes})
    held_out = set(np.random.default_rng(0).permutation(categories)[: int(len(categories) * HELDOUT_SHARE)].tolist())
    for code in codes:
        if (code[:3] in held_out) != (split == "heldout"):
            continue
        title = icd.get_description(code)
        for term in icd.get_inclusion_term(code):
            short = "classifiable" not in term and len(term) <= 40 and len(title) <= 40
            if short and term.lower() != title.lower() and _answers_by_reading(term, title):
                entries.append(Entry(term, title, code))
    return entries


def _answers_by_reading(term: str, title: str) -> bool:
    """At least half of the term's words, and the title's first word, stand in both."""
    ours, theirs = _stems(term), _stems(title)
    return bool(theirs) and 2 * len(set(ours) & set(theirs)) >= len(ours) and theirs[0] in ours


def _stems(text: str) -> list[str]:
    return [word[:5] for word in re.findall(r"[a-z]{4,}", text.lower())]
