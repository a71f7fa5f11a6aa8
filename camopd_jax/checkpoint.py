"""Orbax checkpoints of the whole training state: asynchronous, the last few and the best."""

import gc
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from camopd_jax.types import TrainState


class Checkpoints:
    """The checkpoints of one run; a checkpoint's number is the updates done.

    With `read_only` nothing there changes, not even what a run beside it is just saving.
    """

    def __init__(
        self, directory: Path, *, keep_last: int, keep_best: int, best_metric: str, read_only: bool = False
    ):  # fmt: skip
        def goodness(metrics):
            return -metrics[best_metric]

        kept = [policies.LatestN(keep_last)]
        if keep_best:
            kept.append(policies.BestN(get_metric_fn=goodness, n=keep_best, keep_checkpoints_without_metrics=False))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(kept),
            best_fn=goodness if keep_best else None,  # without it no metrics are written, and a restart forgets them
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
        )
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

    def latest(self) -> int | None:
        return self._manager.latest_step()

    def save(self, state: TrainState, step: int, metrics: dict[str, float] | None = None) -> None:
        """Start saving; the devices are free again when this returns, the files follow in the background."""
        if step != self.latest():
            self._manager.save(step, args=ocp.args.StandardSave(_plain(state)), metrics=metrics)

    def steps(self) -> list[int]:
        """The steps that are kept."""
        return sorted(self._manager.all_steps())

    def restore(self, abstract: TrainState, step: int | None = None) -> TrainState:
        """A checkpoint (None: the newest), onto the shardings of `abstract` (a state of ShapeDtypeStructs).

        Raises:
          ValueError: if it is damaged, or of another model or optimiser.
        """
        step = self.latest() if step is None else step
        try:
            got = self._manager.restore(step, args=ocp.args.StandardRestore(_plain(abstract)))
        except (ValueError, OSError, KeyError) as error:
            raise ValueError(
                f"the checkpoint {self._manager.directory / str(step)} cannot be read; delete it, and the run goes on "
                f"from the one before ({' '.join(str(error).split())[:200]})"
            ) from error
        return abstract.replace(**got | {"key": jax.random.wrap_key_data(got["key"])})

    def wait(self) -> None:
        """Return when everything that was saved is on disk; raises what the background thread raised."""
        self._manager.wait_until_finished()

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
