"""Measure the parts that were asked for, with the machine's limits before and after each, and write what was found."""

import dataclasses
import datetime
import gc
import platform
from importlib import metadata

import jax

from camopd_jax import metrics, plan, sharding, workdirs
from camopd_jax.bench import batch, meter, parts, report, setting, subject
from camopd_jax.bench.limits import Machine, Rates, Sizes
from camopd_jax.bench.parts import Bench
from camopd_jax.bench.setting import Setting
from camopd_jax.bench.subject import Subject
from camopd_jax.engine import Engine, Numerics

LOGITS = 512  # tokens whose logits exist at a time, at most, where --logit_chunk leaves it open
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def run(s: Setting, sizes: Sizes | None) -> dict:
    """Measure, print a table, write s.out if it is given, and return the record.

    Args:
      sizes: of the operands by which the machine is measured; None: those for its kind.

    Raises:
      ValueError: if an argument is wrong, before anything is computed.
    """
    setting.check(s)
    subject.check(s.model)
    mesh = sharding.make_mesh(*s.mesh)
    if s.out is not None:
        workdirs.check_writable(f"--out={s.out}", s.out.parent)
    if s.precision == "float32":
        jax.config.update("jax_default_matmul_precision", "highest")  # float32 means float32 on every backend
    model = subject.find(s.model)
    bench = _bench(s, model, mesh)
    machine = Machine(s.precision, sizes)
    result = _head(s, bench, machine)
    print(_title(result), flush=True)
    progress = metrics.Progress("bench", len(s.parts), 0)
    before, each = machine.rates(), []
    for number, name in enumerate(s.parts, start=1):
        found, after = _measure(bench, name, machine)
        each.append((name, found, before, after))
        progress.show(number, name)
        before = after
    progress.close()
    for name, (rows, costs), before, after in each:
        rates = Rates(max(before.flops, after.flops), max(before.bytes, after.bytes))
        of_part = {"before": vars(before), "after": vars(after), "taken": vars(rates)}
        result["parts"][name] = {
            "rows": [report.record(row, rates, machine.peak()) for row in rows],
            "limits": of_part,
            **costs,
        }
    count, seconds = meter.compiled()
    result |= {"compilations": count, "seconds_compiling": seconds}
    print("\n".join([*report.lines(result), _foot(result)]), flush=True)
    if s.out is not None:
        s.out.parent.mkdir(parents=True, exist_ok=True)
        metrics.write_json(s.out, result, indent=2)
    return result


def _bench(s: Setting, model: Subject, mesh) -> Bench:
    longest = s.prompt_tokens + s.new_tokens
    if longest > model.cfg.max_positions:
        raise ValueError(
            f"--prompt_tokens={s.prompt_tokens} and --new_tokens={s.new_tokens}: {s.model} was made for "
            f"{model.cfg.max_positions} tokens"
        )
    prompts, responses = batch.prompts(s, model.vocab), batch.responses(s)
    rollout = batch.rollout(prompts, responses, model.vocab, s.seed)
    shape = batch.shape_of(s, rollout, mesh)
    slots = shape.rows * shape.slots
    chunk = s.logit_chunk or -(-slots // -(-slots // LOGITS))
    engine = Engine(model.cfg, mesh, model.tokenizer, (), shape, Numerics(1.0, chunk, s.precision, model.vocab))
    return Bench(s, model, engine, prompts, responses, rollout)


def _measure(bench: Bench, name: str, machine: Machine) -> tuple[tuple[list, dict], Rates]:
    """The rows of a part with what it cost, and the machine's rates after it."""
    meter.forget_peak()
    count, seconds = meter.compiled()
    rows = parts.ALL[name](bench)
    memory, (count_after, seconds_after) = meter.peak_memory(), meter.compiled()
    gc.collect()  # a part's weights go before the next one's come
    costs = {
        "peak_memory": memory,
        "compilations": count_after - count,
        "seconds_compiling": seconds_after - seconds,
    }
    return (rows, costs), machine.rates()


def _head(s: Setting, bench: Bench, machine: Machine) -> dict:
    device, peak, cfg = jax.devices()[0], machine.peak(), bench.subject.cfg
    arguments = {f.name: getattr(s, f.name) for f in dataclasses.fields(s)} | {"out": str(s.out) if s.out else None}
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": device.device_kind,
        "devices": jax.device_count(),
        "backend": jax.default_backend(),
        "versions": {"python": platform.python_version()} | {p: metadata.version(p) for p in PACKAGES},
        "model": {
            "source": bench.subject.source,
            "fingerprint": bench.subject.fingerprint,
            "parameters_in_products": plan.parameters(cfg),
            "architecture": dataclasses.asdict(cfg),
        },
        "arguments": arguments,
        "micro_batch": dataclasses.asdict(bench.engine.shape) | {"logit_chunk": bench.engine.numerics.logit_chunk},
        "data_sheet": vars(peak) if peak else None,
        "parts": {},
    }


def _title(result: dict) -> str:
    a, micro = result["arguments"], result["micro_batch"]
    return (
        f"{a['model']} ({result['model']['parameters_in_products'] / 1e6:,.1f} million weights in products), "
        f"{a['precision']}, on {result['devices']} x {result['device']}: {a['prompts']} prompts of "
        f"{a['prompt_tokens']} tokens, {a['lengths']} responses of {a['new_tokens']}, {a['rows_at_once']} rows at "
        f"once; micro-batches of {micro['rows']} x {micro['width']} tokens"
    )


def _foot(result: dict) -> str:
    seen = [part["limits"][when] for part in result["parts"].values() for when in ("before", "after")]
    flops, moved = ([one[name] for one in seen] for name in ("flops", "bytes"))
    return (
        f"limits measured beside: products {min(flops) / 1e9:,.0f} to {max(flops) / 1e9:,.0f} GFLOP/s, copies "
        f"{min(moved) / 1e9:,.1f} to {max(moved) / 1e9:,.1f} GB/s read + written; {result['compilations']} programs "
        f"compiled in {result['seconds_compiling']:.0f} s"
    )
