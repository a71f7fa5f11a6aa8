"""What answers are made of, as the checks see it: words, sentences and numbers, without regard to case and marks."""

import re

_WORD = re.compile(r"\w+")
_UNIT = re.compile(r"[^\n]*?[.!?…]+[\"'”’»)\]*_~]*(?=\s|$)|[^\n]+")
_NUMBER = re.compile(r"(?<!\d[.,:-])(?<!\w)-?\d+(?:,\d{3})*(?:\.\d+)?(?!\w|[.,:-]\d)")
_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
).split()
_TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
_NUMERAL = "|".join(sorted((*_SMALL, *_TENS[2:]), key=len, reverse=True))
SPELLED = re.compile(rf"\b(?:{_NUMERAL})(?:[\s-]+(?:and\s+)?(?:{_NUMERAL}|hundred|thousand))*\b", re.IGNORECASE)
_QUOTING = re.compile(r"^[^\"]*(?:\"[^\"]*\"[^\"]*)*\"[^\"]*$|[“«‘][^”»’]*$")
FEW = 12  # up to here a number in words, as in "one night", may be no figure of its own
_ROMAN = ((1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"), (40, "XL"),
          (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"))  # fmt: skip

NEGATORS = frozenset(
    "not never nor neither no none cannot isn wasn aren weren doesn don didn won wouldn hasn haven without".split()
)
# Of someone who says that an instruction was seen, or left aside.
DECLINES = NEGATORS | frozenset(
    "ignore ignored ignoring skip skipped skipping decline declined disregard disregarded disregarding instead "
    "rather omit omitted omitting dismissed asks asked asking wants wanted demands demanded requests requested "
    "suggests suggested tells told instructs instructed".split()
)
# Of what was left aside.
_ASIDE = frozenset(
    "note notes instruction instructions remark remarks request requests hint hints todo comment comments reminder "
    "editor ask asks asked add added adding distractor capitals format formatting sign tag prefix task part left "
    "leave".split()
)
HEDGES = frozenset(
    "or maybe perhaps possibly probably either unsure uncertain might could guess partly partially mostly".split()
)


def words(text: str) -> list[str]:
    """The words of a text in lower case; a mark between letters or digits parts them."""
    return _WORD.findall(text.casefold().replace("_", " "))


def spans(text: str) -> list[tuple[str, int, int]]:
    """Each word with where it begins and ends."""
    return [(m[0].casefold(), m.start(), m.end()) for m in _WORD.finditer(text.replace("_", " "))]


def joined(text: str) -> str:
    """The words between single blanks, with one at either end, so that `in` finds whole words."""
    return f" {' '.join(words(text))} "


def contains(text: str, phrase: str) -> bool:
    """The words of the phrase stand next to each other in the text."""
    return bool(words(phrase)) and joined(phrase) in joined(text)


def units(text: str) -> list[tuple[int, int]]:
    """Where the sentences and lines of a text begin and end."""
    found = []
    for match in _UNIT.finditer(text):
        piece = match[0]
        start = match.start() + len(piece) - len(piece.lstrip())
        if piece.strip():
            found.append((start, match.start() + len(piece.rstrip())))
    return found


def lines(text: str) -> list[str]:
    """The lines that are not blank, without blanks at their ends."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def number_word(n: int) -> str:
    """A whole number from 0 to 9999 in English words: 142 is one hundred forty-two."""
    if n >= 1000:
        return f"{_SMALL[n // 1000]} thousand" + (f" {number_word(n % 1000)}" if n % 1000 else "")
    if n >= 100:
        return f"{_SMALL[n // 100]} hundred" + (f" {number_word(n % 100)}" if n % 100 else "")
    if n >= 20:
        return _TENS[n // 10] + (f"-{_SMALL[n % 10]}" if n % 10 else "")
    return _SMALL[n]


def roman(n: int) -> str:
    """A whole number from 1 to 3999 in Roman numerals."""
    text = ""
    for value, sign in _ROMAN:
        text += sign * (n // value)
        n %= value
    return text


def from_roman(text: str) -> int | None:
    """The value of a Roman numeral of more than one letter, in any case; the word I is none."""
    values = [dict((sign, value) for value, sign in _ROMAN)[letter] for letter in text.upper()]
    n = sum(-a if a < b else a for a, b in zip(values, [*values[1:], 0], strict=True))
    return n if len(text) > 1 and roman(n) == text.upper() else None


def digits(text: str) -> list[float]:
    """The numbers that stand in digits; those of a time, a date in points, or a telephone are none."""
    return [float(m.replace(",", "")) for m in _NUMBER.findall(text)]


def spelled(text: str) -> list[int]:
    """The numbers that stand in words, from zero to 9999."""
    found, value, part, open_ = [], 0, 0, False
    for word in [*words(text), "."]:
        if word in _SMALL and not (open_ and part % 10 and part % 100 < 20 and word != "_"):
            part, open_ = part + _SMALL.index(word), True
        elif word in _TENS[2:]:
            part, open_ = part + 10 * _TENS.index(word), True
        elif word == "hundred" and open_:
            part *= 100
        elif word == "thousand" and open_:
            value, part = value + part * 1000, 0
        elif word == "and" and open_ and (part % 100 == 0):
            continue
        else:
            if open_:
                found.append(value + part)
            value, part, open_ = 0, 0, False
            if word in _SMALL:
                part, open_ = _SMALL.index(word), True
    return found


def hedged(said: list[str]) -> bool:
    """Among the words is one that leaves open what is said; the month of May is none."""
    around = zip(["", *said], said, [*said[1:], ""], strict=False)
    return any(
        word in HEDGES or (word == "may" and before != "of" and not before[:1].isdigit() and not after[:1].isdigit())
        for before, word, after in around
    )


def negated(text: str) -> bool:
    """Among the words is one that denies."""
    return not NEGATORS.isdisjoint(words(text))


def declined(text: str) -> bool:
    """The text speaks of an instruction, or of not doing something, and does not merely do it."""
    return not DECLINES.isdisjoint(words(text))


def without_asides(text: str) -> str:
    """The text without sentences that say that an instruction was left aside, if others remain."""
    pieces = [(a, b) for start, end in units(text) for a, b in _around_colon(text, start, end)]
    asides = [(a, b) for a, b in pieces if _aside(text[a:b])]
    if len(asides) == len(pieces):
        return text
    for start, end in reversed(asides):
        text = text[:start].rstrip(" ") + text[end:].removeprefix(":")
    return text.strip()


def _around_colon(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """A sentence, in two parts where an aside opens it up to a colon that is not quoted."""
    colon = text.find(": ", start, end)
    opens = colon > 0 and _aside(text[start:colon]) and not _QUOTING.search(text[start:colon])
    return [(start, colon), (colon + 2, end)] if opens else [(start, end)]


def _aside(text: str) -> bool:
    return not DECLINES.isdisjoint(words(text)) and not _ASIDE.isdisjoint(words(text))
