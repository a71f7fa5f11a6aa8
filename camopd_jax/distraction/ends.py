"""Marks that a distractor wants at the ends of an answer, or on its every line; how they are put there and found.

A mark counts wherever it stands as a sentence or line of its own. A mark in a sentence that says that it was left out
does not count.
"""

import re

from camopd_jax.distraction.words import contains, declined, joined, lines, spans, units, words

_COUNT = r"(?:\d+|one|two|three|four|five|six|seven|eight|nine|ten)"
_TALLY = re.compile(
    rf"\s*[(\[]?\s*\b(?:{_COUNT} (?:words?|letters?|characters?)|"
    rf"(?:word count|words|number of words)\s*[:=]\s*{_COUNT})\b\s*[)\]]?\.?\s*$",
    re.IGNORECASE,
)
_BARE_TALLY = re.compile(r"\s*[(\[](\d+)[)\]]\.?\s*$")
_AGAIN = re.compile(r"\b(?:i repeat|once more|once again|again)\b", re.IGNORECASE)
_OPENING, _SIGN = "\"'“‘(«*_~`", "-–—"


def append(answer, text, sep):
    return answer + sep + text


def append_undone(answer, gold, text, sep):
    return _without_mark(answer, gold, text, last=True)


def prepend(answer, text, sep):
    return text + sep + answer


def prepend_undone(answer, gold, text, sep):
    return _without_mark(answer, gold, text, last=False)


def _without_mark(answer: str, gold: str, mark: str, last: bool) -> str | None:
    if not words(mark):
        return _without_sign(answer, gold, mark)
    at_end, at_start = _without_end(answer, gold, mark), _without_start(answer, mark)
    found = [at_end, at_start] if last else [at_start, at_end]
    found += [_without_unit(answer, gold, mark), _without_written(answer, gold, mark)]
    return next((rest for rest in found if rest is not None), None)


def _without_sign(answer: str, gold: str, mark: str) -> str | None:
    """A mark without letters, such as an emoji, wherever it stands."""
    stated = [answer[a:b] for a, b in units(answer) if mark in answer[a:b]]
    if mark in gold or mark not in answer or (stated and all(map(declined, stated)) and not contains(answer, gold)):
        return None
    rest = re.sub(re.escape(mark) + f"(?:{re.escape(mark[-1])})*", "", answer)
    return re.sub(r"\(\s*\)|\"\s*\"|'\s*'", "", rest).strip()


def _without_end(answer: str, gold: str, mark: str) -> str | None:
    found, wanted = spans(answer), words(mark)
    if [word for word, _, _ in found[-len(wanted) :]] != wanted:
        return None
    start = found[-len(wanted)][1]
    head = answer[:start]
    sentence = head[max((a for a, _ in units(answer) if a <= start), default=0) :]
    # Such as "I left out Passed"; or the mark's word is the sentence's own, as in "he passed".
    spoken_of = declined(sentence) or (head.rstrip()[-1:].isalnum() and not _written(mark, answer[start:]))
    if spoken_of and not joined(head).endswith(joined(gold)):
        return None
    # The signs with which the mark itself begins, and those that open around it.
    opening = re.match(r"\W*", mark)[0].strip()
    head = head.rstrip()
    head = head.removesuffix(opening).rstrip() if opening else head
    return head[:-1].rstrip() if head[-1:] in _SIGN or head[-1:] in '"“‘(' else head


def _written(mark: str, text: str) -> bool:
    """The text begins with the mark's words as they are written, or all in capitals."""
    own = re.sub(r"^\W+|\W+$", "", mark)
    return text.startswith((own, own.upper()))


def _without_start(answer: str, mark: str) -> str | None:
    found, wanted = spans(answer), words(mark)
    if [word for word, _, _ in found[: len(wanted)]] != wanted:
        return None
    before, tail = answer[: found[0][1]], answer[found[len(wanted) - 1][2] :]
    if len(before.strip()) > len(re.match(r"\W*", mark)[0].strip()) + 1:
        return None  # a mark of another kind stands before it
    ending = re.search(r"\W*$", mark)[0]
    if ending and not tail.startswith(ending.strip()):
        tail = tail.lstrip(" -")  # as in "Memo - Rome"
    tail = tail.removeprefix(ending.strip()) if ending else tail
    return re.sub(r"^[\"”’)]?[\s.,:;!–—]*", "", tail)


def _without_unit(answer: str, gold: str, mark: str) -> str | None:
    for start, end in units(answer):
        if words(answer[start:end]) == words(mark) and not contains(gold, mark):
            return "\n".join(part for part in (answer[:start].rstrip(), answer[end:].lstrip()) if part)
    return None


def _without_written(answer: str, gold: str, mark: str) -> str | None:
    """A mark with a sign or a capital, letter by letter as it is asked for, wherever it stands."""
    if mark.replace(" ", "").islower() and mark.replace(" ", "").isalpha():
        return None  # such as "so there", which may belong to a sentence
    pattern = re.compile(r"(?<!\w)" * mark[0].isalnum() + re.escape(mark) + r"(?!\w)" * mark[-1].isalnum())
    if pattern.search(gold):
        return None
    rest = answer
    for start, end in reversed(units(answer)):
        if not declined(answer[start:end]):
            rest = rest[:start] + pattern.sub("", answer[start:end]) + rest[end:]
    return rest if rest != answer else None


def each(answer, prefix, suffix):
    return "\n".join(f"{prefix}{line}{suffix}" if line.strip() else line for line in answer.splitlines())


def each_undone(answer, gold, prefix, suffix):
    start, end = prefix.strip(), suffix.strip()
    if not any(x.startswith(start) and x.endswith(end) for x in lines(answer)):
        return None
    return "\n".join(line.removeprefix(start).removesuffix(end).strip() for line in lines(answer))


def tally(answer):
    n = len(words(answer))
    return f"{answer} ({n} word{'s' * (n != 1)})"


def tally_undone(answer, gold):
    rest = _TALLY.sub("", answer, count=1)
    bare = _BARE_TALLY.search(answer)
    if bare and int(bare[1]) == len(words(answer[: bare.start()])):
        rest = answer[: bare.start()]
    return rest if rest != answer else None


def repeat(answer):
    return f"{answer}\n{answer}"


def repeat_undone(answer, gold):
    answer = _AGAIN.sub("", answer)
    found = spans(answer)
    half, odd = divmod(len(found), 2)
    said = [word for word, _, _ in found]
    if not half or odd or said[:half] != said[half:] or said == words(gold):
        return None
    # What opens the second time, such as a quote mark, belongs to it.
    return answer[: found[half][1]].rstrip(_OPENING + "[{<").rstrip() or None
