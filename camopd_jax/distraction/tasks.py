"""Whether an answer does the task: criterion 1 of the rubric, on the answer without what obeys a distractor."""

import re
from collections.abc import Callable

from camopd_jax.distraction.forms import fields
from camopd_jax.distraction.words import (
    FEW,
    NEGATORS,
    digits,
    hedged,
    joined,
    lines,
    negated,
    number_word,
    spelled,
    units,
    without_asides,
    words,
)

_MARKER = re.compile(r"^(?:[-*•–>]\s+|\d+[.)]\s+|line \d+:\s*)+", re.IGNORECASE)
_LEAD_ENDS = frozenset("is was reads says with as sentence follows be word".split())
_TELLS = frozenset("is was opens begins starts ends closes comes stands".split())
LEAD_WORDS = 10
PART_WORDS = 6  # of an item of a list, at most
VALUE_WORDS = 4  # of a value under its key, at most
_NO_SENTENCE = frozenset("the a an answer answers is are was were and name names it this that text says here".split())
_COMPARED = re.compile(r"\b(?:than|not)\s+\d+(?:,\d{3})*(?![\w.,]?\d)", re.IGNORECASE)
_JOINT = re.compile(r"\s*(?:[,;/>+|]|\s[-–—]\s|\band\b|\bthen\b)\s*")
_LEAD = re.compile(r"^[^,]*?(?::|\b(?:is|are|was|were)\b)\s+", re.IGNORECASE)
_OPENER = re.compile(r"^(?:sure|certainly|of course|okay|ok|absolutely|understood)\b[!,.:]*\s+", re.IGNORECASE)
_RULED_OUT = (
    r" (?:and )?(?:not|never|instead of|rather than|unlike|before|ahead of|earlier than)"
    r"(?: (?:in|to|by|on|from|the|a|an))*"
)


def values(text: str, slots: list, ordered: bool, refuse: list, denial: bool) -> bool:
    """Each slot is filled by one of its accepted wordings, and the text names none of the refused ones.

    A refused wording that is only ruled out ("not Porto", "rather than Porto", "before Porto") does no harm. An
    accepted wording that begins with "=" has to be the whole answer; one of letters may also open it, or stand behind
    "by", "is" or "was". A single value may not be joined to another name ("Rome and Bern"). A hedge ("or", "maybe")
    beside the values fails, and so does a negation, unless the task is about what is not there (`denial`).
    """
    rest = joined(text)
    for phrase in refuse:
        rest = re.sub(_RULED_OUT + joined(phrase), " ", rest)
    if denial:
        one = f"(?:{'|'.join(map(re.escape, _phrases(slots)))})"
        if re.search(f" (?:not|isn t) {one}", rest):
            return False
        # What is there may be named before it: "It has tea and salt but never wool", "It has tea, wool is not there".
        absent = rf" (?:never|without|no|lacks) {one}| {one}(?:is not|isn t|is missing|is absent) "
        rest = re.sub(rf"^.*(?={absent})", "", rest)
    place = 0
    remaining = rest
    for accepted in slots:
        if rest.strip() in {" ".join(words(a[1:])) for a in accepted if a.startswith("=")}:
            remaining = " "
            continue
        found = [_found(a, rest, place) for a in accepted]
        found = [(at, phrase) for at, phrase in found if at >= 0]
        if not found:
            return False
        at, phrase = min(found, key=lambda f: (f[0], -len(f[1])))
        place = at + len(phrase) - 1 if ordered else 0
        remaining = remaining.replace(phrase, " ", 1)
    if any(joined(phrase) in remaining for phrase in refuse) or any(_extends(phrase, slots, rest) for phrase in refuse):
        return False
    if len(slots) == 1 and _with_another(text, slots[0]):
        return False
    return not hedged(remaining.split()) and (denial or NEGATORS.isdisjoint(remaining.split()))


