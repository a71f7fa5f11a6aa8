"""Bytes that a compiled program takes from other devices, read from its text."""

import re

BITS = {"pred": 8, "s8": 8, "u8": 8, "bf16": 16, "f16": 16, "s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64}
KINDS = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
OPERATION = re.compile(rf" = (?P<shapes>.*?) (?P<kind>{KINDS})(?P<start>-start)?\(")
SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")


def received(text: str) -> float:
    """Bytes that one device receives in all exchanges of a program, each counted once however often a loop runs it.

    Of n devices that exchange: all-gather and all-to-all (n - 1)/n of what comes out, all-reduce twice that,
    reduce-scatter (n - 1) times, collective-permute all of it.
    """
    total = 0.0
    for line in text.splitlines():
        match = OPERATION.search(line)
        if not match:
            continue
        shapes = [(kind, dims) for kind, dims in SHAPE.findall(match["shapes"]) if kind in BITS]
        if match["start"] and match["kind"] in ("all-gather", "collective-permute"):  # (operands, results, ...)
            shapes = shapes[1:2]
        size = sum(BITS[kind] / 8 * _product(dims) for kind, dims in shapes)
        n = _group(line)
        share = {"all-reduce": 2 * (n - 1) / n, "reduce-scatter": n - 1, "collective-permute": 1}
        total += size * share.get(match["kind"], (n - 1) / n)
    return total


def _product(dims: str) -> int:
    out = 1
    for size in filter(None, dims.split(",")):
        out *= int(size)
    return out


def _group(line: str) -> int:
    """Devices in one exchange: replica_groups={{0,1},{2,3}}, [2,2]<=[4] or mesh['a'=2,'b'=2] {'a'}."""
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", line)
    if listed:
        return len(listed[1].split(","))
    counted = re.search(r"replica_groups=\[\d+,(\d+)\]", line)
    if counted:
        return int(counted[1])
    named = re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", line)
    sizes = dict(re.findall(r"('\w+')=(\d+)", named[1])) if named else {}
    return _product(",".join(sizes[axis] for axis in named[2].split(","))) if named else 1
