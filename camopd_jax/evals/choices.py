"""The letter of the option that an answer to a multiple-choice question settles on.

An answer may weigh every option before it decides, and letters are words (a, I), names (E. coli, B cell) and lists.
So a letter counts where it is stated as the answer; of several statements the last counts, also where it names several
letters, or one that is no option: then there is none. Without a statement, a line that is a letter, or begins with
one, counts, if no other letter does.
"""

import re

# What comes before the letter of a statement, and may stand in between.
_BETWEEN = (
    r"(?:[\s*_`:\"'“=]|->|→"
    r"|\bnot\s+[(*]*[A-J][)*]*,?\s+but(?:\s+rather)?\b"
    r"|\b(?:therefore|thus|hence|clearly|indeed|definitely|most|likely|probably|again|option|choice|letter|answer|the)\b)*"
)
_HEADS = re.compile(
    r"\b(?:answer|ans|choice|option|letter)\b[*_`\"]*"
    r"(?:\s+(?:here|choice|option|letter|to (?:this|the) question))?[*_`\"]*\s*"
    rf"(?:\bis\b|['’]s\b|>|\b(?:would|should|must|will|has to)\s+be\b|:|=|→|->|\s[-–—]\s){_BETWEEN}"
    r"|\b(?:choose|chose|choosing|select|selecting|pick|picking|go(?:ing)? with|opt(?:ing)? for|settle on)\b"
    rf"{_BETWEEN}"
    r"|\\boxed\s*(?={)"
    r"|\b(?:therefore|thus|hence|so|it is|it['’]s)\b,?\s+(?=[(*]*[A-J][)*]*\s*(?:[.!]|$))",
    re.IGNORECASE | re.MULTILINE,
)
_AFTER = re.compile(  # "(B) is the correct answer", and what comes before it, if it is one of several
    r"(?:\b(?P<other>[A-J])[)*]*\s*(?:,|/|&|\band\b|\bor\b)\s*[(*]*)?(?<![\w'’-])(?P<letter>[A-J])[)*.\"]*\s+is\s+"
    r"(?:\bthe\b|\bclearly\b|\btherefore\b|\bthus\b|\balso\b|\s)*"
    r"(?:correct|right|best|most (?:appropriate|likely|accurate)|(?:final )?answer)\b",
)
_LETTER = re.compile(
    r"(?P<open>(?:[\s*_`\"'“(\[{$]|\\(?:text|textbf|mathbf|mathrm|boxed)\s*\{)*)(?P<letter>[A-Ja-j])(?P<close>[*_`\"'”)\]}$]*)"
)
_MORE = re.compile(r"\s*(?:,\s*(?:and|or)\b|,|/|&|and/or\b|\band\b|\bor\b)(?=[\s(*]|(?<=/))")
_GOES_ON = re.compile(r"[^\S\n]+(?:is|was|are|would|can|could|does|has)\b")  # the letter begins another clause
_CLAUSE = re.compile(r"[.;:!?,(\n]|\b(?:so|thus|therefore|hence|and|but|then|because)\b", re.IGNORECASE)
_CLAUSES = 300  # characters in which the beginning of a clause is looked for
_DENIED = re.compile(r"\b(?:if|whether|unless|suppose|assuming|neither|nor|not|never|cannot|why)\b|n['’]t\b", re.I)
_LINE = re.compile(r"[ \t>#*_`-]*(?:(?:answer|option|choice)\s+)?(?=[*_`(\[\"]*[A-J](?:[*_`)\].:\"]|\s*$))", re.I)
_LINKS = frozenset("because since as which due based given is with and or but for".split())
# Species, of which the genus is mostly one letter.
_EPITHETS = frozenset(
    "albicans anthracis aureus baumannii botulinum burgdorferi capsulatum cereus coli dermatitidis difficile "
    "diphtheriae ducreyi faecalis faecium fragilis fumigatus henselae histolytica immitis influenzae jejuni lamblia "
    "latum lumbricoides neoformans perfringens pertussis psittaci pylori quintana scapularis tetani trachomatis "
    "tularensis vaginalis".split()
)
_NO_END = "<think>"  # without its end: the answer was cut before it began


def letter(text: str, letters: str) -> str | None:
    """The letter, in upper case, of the option that an answer settles on; None where it settles on none.

    Args:
      text: of the answer, without what was thought before it.
      letters: of the options, such as "ABCD".
    """
    if _NO_END in text:
        return None
    stated = [(m.end(), _read(text, m.end())) for m in _HEADS.finditer(text) if not _denied(text, m.start())]
    stated += [
        (m.end(), "" if m["other"] else m["letter"]) for m in _AFTER.finditer(text) if not _denied(text, m.start())
    ]
    found = max(((place, said) for place, said in stated if said is not None), default=(0, None))[1]
    if found is None:
        found = _of_lines(text)
    return found if found and found in letters else None


def _denied(text: str, start: int) -> bool:
    """Whether the clause that a statement ends says so under a condition, or denies it."""
    before = text[max(start - _CLAUSES, 0) : start].rpartition("\n")[2]
    return bool(_DENIED.search(_CLAUSE.split(before)[-1]))


def _read(text: str, start: int) -> str | None:
    """The letter that begins here; "" where there are several; None where no letter begins."""
    first, end = _token(text, start)
    if first is None:
        return None
    more = _MORE.match(text, end)
    other, after = _token(text, more.end()) if more else (None, 0)
    if other is not None and other != first and not _GOES_ON.match(text, after):
        return ""
    return first


def _token(text: str, start: int) -> tuple[str | None, int]:
    """The letter that stands here as one, rather than as a word or the beginning of a name, and where it ends."""
    match = _LETTER.match(text, start)
    if not match or _is_name(text[match.end("letter") :]):
        return None, start
    said, after = match["letter"], text[match.end("letter") :]
    wrapped = bool(match["close"]) or match["open"][-1:] in tuple("*_`\"'“([{$")
    word = re.match(r"[^\S\n]+([\w]+)", after)
    if word and not wrapped:
        links = word[1] in _LINKS
        if said.islower() and (said in "ai" or not links):
            return None, start
        if not links and (said == "I" or (said == "A" and not word[1][0].isupper())):
            return None, start
    return said.upper(), match.end()


def _is_name(after: str) -> bool:
    """Whether what follows a letter makes it a part of a word or of a name."""
    if re.match(r"\w|[-'’][^\W_]|[ -]cells?\b", after):
        return True
    species = re.match(r"\.?\s?([a-z]+)", after)
    return bool(species and species[1] in _EPITHETS)


def _of_lines(text: str) -> str | None:
    """The letter of the last line that is one, or of all lines that begin with one; a letter that ends the text."""
    lines = [line.strip() for line in text.strip().split("\n") if line.strip()]
    alone, begun = [], set()
    for line in lines:
        match = _LINE.match(line)
        said, end = _token(line, match.end()) if match else (None, 0)
        if said is not None:
            begun.add(said)
            if not re.search(r"\w", line[end:]):
                alone.append(said)
    if alone:
        return alone[-1]
    if len(begun) == 1:
        return begun.pop()
    named = re.findall(r"[(*]([A-J])[)*]", lines[-1]) if lines and not begun else []
    return named[0] if len(set(named)) == 1 and lines[-1].rstrip(" .)*").endswith(named[0]) else None
