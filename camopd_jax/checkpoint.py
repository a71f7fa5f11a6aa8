"""Orbax checkpoints of the whole training state: asynchronous, the last few and the best."""

import gc
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from camopd_jax import sums
from camopd_jax.types import Params, TrainState

UNFINISHED = ".orbax-checkpoint-tmp"  # ends the name of a checkpoint until it is whole
REASON = re.compile(r"\[os_error_code='(\d+)'")  # in what the library that writes the arrays says


class Unreadable(ValueError):
    """A checkpoint that cannot be read, and how to go on without it."""


class Checkpoints:
    """The checkpoints of one run; a checkpoint's number is the updates done.

    A checkpoint gets its name when it is whole and holds the sums of its files, all in the background.

    With `read_only` nothing there changes, not even what a run beside it is just saving.
    """

    def __init__(
        self, directory: Path, *, keep_last: int, keep_best: int, best_metric: str, higher_is_better: bool = False,
        read_only: bool = False,
    ):  # fmt: skip
        def goodness(metrics):
            return metrics[best_metric] if higher_is_better else -metrics[best_metric]

        kept = [policies.LatestN(keep_last)]
        if keep_best:
            kept.append(policies.BestN(get_metric_fn=goodness, n=keep_best, keep_checkpoints_without_metrics=False))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(kept),
            best_fn=goodness if keep_best else None,  # without it no metrics are written, and a restart forgets them
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._sum),
        )
        self._saving, self._scored = 0, bool(keep_best)
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

    def latest(self) -> int | None:
        return self._manager.latest_step()

    def save(self, state: TrainState, step: int, metrics: dict[str, float] | None = None) -> None:
        """Start saving; the devices are free again when this returns, the files follow in the background."""
        self.wait()
        self._saving = step
        with self._written():
            self._manager.save(step, args=ocp.args.StandardSave(_plain(state)), metrics=metrics, force=True)

    def score(self, state: TrainState, step: int, metrics: dict[str, float]) -> None:
        """Save the newest checkpoint again, with the evaluation for which there was no time when it was saved.

        Only so it can be kept as one of the best. Where there is no other to fall back on meanwhile, it stays as it is.
        """
        if self._scored and step == self.latest() and len(self.steps()) > 1:
            self._manager.delete(step)
            self.save(state, step, metrics)

    def steps(self) -> list[int]:
        """The steps that are kept."""
        return sorted(self._manager.all_steps())

    def restore(self, abstract: TrainState, step: int | None = None) -> TrainState:
        """A checkpoint (None: the newest), onto the shardings of `abstract` (a state of ShapeDtypeStructs).

        Raises:
          Unreadable: if it is damaged, or of another model or optimiser.
        """
        got = self._read(step, ocp.args.StandardRestore(_plain(abstract)))
        return abstract.replace(**got | {"key": jax.random.wrap_key_data(got["key"])})

    def params(self, abstract: Params, step: int) -> Params:
        """The parameters alone of a checkpoint, as `restore` places them.

        Raises:
          Unreadable: if it is damaged, or of another model.
        """
        where = ocp.checkpoint_utils.construct_restore_args({"params": abstract})
        wanted = ocp.args.PyTreeRestore({"params": abstract}, restore_args=where, partial_restore=True)
        return self._read(step, wanted)["params"]

    def _read(self, step: int | None, wanted: ocp.args.CheckpointArgs) -> dict:
        step = self.latest() if step is None else step
        try:
            return self._manager.restore(step, args=wanted)
        except (ValueError, OSError, KeyError) as error:
            before = max((s for s in self.steps() if s < step), default=None)
            then = "begins again" if before is None else f"goes on from step {before}"
            raise Unreadable(
                f"the checkpoint {self._manager.directory / str(step)} cannot be read "
                f"({' '.join(str(error).split())[:200]}); unless it is of another model or optimiser, move it away, "
                f"and the run {then}"
            ) from error

    def wait(self) -> None:
        """Return when everything that was saved is on disk.

        Raises:
          OSError: if it could not be written; the checkpoints before it are whole.
        """
        with self._written():
            self._manager.wait_until_finished()

    def _sum(self) -> None:
        """Called on the writer, in the background, when all processes have written and before the directory's name."""
        (unfinished,) = Path(self._manager.directory).glob(f"{self._saving}{UNFINISHED}*")
        sums.write(unfinished, self._saving)

    @contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, OSError) as error:
            coded = REASON.search(str(error))
            code = int(coded[1]) if coded else getattr(error, "errno", None)
            reason = os.strerror(code) if code else " ".join(str(error).split())[:300]
            text = f"the checkpoint of step {self._saving} could not be written: {reason}"
            raise (OSError(code, text) if code else OSError(text)) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        """Wait for what is being saved, and let go of it."""
        self.wait()
        self._manager.close()
        del self._manager
        gc.collect()  # the manager's reference cycles hold its last copy of the state, 1.6 GB for the small preset


def _plain(state: TrainState) -> dict:
    """The state with its typed key as raw bits, which any version of Orbax can store."""
    key = state.key
    if isinstance(key, jax.ShapeDtypeStruct):
        data = jax.eval_shape(jax.random.key_data, key)
        key = jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=key.sharding)
    else:
        key = jax.random.key_data(key)
    return {"params": state.params, "opt_state": state.opt_state, "step": state.step, "key": key}
