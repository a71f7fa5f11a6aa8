"""What the numbers of an experiment say, in sentences that are made from them."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from camopd_jax.experiment.results import Results, short
from camopd_jax.experiment.tables import signed
from camopd_jax.experiment.verdicts import Comparison, Ordering

COUNTED = {"holds": "held", "reversed": "reversed", "not told apart": "not told apart"}


def compared(found: Sequence[Comparison]) -> list[str]:
    """A sentence a pair."""
    by_pair: dict[tuple[str, str], dict[str, list[str]]] = {}
    seeds = {(c.a, c.b): c.seeds for c in found}
    for c in found:
        said = short(c.line)
        if c.verdict != "not told apart":
            said += f" ({signed(c.bootstrap, c.line.digits)})"
        by_pair.setdefault((c.a, c.b), {}).setdefault(c.verdict, []).append(said)
    out = []
    for (a, b), by_verdict in by_pair.items():
        parts = [
            f"{verdict} in {', '.join(by_verdict[verdict])}"
            for verdict in ("better", "worse", "not told apart")
            if verdict in by_verdict
        ]
        alone = " (One seed: how much seeds differ is not in this.)" if seeds[a, b] == 1 else ""
        out.append(f"**{a}** against {b}: {'; '.join(parts)}.{alone}")
    return out


def ordered(found: Sequence[Ordering]) -> list[str]:
    """A sentence a measure: how many of the paper's orderings hold, and which are reversed."""
    out = []
    for aspect, measure in dict.fromkeys((o.aspect, o.line.measure) for o in found):
        mine = [o for o in found if (o.aspect, o.line.measure) == (aspect, measure)]
        counts = Counter(o.verdict for o in mine)
        run = len(mine) - counts["not run"]
        text = (
            f"{aspect.capitalize()} average, here {short(mine[0].line)}: {run} of the paper's {len(mine)} orderings run"
        )
        if run:
            text += f"; {', '.join(f'{counts[v]} {w}' for v, w in COUNTED.items())}"
        text += "."
        for verdict, word in (("holds", "Held"), ("reversed", "Reversed")):
            those = [f"{o.above} > {o.below}" for o in mine if o.verdict == verdict]
            text += f" {word}: {', '.join(those)}." if those else ""
        out.append(text)
    return out


def counteraction(results: Results) -> list[str]:
    """A sentence a cell and pair of branches: how often their gradients pointed against each other."""
    out = []
    for cell, runs in results.runs.items():
        rows = [row for run in runs.values() for row in run.diagnostics]
        for pair in dict.fromkeys(pair for row in rows for pair in row["pairs"]):
            mine = [row["pairs"][pair] for row in rows if pair in row["pairs"]]
            mine = [x for x in mine if x["cosine"] is not None]  # None: a gradient of 0, as of a branch at its teacher
            if not mine:
                continue
            negative = sum(x["dot"] < 0 for x in mine)
            cosine = np.mean([x["cosine"] for x in mine])
            out.append(
                f"**{cell}**: the gradients of {pair.replace('/', ' and ')} had a negative dot product in {negative} "
                f"of {len(mine)} measurements (mean cosine {cosine:+.3f})."
            )
    return out


def coherence(results: Results) -> list[str]:
    """A sentence a cell: the coherence gain of what was selected, and its share, by branch."""
    out = []
    for cell, runs in results.runs.items():
        rows = [row["branches"] for run in runs.values() for row in run.diagnostics]
        parts = []
        for name in dict.fromkeys(name for row in rows for name in row):
            mine = [row[name] for row in rows if name in row and row[name]["selected"]]
            mine = [b for b in mine if b["gain"] is not None]
            if mine:
                gain = np.mean([b["gain"] for b in mine])
                share = np.mean([b["selected"] / b["batch"] for b in mine])
                parts.append(f"{name} {gain:+.1f} % with {share:.2f} of the batch selected")
        if parts:
            out.append(f"**{cell}**: mean coherence gain {', '.join(parts)}.")
    return out
