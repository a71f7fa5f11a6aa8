"""bin/evaluate.py --tasks=distractionif: flags, from the instances to the tables."""

import dataclasses
from pathlib import Path

from absl import flags

from camopd_jax import lock
from camopd_jax.distraction import chosen, drawing, questions, results
from camopd_jax.distraction.instance import CONTROLS
from camopd_jax.endpoint import Endpoint
from camopd_jax.evals import answering, asking

TASK = "distractionif"
TOKENS = 128  # of an answer
FLAGS = (*chosen.FLAGS, "controls", "against")


def define(values: flags.FlagValues) -> None:
    """Define `FLAGS`."""
    chosen.define(values)
    flags.DEFINE_list("controls", list(CONTROLS), f"Some of {', '.join(CONTROLS)}.", flag_values=values)
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
    how = answering.how(values, TOKENS)
    paradigms = chosen.some_of("paradigms", values.paradigms, chosen.PARADIGMS)
    controls = chosen.some_of("controls", values.controls, CONTROLS)
    name, instances = chosen.instances(values, values.limit)
    asked = questions.questions(instances, paradigms, controls)
    against, before = results.earlier(values.against) if values.against is not None else ("", None)
    if before is not None and {row["id"] for row in before} != {q.id for q in asked}:
        raise ValueError(f"--against={values.against}: has answers to other questions; allowed are the same")
    answer, names = answering.who(values, model, asked, how)
    setting = {"instances": name, "questions": questions.digest(asked), **dataclasses.asdict(how), **names}
    held = lock.take(out / "lock", f"--out={out} is in use")
    try:
        asking.prepare(out, setting)
        rows = asking.ask(asked, answer, questions.judged, out, not withheld)
        found = results.results(setting, rows, before, against)
        results.write(out, found)
        drawing.draw(out, found)
    finally:
        held.release()
    print(results.console(results.summary(found)))
    print(f"answers, results.json, summary.md and plots/ are in {out}" + (f"; {withheld}" if withheld else ""))
