"""Bytes that a compiled program moves between devices, read from its text."""

import re
from collections import Counter

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8}
KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
CALLED = re.compile(r"(body|condition|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)")
TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')


def moved(text: str, unknown: int = 1) -> Counter:
    """Bytes of the outcomes of each kind of collective, on one device; a loop's body counts as often as it runs.

    Args:
      text: of a compiled program; unknown: how often a loop runs whose number of rounds the program does not say.
    """
    bodies, entry, name = {}, None, None
    for line in text.splitlines():
        found = COMPUTATION.match(line)
        if found:
            name = found.group(1)
            bodies[name] = []
            entry = name if line.startswith("ENTRY") else entry
        elif name:
            bodies[name].append(line)
    total = Counter()

    def visit(name, times):
        for line in bodies.get(name, ()):
            kind = next((k for k in KINDS if re.search(rf" {k}(-start)?\(", line)), None)
            if kind:
                total[kind] += times * _outcome(line.split(f" {kind}")[0])
                continue
            trips = TRIPS.search(line)
            for role, called in CALLED.findall(line):
                loop = role == "body"
                visit(called, times * (int(trips.group(1)) if trips else unknown) if loop else times)
            for branches in re.findall(r"branch_computations=\{([^}]*)\}", line):
                for called in branches.split(","):
                    visit(called.strip().lstrip("%"), times)

    visit(entry, 1)
    return total


def _outcome(text: str) -> int:
    """Bytes of the arrays that the text of an instruction's type names."""
    size = 0
    for dtype, dims in re.findall(r"(\w+)\[([\d,]*)\]", text.split("=", 1)[1]):
        count = BYTES[dtype]
        for d in dims.split(","):
            count *= int(d) if d else 1
        size += count
    return size
