"""Notes with codes, from a source to splits and labels; what they were made of goes to the manifest."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from camopd_jax.probias import cases, descriptions, labels, mimic, protocols, synthetic
from camopd_jax.probias.codes import SYSTEMS, truncated
from camopd_jax.probias.labels import Coverage, Labels
from camopd_jax.probias.notes import Found, Note, Notes, Spool, distinct
from camopd_jax.probias.protocols import Protocol
from camopd_jax.probias.synthetic import Plan, Shape

FORMS = (
    "builtin:icd10, mimic3:DIR, mimic4:DIR:icd9, mimic4:DIR:icd10, codiesp:PATH[:en|es], "
    f"path:FILE.jsonl[:SYSTEM] with SYSTEM of {', '.join(SYSTEMS)}"
)
NO_LABEL = "notes without a label"


@dataclass(frozen=True)
class Corpus:
    """Splits of notes with the labels of training; a text is read when its note is asked for."""

    source: str
    protocol: Protocol
    characters: int  # of a code that count; 0: all
    splits: dict[str, Notes]  # train, dev, test, of which the last two may be empty
    labels: Labels
    coverage: dict[str, Coverage]  # of each split
    left_out: dict[str, int]  # why -> how many
    plan: Plan | None  # what a made corpus has planted


def load(source: str, protocol: Protocol, *, characters: int, shape: Shape, spool: Path) -> Corpus:
    """Read a source, split it and take its labels from training alone.

    Args:
      source: one of `FORMS`.
      characters: to how many a code is cut, such as 3 for ICD-10 categories; 0: not at all.
      shape: of what builtin:icd10 makes.
      spool: a directory for the texts while they are in use, in a file that nothing else can open.

    Raises:
      ValueError: one line that says where and what is wrong, and what is allowed.
    """
    if characters < 0:
        raise ValueError(f"characters = {characters}: allowed are 0 (whole codes) and more")
    found, plan, texts = None, None, Spool(spool)
    if source == "builtin:icd10":
        found, plan = synthetic.read(shape, texts)
    else:
        found = _read(source, texts)
    if not found.entries:
        raise ValueError(f"source {source}: no note with a code is in it (left out: {found.left_out or 'nothing'})")
    entries = [replace(e, codes=distinct([truncated(c, characters) for c in e.codes])) for e in found.entries]
    left_out = dict(found.left_out)
    splits = protocols.split(entries, protocol, left_out)
    titles = _titles(found, {code for e in entries for code in e.codes})
    chosen = labels.of_training(
        [e.codes for e in splits["train"]], least=protocol.fewest, most=protocol.most, titles=titles
    )
    if not chosen.codes:
        raise ValueError(f"protocol {protocol.name}: no code has {protocol.fewest} training notes; lower `least`")
    if protocol.closed:
        cut = {
            name: [replace(e, codes=tuple(c for c in e.codes if c in chosen.index)) for e in part]
            for name, part in splits.items()
        }
        kept = {name: [e for e in part if e.codes] for name, part in cut.items()}
        if without := sum(len(cut[name]) - len(kept[name]) for name in kept):
            left_out[NO_LABEL] = without
        splits = kept
    covered = {name: labels.coverage(chosen, (e.codes for e in part)) for name, part in splits.items()}
    notes = {name: Notes(part, texts) for name, part in splits.items()}
    return Corpus(source, protocol, characters, notes, chosen, covered, left_out, plan)


def manifest(corpus: Corpus) -> dict:
    """What a corpus is made of: counts and a SHA-256 of each split, without a word of its texts."""
    made = {
        "source": corpus.source, "protocol": asdict(corpus.protocol), "characters": corpus.characters,
        "labels": len(corpus.labels.codes), "rare_labels": int(corpus.labels.rare_C.sum()),
        "left_out": dict(corpus.left_out), "splits": {},
    }  # fmt: skip
    for name, notes in corpus.splits.items():
        covered = corpus.coverage[name]
        made["splits"][name] = {
            "notes": len(notes),
            "patients": len({e.patient for e in notes.entries}),
            "codes": len({code for e in notes.entries for code in e.codes}),
            "assigned": covered.assigned,
            "unknown_codes": len(covered.unknown),
            "ceiling": covered.ceiling,
            "sha256": digest(notes),
        }
    return made


def digest(notes: Iterable[Note]) -> str:
    """SHA-256 of ids, texts, codes and patients, in order."""
    found = hashlib.sha256()
    for note in notes:
        found.update(json.dumps([note.id, note.text, note.codes, note.patient]).encode() + b"\n")
    return found.hexdigest()


def _read(source: str, spool: Spool) -> Found:
    scheme, _, rest = source.partition(":")
    place, _, option = rest.rpartition(":")
    if scheme == "mimic3" and rest:
        return mimic.mimic3(_directory(source, rest), spool)
    if scheme == "mimic4" and option in ("icd9", "icd10") and place:
        return mimic.mimic4(_directory(source, place), option.removeprefix("icd"), spool)
    if scheme == "codiesp" and rest:
        path, language = (place, option) if option in cases.LANGUAGES and place else (rest, "en")
        return cases.codiesp(Path(path).expanduser(), language, spool)
    if scheme == "path" and rest:
        path, system = (place, option) if option in SYSTEMS and place else (rest, "text")
        if path.endswith(".jsonl"):
            return cases.jsonl(Path(path).expanduser(), system, spool)
    raise ValueError(f"source {source!r}: allowed are {FORMS}")


def _directory(source: str, path: str) -> Path:
    found = Path(path).expanduser()
    if not found.is_dir():
        raise ValueError(f"source {source}: there is no directory {found}")
    return found


def _titles(found: Found, codes: set[str]) -> dict[str, str]:
    """Those of the source, else those of simple-icd-10-cm."""
    known = descriptions.titles(codes - found.titles.keys()) if found.icd10 else {}
    return known | {code: title for code, title in found.titles.items() if code in codes}
