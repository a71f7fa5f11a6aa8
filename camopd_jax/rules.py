"""Checks of a config before anything is loaded or computed: one line says what is wrong and what is allowed."""

import difflib
import functools
import math
import re
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from camopd_jax import guards, licensed, shown, templates, workdirs
from camopd_jax.camopd import methods
from camopd_jax.camopd.select import DEMANDS
from camopd_jax.camopd.teachers import IDLE
from camopd_jax.chat import LONG_PROMPTS, THINKING
from camopd_jax.models.decoder import REMAT, TARGETS
from camopd_jax.sharding import MESH_AXES

SPECIALISE = "specialise"  # as a teacher's source: the run makes it
PRECISIONS = ("float32", "bfloat16")
SEEDS = 2**31 - 1000  # a seed is below; what is drawn of the data has it 1000 higher
# Becomes a part of paths, tables, tags, and of the names of measures, which have a slash between their parts.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
NAME_WORDS = "letters, digits, - and _, the first a letter or digit, 40 at most"
MEASURES = ("instructions", "reverse_kl", "forward_kl", "eos_rate", "length")  # names that no branch may take


def branches(config: ConfigDict) -> tuple[str, ...]:
    """The names of the branches: a teacher each, the general one first."""
    return ("general", *sorted(name for name in config.teachers if name != "general"))


def specialised(config: ConfigDict) -> str | None:
    """The branch whose teacher the run makes."""
    return next((name for name in branches(config) if config.teachers[name] == SPECIALISE), None)


def base_branch(config: ConfigDict) -> str:
    """The branch whose model the student, or the specialisation from which it starts, starts from."""
    return "general" if config.student == specialised(config) else config.student


