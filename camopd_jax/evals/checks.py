"""Programmatic checks of an answer's content and form, for the offline instruction-following task.

A check is a pure function of the answer and of the arguments that the prompt file gives. Surrounding whitespace
matters to the fixed form of icd10_code alone, words match whole and without regard to case, and an empty answer
passes no check.
"""

import json
import re
from collections.abc import Callable

from camopd_jax import icd10

_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_BULLET = re.compile(r"[-*+•–]\s+\S")
_NUMBERED = re.compile(r"(\d+)[.)]\s+\S")
_MARKER = re.compile(r"^(?:[-*+•–]|\d+[.)])\s+")
# The point of a title, an initial or "e.g." ends no sentence, so it is removed before sentences are counted.
_ABBREVIATION = re.compile(r"\b(Mr|Mrs|Ms|Dr|St|Mt|vs|[A-Za-z])\.")
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]*]*(?:\s+|$)")
# A digit glued to a letter, as in a code such as B12.3, is no number of its own.
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?")
_FENCE = re.compile(r"^```(?:json)?\s*(.*?)\s*```$", re.DOTALL)
_UNITS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_CRITERION = re.compile(r"\w[\w -]{0,29}")
_QUOTES = "\"'“”‘’"


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _count(text: str, phrase: str) -> int:
    inner = r"\s+".join(re.escape(part) for part in phrase.split())
    return len(re.findall(rf"(?<!\w){inner}(?!\w)", text, re.IGNORECASE))


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _sentences(text: str) -> list[str]:
    parts = []
    for line in _lines(text):
        parts += _SENTENCE_END.split(_ABBREVIATION.sub(r"\1", _MARKER.sub("", line)))
    return [part for part in parts if _words(part)]


def mentions_any(text: str, words: list) -> bool:
    """At least one of the words or phrases occurs."""
    return any(_count(text, word) for word in words)


def mentions_all(text: str, words: list) -> bool:
    """Every one of the words or phrases occurs."""
    return all(_count(text, word) for word in words)


def avoids(text: str, words: list) -> bool:
    """None of the words or phrases occurs."""
    return bool(_words(text)) and not mentions_any(text, words)


def repeats(text: str, word: str, n: int) -> bool:
    """The word occurs at least n times."""
    return _count(text, word) >= n


def min_words(text: str, n: int) -> bool:
    """The answer has at least n words."""
    return len(_words(text)) >= n


def max_words(text: str, n: int) -> bool:
    """The answer has at most n words."""
    return 0 < len(_words(text)) <= n


def words_between(text: str, low: int, high: int) -> bool:
    """The answer has at least low and at most high words."""
    return max(low, 1) <= len(_words(text)) <= high


def max_sentences(text: str, n: int) -> bool:
    """The answer has at most n sentences; a line break ends a sentence too."""
    return 0 < len(_sentences(text)) <= n


def exact_sentences(text: str, n: int) -> bool:
    """The answer has exactly n sentences; a line break ends a sentence too."""
    return len(_sentences(text)) == n


def bullets(text: str, n: int) -> bool:
    """Exactly n lines begin with a bullet mark."""
    return bool(_words(text)) and sum(_BULLET.match(line) is not None for line in _lines(text)) == n


def numbered(text: str, n: int) -> bool:
    """The numbered lines are exactly 1 to n, in order."""
    found = [match[1] for line in _lines(text) if (match := _NUMBERED.match(line))]
    return bool(_words(text)) and found == [str(i) for i in range(1, n + 1)]


def paragraphs(text: str, n: int) -> bool:
    """The answer has exactly n blocks of text with blank lines between them."""
    return sum(bool(_words(block)) for block in re.split(r"\n\s*\n", text)) == n


def title_line(text: str) -> bool:
    """The first line is a title (up to ten words, no list mark, no final point or comma) above other text."""
    lines = _lines(text)
    if len(lines) < 2 or _MARKER.match(lines[0]):
        return False
    title = lines[0].strip("*#_ " + _QUOTES)
    return 0 < len(_words(title)) <= 10 and title[-1] not in ".,;:"


def lowercase(text: str) -> bool:
    """The answer has letters and no capital among them."""
    return text.islower()


def uppercase(text: str) -> bool:
    """The answer has letters and all of them are capitals."""
    return text.isupper()


def starts_with(text: str, prefix: str) -> bool:
    """The first words are the prefix; case and an opening quote mark are ignored."""
    opening = _words(prefix)
    return _words(text)[: len(opening)] == opening


def begins(text: str, opening: str) -> bool:
    """The first characters are the opening, its marks included; case is ignored."""
    return bool(_words(text)) and text.strip().casefold().startswith(opening.casefold())


def ends_with(text: str, suffix: str) -> bool:
    """The last words are the suffix; case and closing punctuation are ignored."""
    closing = _words(suffix)
    return _words(text)[-len(closing) :] == closing


def ends_question(text: str) -> bool:
    """The last character, quote marks aside, is a question mark."""
    return text.strip().rstrip(_QUOTES + "* ").endswith("?")


def is_json(text: str, keys: list) -> bool:
    """The whole answer, a code fence aside, is a JSON object with exactly these keys."""
    body = _FENCE.sub(r"\1", text.strip())
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and set(value) == set(keys)


def one_word(text: str, answers: list) -> bool:
    """The whole answer, punctuation aside, is one of the accepted answers."""
    return _words(text) in [_words(answer) for answer in answers]


def yes_no(text: str, answer: str) -> bool:
    """The first word is the answer, yes or no."""
    return _words(text)[:1] == _words(answer)


