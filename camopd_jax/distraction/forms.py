"""Whether the form that a main instruction asks for is intact, and the values that a structured answer holds.

All checks ignore case: an answer in capitals is one distractor's matter, not the form's.
"""

import itertools
import json
import re
from collections.abc import Callable

from camopd_jax.distraction.words import lines, units, words
from camopd_jax.evals import checks

_FENCED = re.compile(r"^```[a-z]*\s*\n?(.*?)\n?```$", re.DOTALL)
_STRUCTURE = re.compile(r"^\s*(?:[-*•–]\s|\d+[.)]\s|[{#|<]|\[\[|```|>\s)")
_LEAD = re.compile(r"^[^,]*?(?::|\b(?:is|are|was|were)\b)\s+", re.IGNORECASE)
_DIVIDER = re.compile(r"^[|\s:-]+$")


def unfenced(text: str) -> str:
    """The text without a code fence around the whole of it."""
    match = _FENCED.match(text.strip())
    return match[1].strip() if match else text.strip()


def plain_line(text: str, n: int) -> bool:
    """One line of at most two sentences and n words; no list mark, heading, JSON or markup at its start, no table."""
    plain = not _STRUCTURE.match(text) and " | " not in text
    return len(lines(text)) == 1 and len(units(text)) <= 2 and 0 < len(words(text)) <= n and plain


def dashes(text: str, n: int) -> bool:
    """Exactly n lines begin with a dash and a blank."""
    return sum(re.match(r"[-–—]\s+\w", line) is not None for line in lines(text)) == n


def line_count(text: str, n: int, most: int) -> bool:
    """Exactly n lines, each of 1 to `most` words, and no code fence."""
    return "```" not in text and len(lines(text)) == n and all(0 < len(words(line)) <= most for line in lines(text))


def worded(text: str, n: int) -> bool:
    """At least n words begin with a small letter, as in a sentence and not in a list of names and numbers."""
    return len(re.findall(r"(?<!\w)[a-z]\w*", text)) >= n


def series(text: str, n: int) -> bool:
    """One line with n items of one to six words between commas or "and"; a lead-in ends in a colon, "is" or "are"."""
    items = [part for part in re.split(r",\s*(?:and\s+)?|\s+and\s+", _LEAD.sub("", text.strip())) if part.strip()]
    return len(lines(text)) == 1 and len(items) == n and all(0 < len(words(item)) <= 6 for item in items)


def begins(text: str, opening: str) -> bool:
    """The answer begins with these words and marks; blanks, bold, code and quote marks aside."""
    return _bare(text).startswith(_bare(opening)) and _bare(text) != _bare(opening)


def holds(text: str, part: str) -> bool:
    """These characters occur in the answer."""
    return part.casefold() in text.casefold()


def enclosed(text: str, left: str, right: str) -> bool:
    """A part with words in it stands between left and right."""
    found = re.search(re.escape(left) + r"([^()\[\]]*)" + re.escape(right), text)
    return found is not None and bool(words(found[1]))


def joined_by(text: str, joint: str, n: int) -> bool:
    """One line whose n parts stand between joints; blanks around a joint do not matter."""
    parts = text.strip().split(joint.strip())
    return len(lines(text)) == 1 and len(parts) == n and all(words(part) for part in parts)


def json_keys(text: str, keys: list) -> bool:
    """The whole answer, a code fence aside, is a JSON object with exactly these keys, each with a single value."""
    value = _object(text)
    return (
        value is not None
        and {key.casefold() for key in value} == {key.casefold() for key in keys}
        and not any(isinstance(v, dict | list) or v is None for v in value.values())
    )


def csv(text: str, keys: list) -> bool:
    """A header line of these keys in order, and one line of as many values."""
    rows = [_cells(line) for line in lines(unfenced(text))]
    return len(rows) == 2 and [cell.casefold() for cell in rows[0]] == keys and len(rows[1]) == len(keys)


def table(text: str, keys: list) -> bool:
    """A Markdown table of two columns, with a header, a divider and one row for each key."""
    rows = [line for line in lines(unfenced(text)) if line.startswith("|") or "|" in line]
    if len(rows) != len(lines(unfenced(text))) or len(rows) != len(keys) + 2 or not _DIVIDER.match(rows[1]):
        return False
    cells = [[c.strip().casefold() for c in row.strip("|").split("|")] for row in rows]
    return all(len(row) == 2 for row in cells) and [row[0].strip("*` ") for row in cells[2:]] == keys


