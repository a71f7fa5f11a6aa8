"""Texts that must stay inside a run: those of the branches in `data.licensed`, and what was trained on them may recite.

Of such a text the files that people read keep its row's id, figures and length. Checkpoints, export and a teacher that
was trained on it are weights; they are as licensed as the text. Whatever copies a text out of a run asks here, by name
of the place; `data.licensed_shown` lists those that the user allows.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ml_collections import ConfigDict

from camopd_jax import hosts, sources
from camopd_jax.models.conversion import cache_dir

PLACES = (
    "rollouts",  # prompts and responses of the licensed branches in rollouts.jsonl, and so in report.html
    "answers",  # likewise in answers.jsonl
    "responses",  # to prompts of other branches, in both files: a model that learned the licensed texts wrote them
    "errors",  # what is wrong with a row, where that quotes it
    "cache",  # evaluations (which hold answers) and the specialised teacher outside the workdir, for other runs
)
TOKEN = "▒"


@dataclass(frozen=True)
class Licence:
    """What may be shown of whose texts."""

    branches: frozenset[str]  # whose prompts and responses stay inside
    shown: frozenset[str]  # out of PLACES

    def allows(self, branch: str, place: str) -> bool:
        """Whether prompts of a branch, and responses to them, may go to a place."""
        assert place in PLACES, place
        return branch not in self.branches or place in self.shown

    def allows_response(self, branch: str, place: str) -> bool:
        """Whether a response may: one to another branch's prompt can hold what was learned of a licensed text."""
        if branch in self.branches or not self.branches:
            return self.allows(branch, place)
        return "responses" in self.shown

    def text(self, text: str, shown: bool) -> str:
        return text if shown else f"(licensed, {len(text):,} characters)"

    def tokens(self, tokens: Sequence[str], shown: bool) -> list[str]:
        """As many signs in the place of what is not shown, so that figures of tokens keep their place."""
        return list(tokens) if shown else [TOKEN] * len(tokens)

    def cache(self, workdir: Path) -> Path:
        """Where evaluations and specialised teachers are kept: for all runs of this machine, or inside the workdir."""
        return cache_dir() if not self.branches or "cache" in self.shown else workdir / "cache"

    @contextmanager
    def errors(self, branch: str) -> Iterator[None]:
        """In it, an error that may quote a row of a branch's data tells no more than which row."""
        try:
            yield
        except (sources.TextError, hosts.Told) as error:
            if self.allows(branch, "errors"):
                raise
            where = error.where if isinstance(error, sources.TextError) else "a row, on another process,"
            raise ValueError(
                f"config.data.{branch}: {where} cannot be used; why may quote licensed text: "
                "config.data.licensed_shown=\"('errors',)\" tells"
            ) from None


def of(config: ConfigDict) -> Licence:
    """What a config allows."""
    return Licence(frozenset(config.data.licensed), frozenset(config.data.licensed_shown))