def number(text: str, value: int) -> bool:
    """Some number in the answer, in digits or as a word from one to twelve, equals the value."""
    found = [float(digits.replace(",", "")) for digits in _NUMBER.findall(text)]
    found += [_UNITS.index(word) + 1 for word in _words(text) if word in _UNITS]
    return value in found


def quoted(text: str) -> bool:
    """At least one word stands between double quote marks."""
    return any(_words(inner) for inner in re.findall(r"[\"“]([^\"“”]+)[\"”]", text))


def no_commas(text: str) -> bool:
    """The answer has words and no comma."""
    return bool(_words(text)) and "," not in text


def comma_list(text: str, n: int) -> bool:
    """The answer is one line of exactly n items of one to four words, parted by commas or by "and"."""
    line = text.strip()
    items = re.split(r",\s*(?:and\s+)?|\s+and\s+", line.rpartition(":")[2])
    return "\n" not in line and len(items) == n and all(0 < len(_words(item)) <= 4 for item in items)


def placeholders(text: str, n: int) -> bool:
    """At least n blanks to fill in stand in square brackets, such as [name]."""
    return sum(bool(_words(inner)) for inner in re.findall(r"\[([^\[\]]+)\]", text)) >= n


def answer(response: str, text: str) -> bool:
    """The whole answer is the text; case, spacing and closing punctuation are ignored."""
    ours, theirs = _plain(response), _plain(text)
    return bool(ours) and ours == theirs


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".!?…,;: ")


def icd10_code(text: str, code: str) -> bool:
    """The answer names the code in the form of builtin:icd10."""
    return icd10.exact_match(text, code)


def passes(text: str, checks: list[dict]) -> bool:
    """All checks hold for the text.

    Args:
      text: the answer, decoded, without special tokens.
      checks: objects such as {"kind": "max_words", "n": 20}: a key of CHECKS and that function's arguments. A
        `criterion`, if there, says what the check is about, and changes nothing.

    Raises:
      ValueError: a kind is unknown, or its arguments are missing, unknown, of a wrong type, or such that
        all answers pass or none.
    """
    # A list, so that a faulty check is found even behind one that fails.
    results = [_apply(text, check) for check in checks]
    return all(results)


def _apply(text: str, check: dict) -> bool:
    args = {key: value for key, value in check.items() if key not in ("kind", "criterion")}
    kind, criterion = check.get("kind"), check.get("criterion", "all")
    if kind not in CHECKS:
        raise ValueError(f"check kind {kind!r} is unknown; allowed: {', '.join(sorted(CHECKS))}")
    if not isinstance(criterion, str) or not _CRITERION.fullmatch(criterion):
        raise ValueError(
            f"check {kind!r}: criterion = {criterion!r}; allowed are up to 30 letters, digits, spaces and hyphens"
        )
    _, *arguments = CHECKS[kind].__annotations__.items()  # the first is the response
    expected = {name: annotation for name, annotation in arguments if name != "return"}
    if set(args) != set(expected):
        raise ValueError(f"check {kind!r} takes {sorted(expected)}, got {sorted(args)}")
    wrong = {name: value for name, value in args.items() if not _fits(value, expected[name])}
    if wrong:
        named = ", ".join(f"{name} = {_NAMES[expected[name]]}" for name in expected)
        raise ValueError(f"check {kind!r} takes {named}, got {wrong}")
    for name, value in args.items():
        if allowed := _lacking(kind, name, value):
            raise ValueError(f"check {kind!r}: {name} = {value!r} tells no answers apart; allowed is {allowed}")
    if kind == "words_between" and args["low"] > args["high"]:
        raise ValueError(f"check {kind!r}: low = {args['low']} and high = {args['high']}; allowed is low <= high")
    return CHECKS[kind](text, **args)


_NAMES = {list: "a list of strings", str: "a string", int: "a whole number"}


def _fits(value: object, expected: type) -> bool:
    if expected is list:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return type(value) is expected


def _lacking(kind: str, name: str, value: int | str | list) -> str | None:
    """What is allowed, if every answer or none would pass a check with this argument."""
    if isinstance(value, int):
        least = 0 if (kind, name) in _MAY_BE_0 else 1
        return None if kind == "number" or value >= least else f"{least} or more"
    if kind == "yes_no":
        return None if len(_words(value)) == 1 else "one word"
    if kind == "icd10_code":
        return None if re.fullmatch(r"\S+", value) else "a code without spaces"
    # Some are about words, some about marks as well, such as "%".
    wanted = _words if kind in ("starts_with", "ends_with", "one_word") else _plain if kind == "answer" else str.strip
    several = isinstance(value, list)
    if kind == "is_json" or (value and all(wanted(text) for text in (value if several else [value]))):
        return None
    text = "a text with words" if wanted is _words else "a text that is not empty"
    return f"one or more, each {text}" if several else text


_MAY_BE_0 = {("bullets", "n"), ("numbered", "n"), ("words_between", "low")}


_KINDS = (
    mentions_any, mentions_all, avoids, repeats, min_words, max_words, words_between, max_sentences, exact_sentences,
    bullets, numbered, paragraphs, title_line, lowercase, uppercase, starts_with, begins, ends_with, ends_question,
    is_json, one_word, yes_no, number, quoted, no_commas, comma_list, placeholders, answer, icd10_code,
)  # fmt: skip
CHECKS: dict[str, Callable[..., bool]] = {check.__name__: check for check in _KINDS}