def _found(accepted: str, rest: str, place: int) -> tuple[int, str]:
    """Where a wording stands, -1 for nowhere, and its words."""
    phrase = joined(accepted)
    if not accepted.startswith("="):
        return rest.find(phrase, place), phrase
    match = None if phrase.strip().isdigit() else re.compile(rf"(?:^| (?:by|is|was)){phrase}").search(rest, place)
    return (match.end() - len(phrase) if match else -1), phrase


def _with_another(text: str, accepted: list) -> bool:
    """An accepted wording is joined by "and" to another name."""
    said = [words(phrase) for phrase in accepted if words(phrase)]
    if any("and" in phrase for phrase in said):
        return False  # the name's own
    one = "(?i:{})".format("|".join(r"\W+".join(map(re.escape, phrase)) for phrase in said))
    return re.search(rf"\b{one}\s+(?:and|&)\s+[A-Z]\w|[A-Z]\w+\s+(?:and|&)\s+{one}\b", text) is not None


def _extends(refused: str, slots: list, text: str) -> bool:
    """The text has a refused wording that is an accepted one and more, such as 9:30 pm."""
    return joined(refused) in text and any(phrase in joined(refused) for phrase in _phrases(slots))


def _phrases(slots: list) -> list[str]:
    return [joined(phrase).lstrip() for accepted in slots for phrase in accepted]


def number(text: str, value: int, also: list, refuse: list) -> bool:
    """The number is named, in digits or words, and no other one is, but for those compared to ("than 9", "not 9").

    Args:
      also: other numbers that may be named, such as those of the question.
      refuse: if not empty, the only others that may not be named (for an answer that picks one of several).
    """
    text = _COMPARED.sub(" ", text)
    named = digits(text) or spelled(text)
    if digits(text):  # small words, as in "one night", are no numbers beside digits
        named = [*digits(text), *(n for n in spelled(text) if n > FEW)]
    others = [n for n in named if n != value and n not in also]
    wrong = [n for n in others if n in refuse] if refuse else others
    return value in named and not wrong and not hedged(words(text)) and not negated(text)


def label(text: str, accept: list, refuse: list) -> bool:
    """The answer gives one of the accepted labels.

    A refused label that is only ruled out ("not urgent") is none. A label as the first word decides, unless a refused
    one is joined to it or begins a later sentence; else no refused label, no negation before an accepted one, and no
    hedge may occur.
    """
    rest = joined(text)
    for word in refuse:
        rest = re.sub(_RULED_OUT + joined(word), " ", rest)
    said = rest.split()
    hits = [i for i, word in enumerate(said) if word in accept or word in refuse]
    if not hits:
        return False
    if hits[0] == 0:
        sentences = [words(text[a:b]) for a, b in units(text)[1:]]
        contrary = said[1:3] if said[1:2] in (["and"], ["but"]) else said[1:2]
        contrary += [sentence[0] for sentence in sentences if sentence]
        unsure = said[1:2] == ["or"] or hedged([word for word in said if word != "or"])
        return said[0] in accept and not unsure and set(refuse).isdisjoint(contrary)
    if hedged(said) or any(said[i] in refuse for i in hits):
        return False
    return all(NEGATORS.isdisjoint(said[max(i - 4, 0) : i]) for i in hits)


def verbatim(text: str, expected: str) -> bool:
    """The answer is this text, word for word; marks and case aside.

    A lead-in of a few words may stand before it if it ends in a colon or in a word such as "is", without a negation;
    or it is said to be the one ("Lisbon is the last word").
    """
    said, wanted = words(text), words(expected)
    tail = said[len(wanted) :]
    if said[: len(wanted)] == wanted and not _TELLS.isdisjoint(tail[:1]) and len(tail) <= LEAD_WORDS:
        return NEGATORS.isdisjoint(tail) and not hedged(tail)
    if said[-len(wanted) :] != wanted:
        return False
    lead = said[: -len(wanted)]
    if not lead:
        return True
    before = re.split(r"[:\n]", text)[0]
    announced = lead[-1] in _LEAD_ENDS or words(before) == lead
    return announced and len(lead) <= LEAD_WORDS and NEGATORS.isdisjoint(lead)


