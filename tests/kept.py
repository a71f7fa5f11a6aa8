"""The workdir of a run of six steps that has kept three checkpoints, and starts of a run there that does nothing."""

import json
from collections.abc import Sequence
from pathlib import Path

import mistakes
from ml_collections import ConfigDict

from camopd_jax import metrics, recover, resume, workdirs

MODELS, DATA = {"general": ["random:llama", "0123"]}, {"general": "4567"}
STEPS = (2, 4, 6)
CONFIG = mistakes.tiny(Path(__file__).parent.parent)


def make(workdir: Path) -> Path:
    workdir.mkdir()
    metrics.write_config(workdir, CONFIG, MODELS, DATA, [])
    logged(workdir, range(1, 7))
    keeping = changed(CONFIG, checkpoint__keep_last=len(STEPS))
    with recover.checkpoints_of(keeping, workdir) as checkpoints:
        for step in STEPS:
            checkpoints.save(mistakes.state(), step, {recover.BEST: 1.0})
    return workdir


def logged(workdir: Path, steps: Sequence[int]) -> None:
    """Have metrics.jsonl hold these steps."""
    (workdir / "metrics.jsonl").write_text("".join(json.dumps({"step": i}) + "\n" for i in steps))


def changed(config: ConfigDict, **values) -> ConfigDict:
    """A copy with other values; `__` stands for the dot of a key."""
    other = config.copy_and_resolve_references()
    other.update_from_flattened_dict({key.replace("__", "."): value for key, value in values.items()})
    return other


def start(config: ConfigDict, workdir: Path, allowed=(), models=MODELS, data=DATA) -> list[int]:
    """The steps that are kept while the run has the workdir."""
    with resume.owning(config, workdir, models, data, allowed):
        assert (workdir / resume.LOCK).stat().st_size
        return workdirs.saved_steps(workdir)
