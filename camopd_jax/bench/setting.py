"""What is measured: the arguments of bin/bench.py, checked before anything is computed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PARTS = ("rollout", "scoring", "training", "fraction", "step")


@dataclass(frozen=True)
class Setting:
    """The arguments of bin/bench.py; 0 for a number of the micro-batch: computed from the lengths."""

    model: str  # a model source, or random:ARCHITECTURE
    prompts: int
    prompt_tokens: int  # of each prompt
    new_tokens: int  # of each response, or of the longest
    rows_at_once: int  # rows that are decoded together
    precision: str  # "float32" or "bfloat16"
    mesh: tuple[int, ...]  # replica, fsdp, tensor
    lengths: str  # "fixed" or "heavy"
    selected: tuple[float, ...]  # fractions of the batch
    repeats: int
    parts: tuple[str, ...]
    micro_tokens: int
    micro_rows: int
    width: int
    slots: int
    logit_chunk: int
    remat: str
    seed: int
    out: Path | None

    @property
    def size(self) -> int:
        """Bytes of a number in a forward pass."""
        return 2 if self.precision == "bfloat16" else 4


def check(s: Setting) -> None:
    """Raise ValueError where the arguments alone are wrong."""
    counts = (("prompts", 1), ("prompt_tokens", 1), ("new_tokens", 2), ("rows_at_once", 1), ("repeats", 1), ("seed", 0))
    of_micro = ("micro_tokens", "micro_rows", "width", "slots", "logit_chunk")
    for name, least in (*counts, *((name, 0) for name in of_micro)):
        if getattr(s, name) < least:
            raise ValueError(f"--{name}={getattr(s, name)}: allowed is a whole number, {least} or more")
    if bool(s.width) != bool(s.slots):
        raise ValueError("--width and --slots belong together: give both, or neither")
    for name in s.parts:
        if name not in PARTS:
            raise ValueError(f"--parts: there is no part {name!r}; allowed are {', '.join(PARTS)}, with commas between")
    if not s.parts:
        raise ValueError(f"--parts is empty; allowed are {', '.join(PARTS)}, with commas between")
    if len(s.selected) < 2 or any(not 0 < x <= 1 for x in s.selected) or 1.0 not in s.selected:
        raise ValueError(
            f"--selected={','.join(f'{x:g}' for x in s.selected)}: allowed are two fractions or more, above 0 and at "
            "most 1, of which one is 1"
        )
    if s.lengths == "heavy" and s.prompts <= s.rows_at_once:
        raise ValueError(
            f"--lengths=heavy: with {s.prompts} prompts and {s.rows_at_once} rows at once no finished row is filled "
            "again; allowed are more --prompts than --rows_at_once"
        )
    if s.out is not None and s.out.exists():
        raise ValueError(f"--out={s.out}: is there already; give another name")


def integers(name: str, words: Sequence[str], count: int) -> tuple[int, ...]:
    """The whole numbers of a flag with commas between.

    Raises:
      ValueError: if they are not `count` whole numbers.
    """
    try:
        found = tuple(int(word) for word in words)
    except ValueError:
        found = ()
    if len(found) != count:
        raise ValueError(f"--{name}={','.join(words)}: allowed are {count} whole numbers with commas between")
    return found


def fractions(name: str, words: Sequence[str]) -> tuple[float, ...]:
    """The numbers of a flag with commas between.

    Raises:
      ValueError: if one is no number.
    """
    try:
        found = tuple(float(word) for word in words)
    except ValueError:
        found = (math.nan,)
    if any(math.isnan(x) for x in found):
        raise ValueError(f"--{name}={','.join(words)}: allowed are numbers with commas between")
    return found
