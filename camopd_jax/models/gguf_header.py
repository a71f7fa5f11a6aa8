"""The header of a GGUF file: its metadata, and where its tensors lie.

The format is that of github.com/ggml-org/ggml, docs/gguf.md, versions 2 and 3, little-endian. gguf.GGUFReader makes
NumPy views of every token, merge and number; a large vocabulary has half a million of them, and plain struct reads
them more than ten times as fast.
"""

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
HEADER_BYTES = 200_000_000  # what is read at most; a vocabulary of 260,000 tokens takes a tenth
MOST = 100_000  # keys, and tensors
LARGEST_ARRAY = 4_000_000  # elements
DEPTH = 4  # of arrays in arrays
DIMS = 4  # of a tensor
ALIGNMENT = 32  # of the tensors, in bytes, where general.alignment says nothing


@dataclass(frozen=True)
class Tensor:
    kind: int  # number of its ggml type
    shape: tuple[int, ...]  # as NumPy counts: [out, in]
    offset: int  # bytes from the start of the file


def read_header(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Metadata (key to number, string or list) and tensors (name to place) of a GGUF file.

    Raises:
      ValueError: if the file cannot be read, is no GGUF file of version 2 or 3, is big-endian, or ends too early.
    """
    try:
        with file.open("rb") as stream:
            if stream.read(4) != b"GGUF":
                raise ValueError("it is no GGUF file: it does not begin with 'GGUF'")
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _parse(_Cursor(data, 4))
    except OSError as error:
        raise ValueError(f"it cannot be read: {error.strerror}") from None
    except (struct.error, UnicodeDecodeError):
        raise ValueError("it is truncated or damaged: its header does not end as it should") from None


def _parse(cursor: "_Cursor") -> tuple[dict[str, Any], dict[str, Tensor]]:
    (version,) = cursor.numbers("I")
    if version & 0xFFFF == 0:
        raise ValueError("it is big-endian; only little-endian files are read")
    if version not in (2, 3):
        raise ValueError(f"it is GGUF version {version}; 2 and 3 are read")
    tensor_count, pairs = cursor.numbers("QQ")
    if max(tensor_count, pairs) > MOST:
        raise ValueError(f"it is damaged: {pairs:,} keys and {tensor_count:,} tensors; allowed are {MOST:,}")
    metadata = {}
    for _ in range(pairs):
        key = cursor.string()
        metadata[key] = cursor.value(*cursor.numbers("I"))
    places = {}
    for _ in range(tensor_count):
        name = cursor.string()
        (rank,) = cursor.numbers("I")
        if rank > DIMS:
            raise ValueError(f"it is damaged: the tensor {name[:80]} has {rank} dimensions; allowed are {DIMS}")
        dims = cursor.numbers(f"{rank}Q")
        places[name] = (tuple(reversed(dims)), *cursor.numbers("IQ"))
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if type(alignment) is not int or not 0 < alignment <= 1 << 20:
        raise ValueError(f"general.alignment is {alignment!r:.40}; allowed is a whole number above 0")
    start = -(-cursor.at // alignment) * alignment
    return metadata, {name: Tensor(kind, shape, start + offset) for name, (shape, kind, offset) in places.items()}


class _Cursor:
    def __init__(self, data: mmap.mmap, at: int):
        self.data, self.at = data, at

    def numbers(self, layout: str) -> tuple:
        size = struct.calcsize("<" + layout)
        self._allow(size)
        values = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += size
        return values

    def _allow(self, size: int) -> None:
        if self.at + size > min(len(self.data), HEADER_BYTES):
            raise ValueError(f"it is truncated or damaged: its header does not end within {HEADER_BYTES:,} bytes")

    def string(self) -> str:
        (length,) = self.numbers("Q")
        self._allow(length)
        start, self.at = self.at, self.at + length
        return self.data[start : self.at].decode()

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind in NUMBERS:
            return self.numbers(NUMBERS[kind])[0]
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            raise ValueError(f"it is damaged: its metadata holds a value of type {kind}, which does not exist")
        kind, count = self.numbers("IQ")
        if count > LARGEST_ARRAY or depth == DEPTH:
            raise ValueError(
                f"it is damaged: an array of {count:,} values, {depth} deep; allowed are {LARGEST_ARRAY:,}"
            )
        if kind in NUMBERS:
            return list(self.numbers(f"{count}{NUMBERS[kind]}"))
        return [self.value(kind, depth + 1) for _ in range(count)]
