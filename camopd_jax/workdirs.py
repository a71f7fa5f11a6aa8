"""The directory of a run: what it holds, and whether a run can be kept there or gone on with."""

import difflib
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from camopd_jax import licensed, shown

# What a run that goes on may change; every other key shapes the updates that it has made already.
MAY_CHANGE = (
    "steps", "checkpoint.", "eval.", "diagnostics.", "report.", "export.", "mesh.", "micro.", "guard.",
    "rollout.rows_at_once",
)  # fmt: skip

SHOWN = 3  # differences that one line holds; more of them stand above it, a line each
NO_KEY = "no such key"  # in the place of a value


def check_workdir(config: ConfigDict, workdir: Path, allowed: Sequence[str]) -> None:
    """Validate that a run can be kept, or gone on with, in a directory.

    Args:
      allowed: keys that may differ from those of the run that is there.

    Raises:
      ValueError: if it is no directory, cannot be written, or holds a run of another config.
    """
    check_writable(f"--workdir={workdir}", workdir)
    if (workdir / "checkpoints").exists() and not (workdir / "checkpoints").is_dir():
        raise ValueError(f"--workdir={workdir}: checkpoints is no directory there; give another --workdir")
    saved = saved_steps(workdir)
    if not saved:
        return
    _refuse(workdir, [c for c in config_changes(config, read_record(workdir)) if not _free(c["key"], config)], allowed)
    if config.steps < saved[-1]:
        raise ValueError(
            f"config.steps = {config.steps}: the run in {workdir} has made {saved[-1]} updates; allowed is that or "
            "more, or another --workdir"
        )


def config_changes(config: ConfigDict, record: dict) -> list[dict]:
    """The keys of a config that are not as a record has them: key, before, now; `NO_KEY` where one of them has none."""
    before = dict(flat(record["config"]))
    now = dict(flat(json.loads(json.dumps(config.to_dict()))))
    both = {key: (before.get(key, NO_KEY), now.get(key, NO_KEY)) for key in sorted(before.keys() | now.keys())}
    return [{"key": key, "before": was, "now": is_} for key, (was, is_) in both.items() if was != is_]


def input_changes(models: dict[str, list[str]], data: dict[str, str], record: dict) -> list[dict]:
    """The models and prompts of a run that are not as a record has them, as `config_changes`.

    Args:
      models: source and fingerprint, by branch; data: digest of the training prompts, by branch.
    """
    was = record.get("data", {})
    found = [(f"data.{n}", was[n], digest) for n, digest in data.items() if was.get(n, digest) != digest]
    was = record.get("models", {})
    for name, now in models.items():
        if name in was and was[name][1] != now[1]:
            found.append((f"teachers.{name}", " ".join(was[name]), " ".join(now)))
    return [{"key": key, "before": before, "now": now} for key, before, now in found]


def surroundings_changes(now: dict, record: dict) -> list[dict]:
    """The versions and the revision of the code (`metrics.surroundings`) that are not as a record has them."""
    was, is_ = (dict(flat({k: r[k] for k in ("versions", "git_revision") if k in r})) for r in (record, now))
    return [{"key": k, "before": was[k], "now": is_[k]} for k in was.keys() & is_.keys() if was[k] != is_[k]]


def check_allowed(config: ConfigDict, workdir: Path, allowed: Sequence[str]) -> None:
    """Raise ValueError if a key that may change is none, neither of the config nor of the run in the workdir."""
    known = {key for key, _ in flat(config.to_dict())} | {f"data.{name}" for name in config.data}
    if saved_steps(workdir):
        known |= {key for key, _ in flat(read_record(workdir)["config"])}
    for key in allowed:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"--allow_change={key}: there is no such key{meant or ', as rollout.batch_size is one'}")


def _free(key: str, config: ConfigDict) -> bool:
    method = config.camopd.method if "camopd" in config else ""
    relaxing = key == "steps" and method == "relaxed_opd"  # it goes by the share of the steps done
    return key.startswith(MAY_CHANGE) and not relaxing


def _refuse(workdir: Path, changes: list[dict], allowed: Sequence[str]) -> None:
    """Raise ValueError unless all changes are allowed; where they are many, a line each is printed first."""
    refused = [c for c in changes if c["key"] not in allowed]
    if not refused:
        return
    ways = "set it back, allow it with" if len(refused) == 1 else "set them back, allow each by its name with"
    ways = f"{ways} --allow_change={refused[0]['key']}, or give another --workdir"
    if len(refused) <= SHOWN:
        told = "; ".join(
            f"config.{c['key']} = {_shown(c['now'])}: the run in {workdir} was made with {_shown(c['before'])}"
            for c in refused
        )
        raise ValueError(f"{told}; {ways}")
    for c in refused:
        print(shown.line(f"  config.{c['key']}: {_shown(c['before'])} -> {_shown(c['now'])}"), flush=True)
    raise ValueError(
        f"the run in {workdir} was made with other values of {len(refused)} keys, as above, config.{refused[0]['key']} "
        f"the first; {ways}"
    )


def _shown(value: Any) -> str:
    return value if value == NO_KEY else repr(value)


def check_writable(what: str, path: Path) -> None:
    """Raise ValueError, which begins with `what`, unless a directory can be made there or written to."""
    above = next(p for p in (path, *path.absolute().parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        raise ValueError(f"{what}: {above} is not a directory that can be written ({error.strerror})") from None


def check_same(
    workdir: Path, models: dict[str, list[str]], data: dict[str, str], allowed: Sequence[str]
) -> None:  # fmt: skip
    """Raise ValueError if the run in a workdir was made with other models or prompts.

    Args:
      models: source and fingerprint, by branch; data: digest of the training prompts, by branch.
      allowed: teachers.BRANCH and data.BRANCH where they may be others.
    """
    if not saved_steps(workdir):
        return
    for change in input_changes(models, data, read_record(workdir)):
        key, before, now = change.values()
        if key in allowed:
            continue
        if key.startswith("data."):
            raise ValueError(
                f"config.{key}: its prompts are not those of the run in {workdir} (another file, tokenizer, or "
                f"chat template); give those, allow these with --allow_change={key}, or another --workdir"
            )
        raise ValueError(
            f"config.{key}: {now} is not the model of the run in {workdir}, {before} (source and fingerprint); give "
            f"that one (hf: takes @REVISION), allow this one with --allow_change={key}, or another --workdir"
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


def may_show_answers(given: str) -> bool:
    """Whether answers of a model may leave a run: one that learned licensed texts can recite them in any.

    Args:
      given: a model source, or a workdir.
    """
    place = Path(given.removeprefix("path:")).expanduser()
    for workdir in (place, place.parent):  # of its export/
        if (workdir / "config.json").is_file() and (workdir / "checkpoints").is_dir():
            data = read_record(workdir)["config"].get("data", {})
            licence = licensed.Licence(frozenset(data.get("licensed", ())), frozenset(data.get("licensed_shown", ())))
            if not licence.allows_response("", "answers"):
                return False
    return True
