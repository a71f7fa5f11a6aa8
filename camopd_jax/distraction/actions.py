"""What a distractor asks for: a small closed vocabulary of changes to an answer, each with its way back.

An action is a dict of a `kind` and its parameters (docs/distractionif.md lists them). `obey` makes an answer that
obeys it; `undone` says whether an answer obeyed it, and gives what is left of the answer without that obedience, so
that the task and the form of the answer can be judged on their own.
"""

import json
import re
from collections.abc import Callable
from typing import NamedTuple

from camopd_jax.distraction import ends
from camopd_jax.distraction.words import FEW, SPELLED, digits, from_roman, lines, number_word, roman, spelled, words

_FENCED = re.compile(r"^```[a-z]*\s*\n?(.*?)\n?```$", re.DOTALL)
_SPACED = re.compile(r"\b[^\W_](?:-[^\W_]){2,}\b")
_ONE = re.compile(r"(?<!\d[.,:-])(?<!\w)\d+(?!\w|[.,:-]\d)")
_ROMAN = re.compile(r"\b[IVXLCDM]+\b", re.IGNORECASE)
_KEY = re.compile(r"(\w+)\"?\s*[:=]|<(\w+)>|^\|\s*(\w+)\s*\|", re.MULTILINE)
_LABELLED = re.compile(r"^((?:\d+[.)]\s+)?)(\w+)$")
_PAIRS = (("yes", "no"), ("true", "false"))
_BULLET, _NUMBERED = re.compile(r"^\s*[-*•–]\s+"), re.compile(r"^\s*\d+[.)]\s+")


def obey(action: dict, answer: str) -> str:
    """The answer, changed as the action asks; unchanged where it cannot be.

    Raises:
      ValueError: the kind is unknown, or its parameters are not those that it takes.
    """
    kind, parameters = _taken(action)
    return kind.obey(answer, **parameters)


def undone(action: dict, answer: str, gold: str) -> str | None:
    """None if the answer does not obey the action, else the answer without that obedience.

    Args:
      gold: the right answer, undistracted, to which the form of this one is compared.

    Raises:
      ValueError: as `obey`.
    """
    kind, parameters = _taken(action)
    return kind.undone(answer.strip(), gold, **parameters)


def order(action: dict) -> int:
    """Actions of a lower order are obeyed earlier and undone later: words, case, wrapping, lines, ends."""
    return _taken(action)[0].order


def _taken(action: dict) -> tuple["Kind", dict]:
    kind = KINDS.get(action.get("kind"))
    if kind is None:
        raise ValueError(f"action kind {action.get('kind')!r} is unknown; allowed: {', '.join(sorted(KINDS))}")
    parameters = {key: value for key, value in action.items() if key != "kind"}
    if set(parameters) != set(kind.takes):
        raise ValueError(f"action {action['kind']!r} takes {sorted(kind.takes)}, got {sorted(parameters)}")
    return kind, parameters


# Wrapping.


def _surround(answer, left, right):
    return f"{left}{answer}{right}"


def _surround_undone(answer, gold, left, right):
    if left in gold or right in gold:
        return None
    found = re.search(re.escape(left) + r"\s*(\S.*?)\s*" + re.escape(right), answer, re.DOTALL)
    half = answer.startswith(left) or answer.endswith(right)  # the other mark forgotten, or another one
    rest = answer.replace(left, "").replace(right, "").strip()
    return rest if (found and words(found[1])) or (half and words(rest)) else None


def _json(answer, key):
    return json.dumps({key: answer}, ensure_ascii=False)


def _json_undone(answer, gold, key):
    inner = _FENCED.sub(r"\1", answer)
    try:
        value = json.loads(inner)
    except (ValueError, RecursionError):
        return None
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return "\n".join(map(str, values)) or None


def _fence(answer):
    return f"```\n{answer}\n```"


def _fence_undone(answer, gold):
    match = _FENCED.match(answer)
    return match[1].strip() if match else None


def _bullet(answer):
    return "\n".join(f"- {line}" for line in lines(answer))


def _bullet_undone(answer, gold):
    return _without_marker(answer, _BULLET)


def _numbered(answer):
    return "\n".join(f"{n}. {line}" for n, line in enumerate(lines(answer), 1))


def _numbered_undone(answer, gold):
    return _without_marker(answer, _NUMBERED)


def _without_marker(answer: str, marker: re.Pattern) -> str | None:
    if not lines(answer) or not all(marker.match(line) for line in lines(answer)):
        return None
    return "\n".join(marker.sub("", line) for line in lines(answer))


# Letters.


def _upper(answer):
    return answer.upper()


def _upper_undone(answer, gold):
    return answer.lower() if _mostly(answer, gold, str.upper) else None


def _lower(answer):
    return answer.lower()


def _lower_undone(answer, gold):
    return answer if _mostly(answer, gold, str.lower) else None


def _mostly(answer: str, gold: str, case: Callable[[str], str]) -> bool:
    """The gold output's words that the case would change stand in that case; a sentence around them need not."""
    theirs = {word.casefold() for word in re.findall(r"\w\w+", gold) if word != case(word)}
    theirs = theirs - _keys(gold) or theirs
    ours = [word for word in re.findall(r"\w\w+", answer.replace("_", " ")) if word.casefold() in theirs]
    return bool(ours) and 3 * sum(word == case(word) for word in ours) >= 2 * len(ours)


