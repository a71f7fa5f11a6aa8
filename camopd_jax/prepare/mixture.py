"""Prompts from several sources in given parts: the general ones of Nemotron, and the medical ones."""

from pathlib import Path

from camopd_jax import metrics
from camopd_jax.prepare import sample, work
from camopd_jax.prepare.recipes import Messages, Stream
from camopd_jax.prepare.work import Order

RULE = (
    "of each source the different prompts whose SHA-256 of seed and content is smallest; a prompt that an earlier "
    "source gave is not taken again; the file is in the order of these hashes"
)


def make(order: Order) -> None:
    """Write the prompts of an order and their manifest.

    Raises:
      ValueError: one line: a source cannot be read, or has too few rows.
    """
    wanted = sample.parts(order.count, {s.name: s.weight for s in order.streams})
    with work.begun(order) as place:
        rows, records, anew = [], {}, False
        for stream in order.streams:
            path = place / f"{stream.name}.json"
            state = None if anew else work.left(path, stream)
            state = state or {"kept": [], "earlier": 0} | work.fresh(stream)
            if wanted[stream.name] and not state["done"]:
                anew = True  # and so are the later ones, from which the prompts of this one are left out
                _read(order, stream, state, wanted[stream.name], path, {key for key, _, _ in rows})
            kept = state["kept"]
            rows += [(key, stream.name, messages) for key, _, messages in kept]
            counts = {"kept": len(kept), "duplicates_of_kept": sum(times - 1 for _, times, _ in kept)}
            records[stream.name] = work.source_record(state, **counts, in_earlier_sources=state["earlier"])
            print(f"{stream.name}: {len(kept):,} of {state['rows']:,} rows", flush=True)
        out = ({"id": f"{name}-{key[:16]}", "source": name, "messages": text} for key, name, text in sorted(rows))
        written = work.write_rows(order.outputs[0], out)
        work.write_manifest(order, [written], records, rule=RULE)
    print(f"{written['rows']:,} prompts: {order.outputs[0]}; {order.manifest}", flush=True)


def _read(order: Order, stream: Stream, state: dict, wanted: int, path: Path, earlier: set[str]) -> None:
    """Read a source on; then `kept` of its state has [key, times, messages] of the rows that are taken."""
    smallest = sample.Smallest(wanted, state["kept"])

    def use(messages: Messages) -> None:
        key = sample.key_of(messages, order.seed)
        if key in earlier:
            state["earlier"] += 1
        else:
            smallest.add(key, messages)

    def save() -> None:
        state["kept"] = smallest.rows()
        metrics.write_json(path, state)

    work.read(order, stream, work.opened(order, stream, state), state, use, save)
    if len(state["kept"]) < wanted:
        path.unlink(missing_ok=True)
        without = ", leave it out with --categories" if order.recipe == "nemotron" else ""
        otherwise = f"ask for fewer with --count{without}, or name another source with --{stream.name}"
        raise work.too_few(stream, state, len(state["kept"]), wanted, otherwise)
