"""What the package simple-icd-10-cm says of ICD-10-CM codes: titles, inclusion terms, and families of siblings."""

import re
from dataclasses import dataclass
from functools import cache

CHAPTERS = "ABCDEFGHIJKLMNQR"  # first letters: diseases and symptoms, no pregnancies, injuries, causes and contacts
LONGEST = 4  # words of a term of a common code, and of what a family shares
LONGEST_TITLE = 8  # words of the title of a member of a family
# A term with one of these is another's rest, or reads as if it were negated.
_VAGUE = re.compile(
    r"\b(other|unspecified|elsewhere|classified|specified|nos|encounter|status|history|without|no|not|non|absence|in|"
    r"due|with|sequela|initial|and/or|overlapping)\b",
    re.I,
)
_PLAIN = re.compile(r"[A-Za-z][A-Za-z', -]+")


@dataclass(frozen=True)
class Common:
    """A code that plain terms tell from all others."""

    code: str
    terms: tuple[str, ...]  # title and inclusion terms


@dataclass(frozen=True)
class Family:
    """Sibling codes, and the name of what they are kinds of, which does not tell them apart."""

    name: str
    members: tuple[tuple[str, str], ...]  # code and title


def title(code: str) -> str:
    """The official title; of a code that this release does not have, that of its nearest ancestor; "" without one."""
    import simple_icd_10_cm as icd  # reads its tables on import

    while len(code) >= 3:
        if icd.is_valid_item(code):
            return icd.get_description(code)
        code = code[:-1].removesuffix(".")
    return ""


def inclusion(code: str) -> tuple[str, ...]:
    """Inclusion terms of a code of this release, and what else stands below it as included."""
    import simple_icd_10_cm as icd

    return (*icd.get_inclusion_term(code), *icd.get_includes(code)) if icd.is_valid_item(code) else ()


def known(code: str) -> bool:
    """Whether this release has it, with or without its dot."""
    import simple_icd_10_cm as icd

    return icd.is_valid_item(code) and icd.is_category_or_subcategory(code)


@cache
def commons() -> tuple[Common, ...]:
    """Codes with a short title and a short inclusion term."""
    found = []
    for code in _leaves():
        terms = tuple(dict.fromkeys(text(t) for t in (title(code), *inclusion(code)) if _plain(t, LONGEST)))
        if _plain(title(code), LONGEST) and len(terms) > 1:
            found.append(Common(code, terms))
    return tuple(found)


@cache
def families() -> tuple[Family, ...]:
    """Parents with a short title, and those of their children that have a title of their own."""
    import simple_icd_10_cm as icd

    children: dict[str, list[str]] = {}
    for code in _leaves():
        children.setdefault(icd.get_parent(code), []).append(code)
    found = []
    for parent, codes in children.items():
        if icd.is_category_or_subcategory(parent) and _plain(title(parent), LONGEST) and "," not in title(parent):
            members = tuple((code, text(title(code))) for code in codes if _plain(title(code), LONGEST_TITLE))
            found.append(Family(text(title(parent)), members))
    return tuple(found)


def initials(name: str) -> str:
    """An abbreviation: the first letters of a term's longer words."""
    return "".join(word[0].upper() for word in re.findall(r"[A-Za-z']+", name) if len(word) > 2)


def text(title: str) -> str:
    """A title as it stands inside a sentence: in lower case, but for names that the first word may be of."""
    head = title.split()[0]
    return title if head.isupper() or "'s" in head else title[0].lower() + title[1:]


@cache
def _leaves() -> tuple[str, ...]:
    import simple_icd_10_cm as icd

    codes = [code for code in icd.get_all_codes(True) if code[0] in CHAPTERS and icd.is_category_or_subcategory(code)]
    return tuple(code for code in codes if icd.is_leaf(code))


def _plain(term: str, words: int) -> bool:
    return bool(_PLAIN.fullmatch(term)) and len(term.split()) <= words and not _VAGUE.search(term)