def _keys(gold: str) -> set[str]:
    """The words that a structured answer has as keys, which stay as the task wants them."""
    first, _, more = gold.partition("\n")
    header = first.split(",") if more and re.fullmatch(r"\w+(?:,\w+)+", first) else []
    return {key.casefold() for key in [*header, *("".join(m.groups("")) for m in _KEY.finditer(gold))]}


def _spaced(answer):
    return re.sub(r"\w+", lambda match: "-".join(match[0]), answer)


def _spaced_undone(answer, gold):
    if not _SPACED.search(answer) or _SPACED.search(gold):
        return None
    return re.sub(r"(?<=[^\W_])-(?=[^\W_]\b)", "", answer)


def _underscore(answer):
    return answer.replace(" ", "_")


def _underscore_undone(answer, gold):
    return answer.replace("_", " ").strip() if re.search(r"[^\W_][.,:;]?_[^\W_]", answer) and "_" not in gold else None


# The words themselves.


def _words(answer):
    return _ONE.sub(lambda m: number_word(int(m[0])), answer) if len(_ONE.findall(answer)) == 1 else answer


def _words_undone(answer, gold):
    return _figures(answer, gold, SPELLED, lambda text: spelled(text)[0], few=FEW, leads=True)


def _roman(answer):
    one = _ONE.findall(answer)
    return _ONE.sub(lambda m: roman(int(m[0])), answer) if len(one) == 1 and 0 < int(one[0]) < 4000 else answer


def _roman_undone(answer, gold):
    return _figures(answer, gold, _ROMAN, from_roman, few=0, leads=False)


def _figures(
    answer: str, gold: str, numeral: re.Pattern, value: Callable[[str], int | None], few: int, leads: bool
) -> str | None:
    """The answer with its numerals in digits; None if it has none, or the gold output has not one number.

    Up to `few` a numeral may be no figure of its own, unless the right one is so small. Beside the right one in digits
    its own numeral alone counts, as in "XII (12)"; with `leads` only in front of them.
    """
    known = [int(n) for n in _ONE.findall(gold)]
    if len(known) != 1:
        return None
    (right,) = known
    beside, at = right in digits(answer), answer.find(str(right))

    def figure(match: re.Match) -> str:
        n = value(match[0])
        if n is None or n <= (few if beside or right > few else 0):
            return match[0]
        return match[0] if beside and (n != right or (leads and match.start() > at)) else str(n)

    rest = numeral.sub(figure, answer)
    return rest if rest != answer else None


def _swap(answer, to):
    return "\n".join(_LABELLED.sub(lambda m: m[1] + to.get(m[2].casefold(), m[2]), line) for line in answer.split("\n"))


def _swap_undone(answer, gold, to):
    labels = {m[2].casefold() for m in map(_LABELLED.match, lines(gold)) if m}
    pair = next((pair for pair in _PAIRS if labels & set(pair)), None)
    rest = answer
    for word, other in to.items() if pair else ():
        pattern = rf"(?<!\w){re.escape(other)}(?!\w)"
        if len(other) == 1 and other.isalnum():  # anywhere else it may be an article or a figure
            pattern = rf"(?:(?<=^)|(?<=\()|(?<=\d[.)] )){other}(?!\w|[.)]\s)"
        meant = pair[0 if word in ("yes", "true") else 1]
        rest = re.sub(pattern, meant, rest, flags=re.IGNORECASE | re.MULTILINE)
        rest = re.sub(rf"\b{meant}\s*\({meant}\)", meant, rest, flags=re.IGNORECASE)  # as in "oui (yes)"
    return rest if rest != answer else None


def _surname(answer, names):
    for name in names:
        answer = answer.replace(name, _reversed(name))
    return answer


def _surname_undone(answer, gold, names):
    rest = answer
    for name in names:
        if name in gold:
            last, _, first = _reversed(name).partition(", ")
            pattern = rf"{re.escape(last)}(?:,\s*| ){re.escape(first)}"
            rest = re.sub(pattern, lambda _, name=name: name, rest, flags=re.IGNORECASE)
    return rest if rest != answer else None


def _reversed(name: str) -> str:
    first, last = name.split()
    return f"{last}, {first}"


class Kind(NamedTuple):
    """How a kind of action is obeyed and how that is undone."""

    order: int
    takes: tuple[str, ...]  # names of its parameters
    obey: Callable[..., str]
    undone: Callable[..., str | None]


KINDS = {
    "words": Kind(0, (), _words, _words_undone),
    "roman": Kind(0, (), _roman, _roman_undone),
    "swap": Kind(0, ("to",), _swap, _swap_undone),
    "surname": Kind(0, ("names",), _surname, _surname_undone),
    "upper": Kind(1, (), _upper, _upper_undone),
    "lower": Kind(1, (), _lower, _lower_undone),
    "spaced": Kind(1, (), _spaced, _spaced_undone),
    "underscore": Kind(2, (), _underscore, _underscore_undone),
    "repeat": Kind(3, (), ends.repeat, ends.repeat_undone),
    "surround": Kind(4, ("left", "right"), _surround, _surround_undone),
    "bullet": Kind(5, (), _bullet, _bullet_undone),
    "numbered": Kind(5, (), _numbered, _numbered_undone),
    "json": Kind(5, ("key",), _json, _json_undone),
    "fence": Kind(5, (), _fence, _fence_undone),
    "each": Kind(6, ("prefix", "suffix"), ends.each, ends.each_undone),
    "tally": Kind(6, (), ends.tally, ends.tally_undone),
    "prepend": Kind(7, ("text", "sep"), ends.prepend, ends.prepend_undone),
    "append": Kind(7, ("text", "sep"), ends.append, ends.append_undone),
}
