"""Clinical notes: what a reader finds, with the texts in a file of their own, as memory may not hold them all."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


@dataclass(frozen=True)
class Note:
    """A text, and all the codes that it was given."""

    id: str
    text: str
    codes: tuple[str, ...]  # normalised, sorted, each once
    patient: str


class Span(NamedTuple):
    """Where a text stands in a spool, in bytes."""

    start: int
    length: int


@dataclass(frozen=True)
class Entry:
    """A note but for its text."""

    id: str
    patient: str
    codes: tuple[str, ...]
    split: str  # that the source says; "" if it says none
    spans: tuple[Span, ...]  # of the parts of its text, in order


@dataclass(frozen=True)
class Found:
    """What a reader found."""

    entries: tuple[Entry, ...]
    left_out: dict[str, int]  # why -> how many
    titles: dict[str, str]  # of codes, where the source has them
    icd10: bool  # whether the codes are of ICD-10-CM, so that its titles are theirs


class Spool:
    """Texts in an unnamed temporary file of a directory; nothing of it is left when the process ends, however it ends.

    The directory is the caller's choice, since a licensed text may not leave the workdir.
    """

    def __init__(self, directory: Path):
        self._file = tempfile.TemporaryFile(dir=directory)
        self._end = 0

    def add(self, text: str) -> Span:
        data = text.encode("utf-8")
        self._file.seek(self._end)
        self._file.write(data)
        span = Span(self._end, len(data))
        self._end += len(data)
        return span

    def text(self, spans: Sequence[Span]) -> str:
        """The parts, joined by line breaks."""
        parts = []
        for span in spans:
            self._file.seek(span.start)
            parts.append(self._file.read(span.length).decode("utf-8"))
        return "\n".join(parts)


class Notes(Sequence[Note]):
    """Notes whose texts are read when they are asked for."""

    def __init__(self, entries: Sequence[Entry], spool: Spool):
        self.entries, self._spool = tuple(entries), spool

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, i: int) -> Note:
        entry = self.entries[i]
        return Note(entry.id, self._spool.text(entry.spans), entry.codes, entry.patient)

    def __iter__(self) -> Iterator[Note]:
        return (self[i] for i in range(len(self)))


def distinct(codes: Sequence[str]) -> tuple[str, ...]:
    """Sorted, each once."""
    return tuple(sorted(set(codes)))
