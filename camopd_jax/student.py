"""What of the student trains and where its weights lie: all of them, or an adapter beside weights held once."""

import contextlib
import functools
import hashlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import jax
from ml_collections import ConfigDict
from safetensors import SafetensorError

from camopd_jax import hosts, sums
from camopd_jax.camopd import system as camopd
from camopd_jax.engine import Engine, Policy
from camopd_jax.models import decoder, export, load, lora, weights
from camopd_jax.models.load import Model
from camopd_jax.step import Optimizer, Steps, build_steps, make_optimizer
from camopd_jax.types import Params

MASTER = "float32"  # of the parameters that train, whatever the forward pass computes in


@dataclass(frozen=True)
class Teacher:
    """A frozen model, and the ways in which a student can start from it."""

    policy: Policy
    fingerprint: str
    start: Callable[[], Params]  # places the parameters that train, of a student that starts as this model
    mixed: Callable[[float], Policy]  # alpha times the base's weights plus (1 - alpha) times this model's


class Student:
    """The student of a run: its base is the model from which it, or its specialisation, starts.

    With adapters (`engine.cfg.lora`) the base's weights are on the mesh once, in the dtype of the forward pass, and
    shared by every teacher that is the base or an adapter beside it; the student's start is then the base as well.
    """

    def __init__(self, engine: Engine, base: Model):
        self.engine, self.base = engine, base
        self._dtype = engine.numerics.dtype
        self._shared = functools.cache(lambda: lora.split(engine.place(base.read, self._dtype))[0])
        self._adapters = engine.cfg.lora is not None
        self.shapes = lora.split(engine.shapes)[1] if self._adapters else engine.shapes

    def frozen(self) -> Params:
        """The parameters beside which an adapter trains; {} where all parameters train."""
        return self._shared() if self._adapters else {}

    def whole(self, trained: Params) -> Params:
        """All parameters of a student, for those that train; nothing is copied."""
        return lora.join(self._shared(), trained) if self._adapters else trained

    def abstract(self) -> Params:
        """Shapes, dtypes and places of the parameters that train."""
        at = lora.split(self.engine.params_at)[1] if self._adapters else self.engine.params_at
        return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, MASTER, sharding=s), self.shapes, at)

    def fresh(self, seed: int) -> Params:
        """The parameters that train, at the base: an adapter that changes nothing yet, or the weights."""
        if self._adapters:
            return self._place_adapter(lora.start(self.shapes, seed), MASTER)
        return self.engine.place(self.base.read, MASTER)

    def given(self, model: Model, general: Model, seed: int) -> Teacher:
        """A model source as a teacher. An adapter can start only at the base."""
        shared = self._adapters and model is self.base
        cfg = replace(model.cfg, lora=self.engine.cfg.lora)
        engine = self.engine if cfg == self.engine.cfg else self.engine.of(model.cfg)

        def place() -> Params:
            if shared:
                return self.whole(engine.no_adapter(self._dtype))
            return engine.place(model.read, self._dtype)

        def mixed(alpha: float) -> Policy:
            read = weights.between(general.read, model.read, alpha)
            return Policy(engine, lambda: engine.place(read, self._dtype))

        def start() -> Params:
            return self.fresh(seed) if self._adapters else engine.place(model.read, MASTER)

        return Teacher(Policy(engine, place, held=shared), model.fingerprint, start, mixed)

    def save(self, directory: Path, trained: Params) -> None:
        """Write what `made` reads, on every host: a model directory, or an adapter in the PEFT library's layout.

        The sums of its files are beside them. What another run has put there meanwhile stays, unless a process of this
        run may have something else there.
        """
        replace = hosts.count() > 1

        def save(write: bool) -> None:
            with export.writing(directory, replace) if write else contextlib.nullcontext(directory) as staged:
                if self._adapters:
                    lora.save(staged, trained, self.engine.cfg.lora, self.base.source, write)
                else:
                    self.export(staged, trained, MASTER, write)
                if write:
                    sums.write(staged, step=None)

        hosts.write(directory, save)

    def damage(self, directory: Path) -> str | None:
        """What is wrong with what `save` wrote; None: nothing that can be seen.

        What a version that wrote no sums has left there counts as whole if it opens.
        """
        if (directory / sums.FILE).exists():
            return sums.damage(directory, quick=False)
        try:
            self.made(directory)
        except (ValueError, OSError, KeyError, SafetensorError) as error:
            return " ".join(str(error).split())
        return None

    def remove_damaged(self, directory: Path) -> list[str]:
        """Remove what `save` wrote on every host where it is damaged; says what was wrong there. All must call this."""

        def remove() -> str | None:
            wrong = self.damage(directory) if directory.is_dir() else None
            if wrong:  # out of the way first: a kill may leave no part of it under its name
                scratch = Path(tempfile.mkdtemp(dir=directory.parent, prefix=export.STAGED))
                with contextlib.suppress(FileNotFoundError):  # another run has just done so
                    directory.rename(scratch / "damaged")
                shutil.rmtree(scratch)
            return wrong

        with hosts.together():
            found = [wrong for wrong, _ in hosts.gather(hosts.in_turn(remove))]
        return [wrong for wrong in dict.fromkeys(found) if wrong]

    def export(self, directory: Path, trained: Params, dtype: str, write: bool) -> None:
        """Write the student as a model directory, its adapter merged into the weights; all processes must call it."""
        engine, read = self.engine, weights.of_params(trained)
        if self._adapters:  # from the source, whose weights may be more precise than those on the mesh
            read = weights.merged(self.base.read, trained, engine.cfg.lora)
        export.save_directory(
            directory, engine.cfg, read, engine.tokenizer, stop_ids=engine.stop_ids, dtype=dtype, write=write
        )

    def made(self, directory: Path) -> Teacher:
        """What `save` wrote, as a teacher."""
        if not self._adapters:
            return self.given(load.load_directory(directory, f"path:{directory}"), self.base, seed=0)
        adapter = lora.load(directory, self.engine.cfg, self.shapes)

        def policy(factor: float) -> Policy:
            return Policy(
                self.engine,
                lambda: self.whole(self._place_adapter(lora.scaled(adapter, factor), self._dtype)),
                held=True,
            )

        with (directory / lora.FILE).open("rb") as file:
            fingerprint = f"{self.base.fingerprint}-{hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"
        return Teacher(
            policy(1.0), fingerprint, lambda: self._place_adapter(adapter, MASTER), lambda alpha: policy(1.0 - alpha)
        )

    def _place_adapter(self, adapter: Params, dtype: str) -> Params:
        return lora.place(adapter, self.engine.params_at, dtype)


def steps_of(
    config: ConfigDict, student: Student, objective: Callable, optimizer: Optimizer, temperature: float,
    function: Callable,
) -> Steps:  # fmt: skip
    """The update of a student; `function` of `scoring` is what is differentiated, at a temperature."""
    score = student.engine.scorer(temperature, config.micro.remat, function)
    return build_steps(score, student.shapes, student.engine.mesh, decoder.AXES, objective, optimizer, student.frozen())


def recovery_steps(config: ConfigDict, student: Student) -> Steps:
    """The update of a recovery; the self-tests of its start have the same."""
    function, objective = camopd.scored_by(config.camopd)
    optimizer = make_optimizer(**config.optim, decay_steps=0)
    return steps_of(config, student, objective, optimizer, config.rollout.temperature, function)