def check_config(config: ConfigDict) -> int:
    """Validate every value of a recovery config, and that it has all keys and no others; returns how many these are.

    Raises:
      ValueError: naming the key, its value and what is allowed.
    """
    _check_secrets(config)
    known = set()

    def need(key: str, test: Callable[[Any], bool], allowed: str) -> None:
        known.add(key)
        if not _has(config, key):
            raise ValueError(f"config.{key} is missing: allowed is {allowed}")
        value = functools.reduce(lambda section, part: section[part], key.split("."), config)
        try:
            good = type(value) is not bool and test(value)  # True would pass for 1
        except (TypeError, OverflowError):  # of another type than those that can be compared, or no finite float
            good = False
        if not good:
            raise ValueError(f"config.{key} = {value!r}: allowed is {allowed}")

    def whole(*keys: str, least: int = 1) -> None:
        for key in keys:
            need(key, lambda v: type(v) is int and v >= least, f"a whole number, {least} or more")

    def positive(*keys: str) -> None:
        for key in keys:
            need(key, lambda v: math.isfinite(v) and v > 0, "a number above 0")

    def text(*keys: str) -> None:
        for key in keys:
            need(key, lambda v: isinstance(v, str), "text")

    def one_of(key: str, allowed) -> None:
        need(key, lambda v: v in allowed, " or ".join(map(repr, allowed)))

    if not _has(config, "teachers.general"):
        raise ValueError("config.teachers.general is missing: allowed is a model source")
    names = branches(config)
    _check_branches(config, names)
    for key in ("name", "preset"):  # of the default workdir
        need(key, lambda v: NAME.fullmatch(v) is not None, NAME_WORDS)
    text("chat.system", "specialise.source", *(f"teachers.{name}" for name in names))
    whole("steps", "specialise.steps", "specialise.batch_size", "specialise.checkpoint_every")
    for stage in ("optim", "specialise.optim"):
        positive(f"{stage}.learning_rate", f"{stage}.eps", f"{stage}.clip_norm")
        whole(f"{stage}.warmup_steps", least=0)
        need(f"{stage}.weight_decay", lambda v: math.isfinite(v) and v >= 0, "0 or more")
        one_of(f"{stage}.name", ("adamw", "sgd"))
        for beta in ("b1", "b2"):
            need(f"{stage}.{beta}", lambda v: 0 <= v < 1, "at least 0 and below 1")
    whole("rollout.batch_size", "rollout.rows_at_once", "rollout.max_prompt_tokens", "rollout.max_new_tokens")
    positive("rollout.temperature", "lora.alpha")
    whole("micro.rows", "micro.width", "micro.slots", "micro.logit_chunk", "checkpoint.every", "checkpoint.keep_last")
    whole("eval.batch_size", "eval.max_new_tokens", "eval.max_domain_tokens", "eval.max_instruction_tokens")
    whole("eval.prompts", "eval.general_prompts", "eval.domain_prompts", "eval.instructions", least=2)
    for seed in ("seed", "specialise.seed", "eval.seed"):
        need(seed, lambda v: type(v) is int and 0 <= v < SEEDS, f"a whole number, 0 to {SEEDS - 1}")
    whole("specialise.count", "checkpoint.keep_best", "eval.every", least=0)
    whole("diagnostics.every", "report.rollouts", "report.answers", least=0)
    whole("diagnostics.prompts", "report.tokens")
    need("diagnostics.prompts", lambda v: v <= config.eval.prompts, "at most eval.prompts, of which they are")
    whole("lora.rank", least=0)
    whole(*(f"mesh.{axis}" for axis in MESH_AXES), least=-1)
    one_of("guard.on_spike", guards.ON_SPIKE)
    need("guard.spike_factor", lambda v: v > 1, "a number above 1")
    positive("guard.entropy")
    whole("guard.spike_window", "guard.spike_after", "guard.steps")
    for key in ("w_kept", "eos_rate", "entropy_left"):
        need(f"guard.{key}", lambda v: 0 <= v <= 1, "a share, 0 to 1")
    need("guard.length_ratio", lambda v: len(v) == 2 and 0 <= v[0] <= 1 <= v[1], "(low, high) with low <= 1 <= high")
    need("guard.stall_seconds", lambda v: math.isfinite(v) and v >= 0, "0 or more seconds")
    need(
        "eval.interpolation", lambda v: isinstance(v, tuple | list) and all(0 < a < 1 for a in v),
        "a tuple of numbers between 0 and 1, both excluded",
    )  # fmt: skip
    need("data.heldout_share", lambda v: 0 < v < 1, "between 0 and 1, both excluded")
    need("data.licensed", lambda v: set(v) <= set(names), f"a tuple of branches out of {names}")
    need("data.licensed_shown", lambda v: set(v) <= set(licensed.PLACES), f"a tuple out of {licensed.PLACES}")
    need("icd10.candidates", lambda v: type(v) is int and 2 <= v <= 10, "2 to 10")
    need(
        "lora.targets", lambda v: isinstance(v, tuple | list) and len(v) > 0 and set(v) <= set(TARGETS),
        f"a non-empty tuple out of {TARGETS}",
    )  # fmt: skip
    one_of("micro.remat", tuple(REMAT))
    one_of("precision", PRECISIONS)
    one_of("export.dtype", PRECISIONS)
    one_of("rollout.long_prompts", LONG_PROMPTS)
    one_of("chat.thinking", THINKING)
    need("chat.date", templates.is_date, "a day as in 2026-01-01")
    one_of("student", names)
    need("camopd.cycle", lambda v: len(v) > 0 and set(v) <= set(names), f"a non-empty tuple of branches out of {names}")
    need("camopd.weight_band", lambda v: len(v) == 2 and 0 <= v[0] <= 1 <= v[1], "(low, high) with low <= 1 <= high")
    one_of("camopd.method", tuple(methods.METHODS))
    one_of("camopd.schedule", (methods.OWN_SCHEDULE, *methods.SCHEDULES))
    one_of("camopd.loss", methods.LOSSES)
    one_of("camopd.selectkd.test", methods.TESTS)
    one_of("camopd.idle_teachers", IDLE)
    whole("camopd.loss_top_k", "camopd.selectkd.top_k")
    need("camopd.selectkd.beta", lambda v: 0 <= v < 1, "at least 0 and below 1")
    need("camopd.relaxed.mixture", lambda v: 0 < v < 0.5, "above 0 and below 0.5")
    for place in ("first", "last"):
        need(f"camopd.relaxed.{place}_fraction", lambda v: 0 < v <= 1, "above 0 and at most 1")
    for branch in names:
        one_of(f"camopd.demand.{branch}", tuple(DEMANDS))
        need(f"camopd.rho.{branch}", lambda v: 0 < v <= 1, "above 0 and at most 1")
        positive(f"camopd.scale.{branch}")
        need(f"data.{branch}.source", lambda v: isinstance(v, str) and v, "a data source such as 'path:FILE.jsonl'")
        text(f"data.{branch}.heldout")
        whole(f"data.{branch}.count", least=int(config.data[branch].source == "builtin:icd10"))
        need(
            f"data.{branch}.heldout", lambda v, source=config.data[branch].source: v != source,
            "another source than data.BRANCH.source, which is the source of its training prompts too, or ''",
        )  # fmt: skip
    _check_no_others(config, known)
    _check_lengths(config)
    methods.check(config)
    return len(known)


def _check_secrets(config: ConfigDict) -> None:
    """Raise ValueError, which does not hold the value, if one looks like a secret: config.json would keep it."""
    for key, value in workdirs.flat(config.to_dict()):
        text = f"{key} {value}"
        if shown.masked(text) != text:
            raise ValueError(
                f"config.{shown.masked(key)}: it looks like a token, a key or a URL with a password, or is one of the "
                "environment, and a run keeps its config; allowed is a value without: tokens are read from there, as "
                "HF_TOKEN"
            )