def elements(text: str, keys: list) -> bool:
    """One XML element per line and key, in any order, and nothing else."""
    found = [re.fullmatch(r"<(\w+)>\s*[^<>]*\w[^<>]*</(\w+)>", line) for line in lines(unfenced(text))]
    if not all(found) or any(m[1].casefold() != m[2].casefold() for m in found):
        return False
    return sorted(m[1].casefold() for m in found) == sorted(keys)


def pairs(text: str, keys: list, joint: str) -> bool:
    """One line `key joint value` per key, in any order, and nothing else."""
    rows = [line.partition(joint) for line in lines(unfenced(text))]
    named = sorted(key.strip("*` ").casefold() for key, _, _ in rows)
    return named == sorted(key.casefold() for key in keys) and all(words(value) for _, _, value in rows)


def fields(text: str, keys: list) -> dict[str, str] | None:
    """The value that an answer of any of the forms above gives for each key; None if one is not to be found."""
    wanted = [key.casefold() for key in keys]
    for found in (_of_object(text), _of_csv(text, wanted), _of_elements(text), _of_rows(text), _of_lines(text, wanted)):
        if set(wanted) <= set(found):
            return {key: found[key.casefold()] for key in keys}
    return None


def _object(text: str) -> dict | None:
    try:
        value = json.loads(unfenced(text))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _of_object(text):
    found = re.search(r"{.*}", text, re.DOTALL)
    value = _object(found[0]) if found else None
    return {key.casefold(): str(value) for key, value in (value or {}).items()}


def _of_csv(text, wanted):
    rows = [_cells(line) for line in lines(text)]
    for header, values in itertools.pairwise(rows):
        if sorted(cell.casefold() for cell in header) == sorted(wanted) and len(header) == len(values):
            return dict(zip((cell.casefold() for cell in header), values, strict=True))
    return {}


def _of_elements(text):
    return {m[1].casefold(): m[2] for m in re.finditer(r"<(\w+)>([^<>]*)</\w+>", text)}


def _of_rows(text):
    cells = [[c.strip().strip("*`") for c in line.strip("|").split("|")] for line in lines(text) if "|" in line]
    return {row[0].casefold(): row[1] for row in cells if len(row) == 2}


def _of_lines(text, wanted):
    found = {}
    for key in wanted:
        match = re.search(rf"(?<!\w){re.escape(key)}[\"'*`]*\s*[:=]\s*(.+)", text, re.IGNORECASE)
        if match:
            found[key] = match[1]
    return found


def _cells(line: str) -> list[str]:
    return [cell.strip().strip('"') for cell in line.split(",")]


def _bare(text: str) -> str:
    return re.sub(r"[\s*\"“”`]+", " ", text.casefold()).strip()


_OWN = (
    plain_line,
    dashes,
    worded,
    line_count,
    series,
    begins,
    holds,
    enclosed,
    joined_by,
    json_keys,
    csv,
    table,
    elements,
    pairs,
)
FORMS: dict[str, Callable[..., bool]] = {form.__name__: form for form in _OWN}


def intact(text: str, form: list[dict]) -> bool:
    """All requirements of the form hold.

    Args:
      text: the answer, without what obeys a distractor.
      form: objects such as {"kind": "plain_line", "n": 20}: a function of this file, or a check of evals/checks.py.

    Raises:
      ValueError: a kind is unknown, or its arguments are not those that it takes.
    """
    return all([_holds(text, requirement) for requirement in form])


def chatty(form: list[dict]) -> bool:
    """The form leaves room for a word about something else behind the answer."""
    return {requirement.get("kind") for requirement in form} <= {"plain_line", "begins", "enclosed"}


def _holds(text: str, requirement: dict) -> bool:
    kind = requirement.get("kind")
    if kind not in FORMS:
        return checks.passes(text, [requirement])
    args = {key: value for key, value in requirement.items() if key != "kind"}
    expected = {name for name in FORMS[kind].__annotations__ if name not in ("text", "return")}
    if set(args) != expected:
        raise ValueError(f"form {kind!r} takes {sorted(expected)}, got {sorted(args)}")
    return FORMS[kind](text, **args)
