"""Rows as records of the JSON file and as lines of a table."""

from camopd_jax.bench import meter
from camopd_jax.bench.limits import Rates
from camopd_jax.bench.parts import Row

SLOPE = 0.15  # by how much the slope of update times over fractions may differ from 1
MOVED = 0.10  # by how much a limit may differ before and after a part without a word


def record(row: Row, rates: Rates, peak: Rates | None) -> dict:
    """What a row says, with its floor at the measured rates, and its share of the data sheet's where there is one."""
    seconds = meter.median(row.seconds)
    floor = sum(w.seconds(rates.flops, rates.bytes) for w in row.works)
    longest = max(row.works, key=lambda w: w.seconds(rates.flops, rates.bytes))
    flops, moved = (sum(getattr(w, name) for w in row.works) for name in ("flops", "bytes"))
    found = {
        "name": row.name.strip(),
        "tokens": row.tokens,
        "seconds": seconds,
        "seconds_each": row.seconds,
        "tokens_per_second": row.tokens / seconds,
        "floor_seconds": floor,
        "fraction_of_limit": floor / seconds,
        "bound": longest.bound(rates.flops, rates.bytes),
        "flops": flops,
        "bytes": moved,
        "mfu": flops / seconds / peak.flops if peak else None,
        "bandwidth_of_peak": moved / seconds / peak.bytes if peak else None,
    }
    more = dict(row.more)
    if "flops_unneeded" in more:
        found["fraction_needed"] = (flops - more.pop("flops_unneeded")) / rates.flops / seconds
    if "slope" in more:
        found["slope_passes"] = abs(more["slope"] - 1) <= SLOPE
    return found | more


COLUMNS = (("part", 18), ("tokens", 8), ("tokens/s", 10), ("ms", 10), ("of limit", 9), ("bound", 8), ("MFU", 7),
           ("padding", 8), ("GB at most", 10))  # fmt: skip


def lines(result: dict) -> list[str]:
    """The table: a head, and a line for each row of each part."""
    out = [_line([name for name, _ in COLUMNS])]
    for part in result["parts"].values():
        for i, row in enumerate(part["rows"]):
            cells = [
                row["name"],
                f"{row['tokens']:,}",
                f"{row['tokens_per_second']:,.1f}",
                f"{1e3 * row['seconds']:,.1f}",
                _percent(row["fraction_of_limit"]),
                row["bound"],
                _percent(row["mfu"]),
                _percent(row.get("padding")),
                "" if i else f"{part['peak_memory'] / 1e9:.2f}",
            ]
            out.append(_line(cells))
        out += [f"    {line}" for row in part["rows"] for line in _notes(row)]
        out += [f"    {line}" for line in _moved(part["limits"])]
    return out


def _line(cells: list[str]) -> str:
    widths = [n for _, n in COLUMNS]
    first, *others = (c.rjust(n) for c, n in zip(cells, widths, strict=True))
    return "  ".join([cells[0].ljust(len(first)), *others])


def _moved(limits: dict) -> list[str]:
    """A warning where the machine was not the same before and after a part."""
    found = []
    for name, what in (("flops", "products"), ("bytes", "copies")):
        low, high = sorted(limits[when][name] for when in ("before", "after"))
        if low < (1 - MOVED) * high:
            found.append(f"{what} before and after differ by {1 - low / high:.0%}: does something else run here?")
    return found


def _notes(row: dict) -> list[str]:
    """What of a row no column holds."""
    found = []
    if "idle" in row:
        found.append(f"static batches: {row['idle']:.0%} of the decoded places belong to rows that had ended")
    if "over_static" in row:
        found.append(f"refilled rows: {row['over_static']:.2f} times the tokens/s of static batches")
    if "slope" in row:
        passed = "within" if row["slope_passes"] else "NOT within"
        found.append(
            f"time over fraction of the batch: slope {row['slope']:.2f} of proportional, {passed} {SLOPE:.0%}; "
            f"{row['slope_with_fixed']:.2f} with the {1e3 * row['seconds_fixed']:.0f} ms that every update costs"
        )
    if "seconds_rollout" in row:
        found.append(
            f"rollout {row['seconds_rollout']:.2f} s, scores {row['seconds_score']:.2f} s, update of "
            f"{row['selected']} of {row['batch']} responses {row['seconds_update']:.2f} s"
        )
    return found


def _percent(x: float | None) -> str:
    return "" if x is None else f"{100 * x:.1f} %"
