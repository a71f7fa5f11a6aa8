"""What is said of each code, of which its embedding is made: official titles, or texts that a model wrote.

A model is asked about code and title alone: no note, and nothing that was counted in notes, is ever sent.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from camopd_jax import endpoint, structured
from camopd_jax.endpoint import Endpoint
from camopd_jax.probias import terms
from camopd_jax.probias.labels import Labels
from camopd_jax.sources import TextError

KINDS = ("official", "written", "both")
WORDS = (15, 160)  # of a description, at least and at most
TERMS = (1, 10)  # comorbidities
TERM_WORDS = 12  # of one of them, at most
SCHEMA = {
    "type": "object",
    "properties": {
        "description": {"type": "string"},
        "comorbidities": {"type": "array", "items": {"type": "string"}, "minItems": TERMS[0], "maxItems": TERMS[1]},
    },
    "required": ["description", "comorbidities"],
    "additionalProperties": False,
}  # fmt: skip
_SYSTEM = f"""You describe codes of the International Classification of Diseases for a program that reads discharge \
summaries. Of the code that you are given, write one JSON object:
- description: {WORDS[0]} to {WORDS[1]} words: what it is, how clinicians name and abbreviate it in notes, typical \
findings and treatment, and what tells it from its siblings.
- comorbidities: {TERMS[0]} to {TERMS[1]} conditions that patients with it often have as well, each of a few words.
Name conditions and procedures in words; write no code of any classification."""
_CODE = re.compile(r"(?<![\w.])(?:[A-Z]\d[0-9A-Z](?:\.?[0-9A-Z]{1,4})?|\d{2,3}\.\d{1,2}|[EV]\d{2,3}\.\d{1,2})(?![\w])")


@dataclass(frozen=True)
class Description:
    """What a model wrote of a code."""

    code: str
    title: str  # that it was asked about
    description: str
    comorbidities: tuple[str, ...]

    @property
    def text(self) -> str:
        return f"{self.description} Often with: {'; '.join(self.comorbidities)}."


@dataclass(frozen=True)
class Written:
    """What came of asking about a code."""

    code: str
    description: Description | None
    rejected: tuple[tuple[str, ...], ...]  # the reasons for each answer that was not taken


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


def texts(labels: Labels, kind: str, written: Mapping[str, Description]) -> tuple[str, ...]:
    """A text of each label: of one that no model has written of, the official one, whatever the kind.

    Raises:
      ValueError: the kind is none of `KINDS`.
    """
    if kind not in KINDS:
        raise ValueError(f"descriptions {kind!r}: allowed are {', '.join(KINDS)}")
    found = []
    for code, title in zip(labels.codes, labels.titles, strict=True):
        first, second = official(code, title), written.get(code)
        if second is None or kind == "official":
            found.append(first)
        else:
            found.append(second.text if kind == "written" else f"{first} {second.text}")
    return tuple(found)


def asking(code: str, title: str) -> list[dict]:
    """The conversation that asks for the description of a code."""
    return [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": f"Code: {code}\nTitle: {title}"}]


def write(
    client: Endpoint, labels: Labels, *, without: Iterable[str], temperature: float, max_tokens: int, attempts: int,
    at_once: int,
) -> Iterator[Written]:  # fmt: skip
    """What a model says of each label that has a title and is not in `without`, in their order.

    Raises:
      ValueError, ConnectionError: as `Endpoint.chat`.
    """
    known = frozenset(labels.codes)

    def one(asked: tuple[str, str]) -> Written:
        code, title = asked
        found = structured.ask(
            client, asking(code, title), SCHEMA, lambda value: faults(code, value, known),
            temperature=temperature, max_tokens=max_tokens, attempts=attempts,
        )  # fmt: skip
        return Written(code, found.value and _built(code, title, found.value), found.faults)

    left_out = set(without)
    wanted = [(c, t) for c, t in zip(labels.codes, labels.titles, strict=True) if t and c not in left_out]
    yield from endpoint.each(one, wanted, at_once)


def faults(code: str, value: dict, labels: frozenset[str]) -> list[str]:
    """Why what a model wrote cannot be used, [] if it can."""
    text, others = value["description"].strip(), [term.strip() for term in value["comorbidities"]]
    found = []
    if not WORDS[0] <= len(text.split()) <= WORDS[1]:
        found.append(f"description: it has {len(text.split())} words; allowed are {WORDS[0]} to {WORDS[1]}")
    if not all(others) or max(len(term.split()) for term in others) > TERM_WORDS:
        found.append(f"comorbidities: each has 1 to {TERM_WORDS} words")
    if len({term.lower() for term in others}) < len(others):
        found.append("comorbidities: one stands there twice")
    for token in dict.fromkeys(_CODE.findall(" ".join([text, *others]))):
        if token.replace(".", "") != code.replace(".", "") and (token in labels or terms.known(token)):
            found.append(f"description: it names the code {token}; say it in words")
    if any("\ud800" <= sign <= "\udfff" for sign in text + "".join(others)):
        found.append("description: it holds half a character (a surrogate), which no file can")
    return found


def extend(file: Path, client: Endpoint, labels: Labels, *, show: bool = False, **asked: Any) -> Counter[str]:
    """Append to a JSONL file what it lacks: how many codes it had, were written, and got no answer that could be used.

    A run that was stopped goes on where it was. `asked`: the values of `write`, but `without`. With `show`, a bar.

    Raises:
      ValueError: the file holds something else; or as `write`.
    """
    if file.exists():  # what was cut in the middle of a line is asked again, from the client's cache
        whole = file.read_bytes()
        file.write_bytes(whole[: whole.rfind(b"\n") + 1])
    had = read(file) if file.exists() else {}
    count = Counter(had=len(had.keys() & set(labels.codes)))
    with file.open("a", encoding="utf-8") as lines:
        for found in tqdm(
            write(client, labels, without=had, **asked), "codes", len(labels.codes) - count["had"], disable=not show
        ):
            count["written" if found.description else "refused"] += 1
            if found.description:
                lines.write(json.dumps(asdict(found.description), ensure_ascii=False) + "\n")
                lines.flush()
    return count


def read(file: Path) -> dict[str, Description]:
    """Code -> description, from a JSONL file as `extend` writes it, by hand or from elsewhere.

    Raises:
      ValueError: FILE:LINE, what is wrong with it, and what is allowed.
    """
    if not file.is_file():
        raise ValueError(f"descriptions {file}: there is no such file")
    found: dict[str, Description] = {}
    for number, line in enumerate(file.read_bytes().split(b"\n"), 1):
        where = f"{file}:{number}"
        if not line.strip():
            continue
        try:
            value = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise TextError(where, "not JSON in UTF-8; allowed is one object a line") from error
        schema = SCHEMA | {"properties": {f: {"type": "string"} for f in ("code", "title")} | SCHEMA["properties"]}
        wrong = structured.mismatches(value, schema | {"required": ["code", "title", *SCHEMA["required"]]}, "the row")
        if wrong or not value["description"].strip():
            raise TextError(where, wrong[0] if wrong else "description is empty; allowed is a text")
        if value["code"] in found:
            raise TextError(where, f"code {value['code']!r} stands in an earlier row; allowed is each once")
        found[value["code"]] = _built(value["code"], value["title"], value)
    return found


def _built(code: str, title: str, value: dict) -> Description:
    return Description(code, title, value["description"].strip(), tuple(t.strip() for t in value["comorbidities"]))
