"""What is said of each code, of which its embedding is made: official titles, or texts that a model wrote."""

from collections.abc import Iterable

from camopd_jax.probias import terms


def titles(codes: Iterable[str]) -> dict[str, str]:
    """The titles of ICD-10-CM codes, of those that simple-icd-10-cm knows or of whose ancestors it does."""
    found = {code: terms.title(code) for code in codes}
    return {code: title for code, title in found.items() if title}


def official(code: str, title: str) -> str:
    """Title and inclusion terms of a code; of one without a title, the code.

    Inclusion terms are added where simple-icd-10-cm has the code under this very title.
    """
    if not title:
        return code
    included = terms.inclusion(code) if terms.title(code) == title else ()
    return f"{title}. Includes: {'; '.join(included)}." if included else f"{title}."
