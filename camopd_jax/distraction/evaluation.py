"""bin/evaluate.py --tasks=distractionif: flags, from the instances to the tables."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import flags

from camopd_jax import lock, sharding
from camopd_jax.chat import Chat
from camopd_jax.distraction import answering, asking, chosen, drawing, questions, results
from camopd_jax.distraction.instance import CONTROLS
from camopd_jax.distraction.questions import Question
from camopd_jax.endpoint import Endpoint
from camopd_jax.engine import Policy
from camopd_jax.evals import likelihood
from camopd_jax.models import load
from camopd_jax.models.conversion import cache_dir

TASK = "distractionif"
FLAGS = (*chosen.FLAGS, "controls", "max_new_tokens", "temperature", "against")
KEPT = "asked"  # of a server's answers, a file each: those that had come when the evaluation was stopped


def define(values: flags.FlagValues) -> None:
    """Define `FLAGS`."""
    chosen.define(values)
    flags.DEFINE_list("controls", list(CONTROLS), f"Some of {', '.join(CONTROLS)}.", flag_values=values)
    flags.DEFINE_integer("max_new_tokens", 128, "Of an answer.", flag_values=values)
    flags.DEFINE_float("temperature", 0.0, "Of answers; 0 is greedy.", flag_values=values)
    flags.DEFINE_string(
        "against", None, "The --out of another model's evaluation, whose figures are taken off.", flag_values=values
    )


def run(values: flags.FlagValues, out: Path, model: str | Endpoint, withheld: str) -> None:
    """Ask what is not answered yet, then write and print the figures.

    Args:
      model: a model source, or the model of a server.
      withheld: why the text of answers is not written, or "".

    Raises:
      ValueError: if a flag has a value that is not allowed, or `out` holds another evaluation.
    """
    if values.max_new_tokens < 1:
        raise ValueError(f"--max_new_tokens={values.max_new_tokens}: allowed is a whole number, 1 or more")
    if not 0 <= values.temperature < float("inf"):
        raise ValueError(f"--temperature={values.temperature}: allowed is 0 (greedy) or more")
    paradigms = chosen.some_of("paradigms", values.paradigms, chosen.PARADIGMS)
    controls = chosen.some_of("controls", values.controls, CONTROLS)
    name, instances = chosen.instances(values, values.limit)
    asked = questions.questions(instances, paradigms, controls)
    against, before = results.earlier(values.against) if values.against is not None else ("", None)
    if before is not None and {row["id"] for row in before} != {q.id for q in asked}:
        raise ValueError(f"--against={values.against}: has answers to other questions; allowed are the same")
    how = answering.How(values.max_new_tokens, values.temperature, values.think_end_token)
    setting = {"instances": name, "questions": asking.digest(asked), **dataclasses.asdict(how)}
    if isinstance(model, Endpoint):
        setting |= {"model": model.model, "fingerprint": f"{model.model} of {model.base_url}"}
        answer = answering.of_server(model, how, values.concurrency)
    else:
        answer, names = _on_devices(values, model, asked, how)
        setting |= names
    held = lock.take(out / "lock", f"--out={out} is in use")
    try:
        asking.prepare(out, setting)
        rows = asking.ask(asked, answer, out, not withheld)
        found = results.results(setting, rows, before, against)
        results.write(out, found)
        drawing.draw(out, found)
    finally:
        held.release()
    print(results.console(results.summary(found)))
    print(f"answers, results.json, summary.md and plots/ are in {out}" + (f"; {withheld}" if withheld else ""))


def _on_devices(
    values: flags.FlagValues, source: str, asked: Sequence[Question], how: answering.How
) -> tuple[asking.Answer, dict]:
    """A model on the devices of this machine, and what names it and how it is run."""
    if values.dtype == "float32":
        jax.config.update("jax_default_matmul_precision", "highest")  # float32 means float32 on every backend
    model = load.load(source)
    prompts = answering.encode(model.tokenizer, Chat("", values.thinking, values.date), asked)
    answering.check_room(prompts, values.max_new_tokens, model.cfg.max_positions, f"--model={source}")
    mesh = sharding.make_mesh(-1, 1, values.tensor)
    engine = likelihood.engine_of(model, mesh, values.dtype, likelihood.LOGIT_CHUNK)
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))
    print(f"{source} on {jax.device_count()} {jax.devices()[0].device_kind}, {values.dtype}", flush=True)
    policy = Policy(engine, lambda: engine.place(model.read, values.dtype))
    names = {"model": source, "fingerprint": model.fingerprint, "dtype": values.dtype, "seed": values.seed,
             "thinking": values.thinking, "date": values.date}  # fmt: skip
    return answering.of_model(policy, prompts, how, values.batch_size, values.seed), names
