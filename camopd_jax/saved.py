"""A step that a run has kept, as a model: read beside a run that goes on, and nothing of it changed."""

import time
from pathlib import Path

from ml_collections import ConfigDict

from camopd_jax import inputs, rules, sharding, sums, workdirs
from camopd_jax.checkpoint import Checkpoints, Unreadable
from camopd_jax.engine import Engine, Numerics
from camopd_jax.models import load
from camopd_jax.packing import PackShape
from camopd_jax.student import Student

REMOVED_SECONDS = 2  # until a checkpoint that a run removes is gone: file by file, its directory last


def export(workdir: Path, step: int | None, out: Path, dtype: str) -> int:
    """Write the student of a kept step of a run as a model directory, and return which step that is.

    Of the config no more is read than says what the student is, so that a run of an older version will do.

    Raises:
      ValueError: if the run did not keep the step, it is damaged or just removed, or its base is not what it was.
    """
    record = workdirs.read_record(workdir)
    if "protocol" in record["config"]:
        raise ValueError(
            f"{workdir} is a run of ICD coding, which exports its best step when it ends; allowed is a run that trains "
            "a language model"
        )
    config = ConfigDict(record["config"])
    with Checkpoints(
        workdir / "checkpoints", keep_last=1, keep_best=0, best_metric="", read_only=True
    ) as checkpoints:  # fmt: skip
        kept = checkpoints.steps()
        if not kept:
            raise ValueError(f"{workdir} has no finished checkpoint yet")
        if step not in (None, *kept):
            raise ValueError(f"--step={step}: {workdir} has kept the steps {', '.join(map(str, kept))}")
        taken = kept[-1] if step is None else step
        wrong = sums.damage(workdir / "checkpoints" / str(taken), quick=False)
        if wrong and _removed(workdir, taken):
            raise ValueError(_gone(workdir, taken))
        if wrong:
            others = " or ".join(f"--step={k}" for k in reversed(kept) if k != taken) or "another run"
            raise ValueError(f"{workdir}: the checkpoint of step {taken} is damaged ({wrong}); take {others}")
        try:
            name = rules.base_branch(config)
            base = load.load(record["models"][name][0])  # an hf: source with the commit that it was
            cfg, numerics = inputs.with_adapter(config, base.cfg), Numerics(1.0, 1, config.precision, 0)
        except (KeyError, AttributeError) as error:
            raise ValueError(f"{workdir}: config.json does not say what the student is ({error})") from None
        workdirs.check_same(workdir, {name: [base.source, base.fingerprint]}, {}, ())
        mesh = sharding.make_mesh(replica=1, fsdp=-1, tensor=1)  # not the run's own
        nothing = PackShape(sharding.data_shards(mesh), 1, 1)  # is packed or scored
        engine = Engine(cfg, mesh, base.tokenizer, base.stop_ids, nothing, numerics)
        student = Student(engine, base)
        try:
            trained = checkpoints.params(student.abstract(), taken)
        except Unreadable:
            if _removed(workdir, taken):
                raise ValueError(_gone(workdir, taken)) from None
            raise
    student.export(out, trained, dtype, write=True)
    return taken


def _removed(workdir: Path, step: int) -> bool:
    """Whether the run has let go of a step that was there, or is just doing so."""
    late = time.monotonic() + REMOVED_SECONDS
    while step in workdirs.saved_steps(workdir) and time.monotonic() < late:
        time.sleep(0.1)
    return step not in workdirs.saved_steps(workdir)


def _gone(workdir: Path, step: int) -> str:
    kept = ", ".join(map(str, workdirs.saved_steps(workdir)))
    return f"{workdir}: the run has just removed its checkpoint of step {step}; it has kept the steps {kept or 'none'}"