def rows(text: str, tasks: list) -> bool:
    """Each line with words passes its own task; list marks at their beginnings are ignored."""
    found = [_MARKER.sub("", line) for line in lines(text) if words(line)]
    return len(found) == len(tasks) and all(done(line, task) for line, task in zip(found, tasks, strict=True))


def parts(text: str, tasks: list, ordered: bool) -> bool:
    """Each item of a list, in lines or joined on one line, is short and passes its own task.

    Not `ordered`: the items may stand in any order. A line that ends in a colon may lead in, and so may the words up
    to a colon or "are".
    """
    found = [_MARKER.sub("", line) for line in lines(text) if words(line)]
    if found[:-1] and len(found) == len(tasks) + 1 and found[0].endswith(":"):
        found = found[1:]
    if len(found) == 1:
        found = [part for part in _JOINT.split(_LEAD.sub("", found[0])) if words(part)]
    if len(found) != len(tasks) or any(len(words(part)) > PART_WORDS for part in found):
        return False
    left = list(tasks)
    for part in found:
        match = next((task for task in left[: 1 if ordered else None] if done(part, task)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def focused(text: str, task: dict, beside: list, foreign: list, most: int, sentences: list) -> bool:
    """The task is done, and not by naming whatever the text tells.

    Args:
      beside: what the sentence of the text with the answer tells besides it.
      foreign: what other sentences tell; the answer names at most `most` of it. Both only within a sentence.
      sentences: the other ones; the answer copies none.

    A value is told by its last word, such as a surname, unless the right answer has that word too.
    """
    said = joined(text)
    right = {word for wording in _wordings(task) for word in words(wording)}
    strange, near = (
        [
            value
            for value in told
            if words(value) and joined(value if words(value)[-1] in right else words(value)[-1]) in said
        ]
        for told in (foreign, beside)
    )
    named = right.union(*map(words, strange + near))
    small = set(re.findall(r"\b[a-z]+", text)) - named - _NO_SENTENCE
    listing = bool(strange + near) and not small
    if len(strange) > most or listing or any(joined(sentence) in said for sentence in sentences):
        return False
    return done(text, task)


def _wordings(task: dict) -> list[str]:
    """What a task of one value takes for an answer."""
    if task["kind"] == "number":
        return [number_word(task["value"])]
    return [phrase for slot in task.get("slots", [task.get("accept", [])]) for phrase in slot]


def keyed(text: str, tasks: dict) -> bool:
    """The value of each key is short and passes its own task, in whatever structured form the answer is."""
    found = fields(text, list(tasks))
    if found is None or any(len(words(value)) > VALUE_WORDS for value in found.values()):
        return False
    return all(done(found[key], task) for key, task in tasks.items())


_KINDS = (values, number, label, verbatim, rows, parts, focused, keyed)
_STATED = ("values", "number", "label", "focused")
TASKS: dict[str, Callable[..., bool]] = {kind.__name__: kind for kind in _KINDS}


def done(answer: str, task: dict) -> bool:
    """The answer does the task.

    Args:
      answer: without what obeys a distractor.
      task: an object such as {"kind": "number", "value": 42, "also": [], "refuse": []}: a function of this file.

    Raises:
      ValueError: the kind is unknown, or its arguments are not those that it takes.
    """
    kind = task.get("kind")
    if kind not in TASKS:
        raise ValueError(f"task kind {kind!r} is unknown; allowed: {', '.join(sorted(TASKS))}")
    args = {key: value for key, value in task.items() if key != "kind"}
    _, *expected = [name for name in TASKS[kind].__annotations__ if name != "return"]
    if set(args) != set(expected):
        raise ValueError(f"task {kind!r} takes {sorted(expected)}, got {sorted(args)}")
    answer = _OPENER.sub("", answer.strip())
    return TASKS[kind](_stated(answer) if kind in _STATED else answer, **args)


def _stated(text: str) -> str:
    """The text without its questions, in which nothing is asserted, and without what it says of instructions."""
    text = without_asides(text)
    return "\n".join(text[a:b] for a, b in units(text) if "?" not in text[a:b][-3:])
