"""One spelling of each code: upper case, with its dot where its system has one (method.md, section 3)."""

import re

# By system: how a code looks without its dot, the characters before the dot (None: it has none), and that in words.
_SYSTEMS = {
    "icd9-diagnosis": (r"\d{3,5}|V\d{2,4}|E\d{3,4}", 3, "3 to 5 digits, V and 2 to 4, or E and 3 or 4, such as 038.9"),
    "icd9-procedure": (r"\d{2,4}", 2, "2 to 4 digits, such as 03.31"),
    "icd10-diagnosis": (r"[A-Z]\d[0-9A-Z][0-9A-Z]{0,4}", 3, "a letter, a digit and 1 to 5 more signs, such as E11.9"),
    "icd10-procedure": (r"[0-9A-HJ-NP-Z]{7}", None, "7 signs without O and I, such as 0DTJ4ZZ"),
}
SYSTEMS = (*_SYSTEMS, "text")


def normalised(code: str, system: str) -> str:
    """The one spelling of a code of a system; `text` takes any word as it is.

    The dot stands after 3 characters of a diagnosis (an ICD-9 E code: 4) and after 2 of an ICD-9 procedure, as CAML's
    `reformat` has it; ICD-10-PCS has none. A dot that stands elsewhere is an error: 38.9 is what a spreadsheet leaves
    of 038.9, and without its dot it would be another code.

    Raises:
      ValueError: what is wrong with the code, and what is allowed.
    """
    if system not in SYSTEMS:
        raise ValueError(f"system of codes {system!r}: allowed are {', '.join(SYSTEMS)}")
    found = code.strip()
    if system == "text":
        if not found or len(found.split()) > 1:
            raise ValueError(f"code {code!r}: allowed is one word")
        return found
    pattern, before, words = _SYSTEMS[system]
    plain = found.upper().replace(".", "")
    if not re.fullmatch(pattern, plain, re.ASCII):
        raise ValueError(f"code {code!r} is no {system}: allowed are {words} (with or without the dot)")
    if before is not None and system == "icd9-diagnosis" and plain.startswith("E"):
        before = 4
    whole = plain if before is None or len(plain) <= before else f"{plain[:before]}.{plain[before:]}"
    if "." in found and found.upper() != whole:
        raise ValueError(
            f"code {code!r}: its dot stands elsewhere in {system} codes; allowed are {words}; leading zeros count"
        )
    return whole


def truncated(code: str, characters: int) -> str:
    """The first so many characters of a normalised code, the dot not counted; 0: the whole code."""
    if not characters or len(code.replace(".", "")) <= characters:
        return code
    before = code.find(".")
    return code[:characters] if before < 0 or characters <= before else code[: characters + 1]