def _check_no_others(config: ConfigDict, known: set[str]) -> None:
    for key, _ in workdirs.flat(config.to_dict()):
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            meant = f"; did you mean config.{near[0]}?" if near else ""
            raise ValueError(f"config.{key}: there is no such key{meant}")


def _has(config: ConfigDict, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(config, ConfigDict) or part not in config:
            return False
        config = config[part]
    return True


def _check_branches(config: ConfigDict, names: tuple[str, ...]) -> None:
    if config.teachers.general == SPECIALISE:
        raise ValueError(
            "config.teachers.general = 'specialise': allowed is a model source; a run makes domain teachers"
        )
    made = [n for n in names if config.teachers[n] == SPECIALISE]
    if len(made) > 1:
        raise ValueError(f"config.teachers.{made[1]} = 'specialise': allowed for one teacher, and {made[0]} is it")
    if not made and _has(config, "specialise.source") and config.specialise.source:
        raise ValueError(
            f"config.specialise.source = {config.specialise.source!r}: no teacher is made; allowed is '', or a teacher "
            "that is 'specialise'"
        )
    if made and config.get("student") not in ("general", made[0]):
        raise ValueError(
            f"config.student = {config.get('student')!r}: the run makes the teacher {made[0]!r} from the general one; "
            f"allowed is 'general' or {made[0]!r}"
        )
    for name in names:
        if not NAME.fullmatch(name):
            raise ValueError(f"config.teachers.{name:.50}: the name of a branch is {NAME_WORDS}")
        if name in MEASURES:
            raise ValueError(
                f"config.teachers.{name}: a branch may not be named like a measure ({', '.join(MEASURES)})"
            )
        for part in ("data", "camopd.demand", "camopd.rho", "camopd.scale"):
            if not _has(config, f"{part}.{name}"):
                raise ValueError(f"config.{part}.{name} is missing: teacher {name!r} needs it")


def _check_lengths(config: ConfigDict) -> None:
    answered = max(config.eval.max_new_tokens, config.rollout.max_new_tokens)  # of the responses that are scored
    if any(n != "general" for n in branches(config)):
        answered = max(answered, config.eval.max_domain_tokens)
    if config.micro.width < config.rollout.max_prompt_tokens + answered:
        raise ValueError(
            f"config.micro.width = {config.micro.width}: a packed row must hold rollout.max_prompt_tokens "
            f"({config.rollout.max_prompt_tokens}) and the longest response ({answered} tokens)"
        )
    if config.micro.slots < answered:
        raise ValueError(
            f"config.micro.slots = {config.micro.slots}: a packed row must hold the longest response, {answered} tokens"
        )
    if config.micro.slots > config.micro.width:
        raise ValueError(
            f"config.micro.slots = {config.micro.slots}: a packed row of config.micro.width = {config.micro.width} "
            "tokens has no more of response"
        )


def doubts(config: ConfigDict) -> list[str]:
    """What is allowed and rarely meant, a line each."""
    c, found = config.camopd, []
    for stage, steps in (("optim", config.steps), ("specialise.optim", config.specialise.steps)):
        warmup = (config if stage == "optim" else config.specialise).optim.warmup_steps
        if warmup > steps and (stage == "optim" or specialised(config)):
            found.append(f"config.{stage}.warmup_steps = {warmup}: the learning rate is not reached in {steps} updates")
    if config.checkpoint.keep_best and not config.eval.every:
        found.append(
            f"config.checkpoint.keep_best = {config.checkpoint.keep_best}: nothing is evaluated in between "
            "(eval.every = 0), so that no step is kept for being the best"
        )
    if "general" not in {turn.branch for step in range(len(c.cycle)) for turn in _turns(config, step)}:
        found.append(
            f"config.camopd.cycle = {tuple(c.cycle)}: the general teacher recovers nothing, as no step asks it"
        )
    return found


def _turns(config: ConfigDict, step: int) -> list[methods.Turn]:
    return methods.method_of(config.camopd).turns(tuple(config.camopd.cycle), step, config.rollout.batch_size)


def check_devices(config: ConfigDict, shards: int) -> None:
    """Raise ValueError unless the prompts of each branch in a step can be spread evenly over the data shards."""
    batch = config.rollout.batch_size
    turns = _turns(config, 0)
    if any(turn.rows % shards for turn in turns):
        parts = " + ".join(str(turn.rows) for turn in turns)
        raise ValueError(
            f"config.rollout.batch_size = {batch}: {'its parts, ' + parts + ', are' if len(turns) > 1 else 'it is'} "
            f"spread over {shards} devices (mesh.replica x mesh.fsdp); allowed is a multiple of {shards} for each"
        )
