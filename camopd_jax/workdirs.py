"""The directory of a run: what it holds, and whether a run can be kept there or gone on with."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

# What a run that goes on may change; every other key shapes the updates that it has made already.
MAY_CHANGE = (
    "steps", "checkpoint.", "eval.", "diagnostics.", "report.", "export.", "mesh.", "micro.", "guard.",
    "rollout.rows_at_once",
)  # fmt: skip

CHECKPOINT_FILES = ("_METADATA", "manifest.ocdbt")  # that a checkpoint of Orbax cannot be read without


def check_workdir(config: ConfigDict, workdir: Path) -> None:
    """Validate that a run can be kept, or gone on with, in a directory.

    Raises:
      ValueError: if it is no directory, cannot be written, or holds a run of another config.
    """
    check_writable(f"--workdir={workdir}", workdir)
    if (workdir / "checkpoints").exists() and not (workdir / "checkpoints").is_dir():
        raise ValueError(f"--workdir={workdir}: checkpoints is no directory there; give another --workdir")
    saved = saved_steps(workdir)
    if not saved:
        return
    before = dict(flat(read_record(workdir)["config"]))
    now = dict(flat(json.loads(json.dumps(config.to_dict()))))
    for key in sorted(before.keys() | now.keys()):
        relaxing = key == "steps" and config.camopd.method == "relaxed_opd"  # it goes by the share of the steps done
        if before.get(key) != now.get(key) and (relaxing or not key.startswith(MAY_CHANGE)):
            raise ValueError(
                f"config.{key} = {now.get(key)!r}: the run in {workdir} was made with {before.get(key)!r}; set it "
                "back, or give another --workdir"
            )
    if config.steps < saved[-1]:
        raise ValueError(
            f"config.steps = {config.steps}: the run in {workdir} has made {saved[-1]} updates; allowed is that or "
            "more, or another --workdir"
        )
    newest = workdir / "checkpoints" / str(saved[-1])
    if not all((newest / "default" / name).is_file() for name in CHECKPOINT_FILES):
        raise ValueError(
            f"--workdir={workdir}: the checkpoint {newest} is damaged; delete it, and the run goes on from the one "
            "before, or give another --workdir"
        )


def check_writable(what: str, path: Path) -> None:
    """Raise ValueError, which begins with `what`, unless a directory can be made there or written to."""
    above = next(p for p in (path, *path.absolute().parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        raise ValueError(f"{what}: {above} is not a directory that can be written ({error.strerror})") from None


def check_same(workdir: Path, models: dict[str, list[str]], data: dict[str, str]) -> None:
    """Raise ValueError if the run in a workdir was made with other models or prompts.

    Args:
      models: source and fingerprint, by branch; data: digest of the training prompts, by branch.
    """
    if not saved_steps(workdir):
        return
    record = read_record(workdir)
    for name, digest in data.items():
        if record.get("data", {}).get(name, digest) != digest:
            raise ValueError(
                f"config.data.{name}: its prompts are not those of the run in {workdir} (another file, tokenizer, or "
                "chat template); give those, or another --workdir"
            )
    before = record.get("models", {})
    for name, (source, fingerprint) in models.items():
        was, same = before.get(name, ["none", fingerprint])
        if same != fingerprint:
            raise ValueError(
                f"config.teachers.{name}: {source} (fingerprint {fingerprint}) is not the model of the run in "
                f"{workdir}, {was} ({same}); give that one (hf: takes @REVISION), or another --workdir"
            )


def saved_steps(workdir: Path) -> list[int]:
    """The steps that a workdir has checkpoints of, in order."""
    return sorted(int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit())


def read_record(workdir: Path) -> dict:
    """config.json of a run.

    Raises:
      ValueError: if it is missing or no record of a run.
    """
    path = workdir / "config.json"
    try:
        record = json.loads(path.read_text())
        return record | {"config": dict(record["config"])}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{workdir}: config.json is no record of a run ({error}); give another workdir") from None


def flat(tree: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a nested dict, each with its dotted key."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
