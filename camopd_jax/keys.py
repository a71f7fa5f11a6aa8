"""The keys of a config, checked one after another, and the sections that all kinds of run share."""

import difflib
import functools
import math
import re
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from camopd_jax import guards, shown, templates, workdirs
from camopd_jax.chat import LONG_PROMPTS, THINKING
from camopd_jax.models.decoder import REMAT, TARGETS
from camopd_jax.sharding import MESH_AXES

PRECISIONS = ("float32", "bfloat16")
SEEDS = 2**31 - 1000  # a seed is below; what is drawn of the data has it 1000 higher
# Becomes a part of paths, tables, tags, and of the names of measures, which have a slash between their parts.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
NAME_WORDS = "letters, digits, - and _, the first a letter or digit, 40 at most"


class Keys:
    """The keys of a config; each method says what one or several must be, and raises ValueError if one is not."""

    def __init__(self, config: ConfigDict):
        self.config, self._known = config, set()

    def need(self, key: str, test: Callable[[Any], bool], allowed: str) -> None:
        self._known.add(key)
        if not has(self.config, key):
            raise ValueError(f"config.{key} is missing: allowed is {allowed}")
        value = functools.reduce(lambda section, part: section[part], key.split("."), self.config)
        try:
            good = type(value) is not bool and test(value)  # True would pass for 1
        except (TypeError, OverflowError):  # of another type than those that can be compared, or no finite float
            good = False
        if not good:
            raise ValueError(f"config.{key} = {value!r}: allowed is {allowed}")

    def whole(self, *keys: str, least: int = 1) -> None:
        for key in keys:
            self.need(key, lambda v: type(v) is int and v >= least, f"a whole number, {least} or more")

    def positive(self, *keys: str) -> None:
        for key in keys:
            self.need(key, lambda v: math.isfinite(v) and v > 0, "a number above 0")

    def not_negative(self, *keys: str) -> None:
        for key in keys:
            self.need(key, lambda v: math.isfinite(v) and v >= 0, "0 or more")

    def text(self, *keys: str) -> None:
        for key in keys:
            self.need(key, lambda v: isinstance(v, str), "text")

    def one_of(self, key: str, allowed) -> None:
        self.need(key, lambda v: v in allowed, " or ".join(map(repr, allowed)))

    def flag(self, key: str) -> None:
        self._known.add(key)
        if not has(self.config, key):
            raise ValueError(f"config.{key} is missing: allowed is True or False")
        value = functools.reduce(lambda section, part: section[part], key.split("."), self.config)
        if type(value) is not bool:
            raise ValueError(f"config.{key} = {value!r}: allowed is True or False")

    def seeds(self, *keys: str) -> None:
        for key in keys:
            self.need(key, lambda v: type(v) is int and 0 <= v < SEEDS, f"a whole number, 0 to {SEEDS - 1}")

    def optimizer(self, section: str) -> None:
        self.positive(f"{section}.learning_rate", f"{section}.eps", f"{section}.clip_norm")
        self.whole(f"{section}.warmup_steps", least=0)
        self.not_negative(f"{section}.weight_decay")
        self.one_of(f"{section}.name", ("adamw", "sgd"))
        for beta in ("b1", "b2"):
            self.need(f"{section}.{beta}", lambda v: 0 <= v < 1, "at least 0 and below 1")

    def common(self) -> None:
        """The sections that every kind of run has."""
        for key in ("name", "preset"):  # of the default workdir
            self.need(key, lambda v: NAME.fullmatch(v) is not None, NAME_WORDS)
        self.whole("steps")
        self.optimizer("optim")
        self.whole("checkpoint.every", "checkpoint.keep_last", "eval.batch_size")
        self.whole("checkpoint.keep_best", "eval.every", least=0)
        self.seeds("seed", "eval.seed")
        self.whole(*(f"mesh.{axis}" for axis in MESH_AXES), least=-1)
        self.one_of("guard.on_spike", guards.ON_SPIKE)
        self.need("guard.spike_factor", lambda v: v > 1, "a number above 1")
        self.whole("guard.spike_window", "guard.spike_after")
        self.need("guard.stall_seconds", lambda v: math.isfinite(v) and v >= 0, "0 or more seconds")
        self.one_of("precision", PRECISIONS)

    def shared(self) -> None:
        """The sections that every kind of run has whose student samples."""
        self.common()
        self.text("chat.system")
        self.whole("rollout.batch_size", "rollout.rows_at_once", "rollout.max_prompt_tokens", "rollout.max_new_tokens")
        self.positive("rollout.temperature", "lora.alpha")
        self.whole("micro.rows", "micro.width", "micro.slots", "micro.logit_chunk")
        self.whole("report.rollouts", "report.answers", "lora.rank", least=0)
        self._watched()
        self.need(
            "lora.targets", lambda v: isinstance(v, tuple | list) and len(v) > 0 and set(v) <= set(TARGETS),
            f"a non-empty tuple out of {TARGETS}",
        )  # fmt: skip
        self.one_of("micro.remat", tuple(REMAT))
        self.one_of("export.dtype", PRECISIONS)
        self.one_of("rollout.long_prompts", LONG_PROMPTS)
        self.one_of("chat.thinking", THINKING)
        self.need("chat.date", templates.is_date, "a day as in 2026-01-01")

    def _watched(self) -> None:
        """What is watched of the answers that a student samples."""
        self.positive("guard.entropy")
        self.whole("guard.steps")
        for key in ("w_kept", "eos_rate", "entropy_left"):
            self.need(f"guard.{key}", lambda v: 0 <= v <= 1, "a share, 0 to 1")
        ratio = "(low, high) with low <= 1 <= high"
        self.need("guard.length_ratio", lambda v: len(v) == 2 and 0 <= v[0] <= 1 <= v[1], ratio)

    def check_no_others(self) -> int:
        """How many keys there are; raises ValueError for one of which nothing was said."""
        for key, _ in workdirs.flat(self.config.to_dict()):
            if key not in self._known:
                near = difflib.get_close_matches(key, self._known, n=1)
                meant = f"; did you mean config.{near[0]}?" if near else ""
                raise ValueError(f"config.{key}: there is no such key{meant}")
        return len(self._known)


def has(config: ConfigDict, key: str) -> bool:
    """Whether a config has a dotted key."""
    for part in key.split("."):
        if not isinstance(config, ConfigDict) or part not in config:
            return False
        config = config[part]
    return True


def check_secrets(config: ConfigDict) -> None:
    """Raise ValueError, which does not hold the value, if one looks like a secret: config.json would keep it."""
    for key, value in workdirs.flat(config.to_dict()):
        text = f"{key} {value}"
        if shown.masked(text) != text:
            raise ValueError(
                f"config.{shown.masked(key)}: it looks like a token, a key or a URL with a password, or is one of the "
                "environment, and a run keeps its config; allowed is a value without: tokens are read from there, as "
                "HF_TOKEN"
            )


def check_rows(micro: ConfigDict, prompt: int, answer: int) -> None:
    """Raise ValueError unless a packed row holds the longest prompt with the longest response."""
    if micro.width < prompt + answer:
        raise ValueError(
            f"config.micro.width = {micro.width}: a packed row must hold rollout.max_prompt_tokens ({prompt}) and the "
            f"longest response ({answer} tokens)"
        )
    if micro.slots < answer:
        raise ValueError(
            f"config.micro.slots = {micro.slots}: a packed row must hold the longest response, {answer} tokens"
        )
    if micro.slots > micro.width:
        raise ValueError(
            f"config.micro.slots = {micro.slots}: a packed row of config.micro.width = {micro.width} "
            "tokens has no more of response"
        )
