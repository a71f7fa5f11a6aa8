"""Checks of a config before anything is loaded or computed: one line says what is wrong and what is allowed."""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from camopd_jax.camopd.select import DEMANDS
from camopd_jax.models.decoder import REMAT

BRANCHES = ("general", "domain")
SOURCES = {"general": "builtin:general", "domain": "builtin:icd10"}


def check_config(config: ConfigDict) -> None:
    """Validate every value of a recovery config.

    Raises:
      ValueError: naming the key, its value and what is allowed.
    """

    def need(key: str, test: Callable[[Any], bool], allowed: str) -> None:
        value = config
        for part in key.split("."):
            value = value[part]
        if not test(value):
            raise ValueError(f"config.{key} = {value!r}: allowed is {allowed}")

    def positive(*keys: str) -> None:
        for key in keys:
            need(key, lambda v: v > 0, "a number above 0")

    def natural(*keys: str) -> None:
        for key in keys:
            need(key, lambda v: v >= 0, "0 or more")

    positive("steps", "specialise.steps", "specialise.batch_size", "specialise.checkpoint_every")
    for stage in ("optim", "specialise.optim"):
        positive(f"{stage}.learning_rate", f"{stage}.eps", f"{stage}.clip_norm")
        natural(f"{stage}.warmup_steps", f"{stage}.weight_decay")
        need(f"{stage}.name", lambda v: v in ("adamw", "sgd"), "'adamw' or 'sgd'")
    positive("rollout.batch_size", "rollout.max_prompt_tokens", "rollout.max_new_tokens", "rollout.temperature")
    positive("micro.rows", "micro.width", "micro.slots", "micro.logit_chunk", "data.domain.count")
    positive("checkpoint.every", "checkpoint.keep_last", "eval.batch_size", "eval.max_new_tokens")
    positive("eval.max_domain_tokens", "eval.max_instruction_tokens")
    natural("seed", "specialise.seed")
    natural("checkpoint.keep_best", "data.general.count", "eval.every", "eval.seed")
    for key in ("eval.prompts", "eval.general_prompts", "eval.domain_prompts", "eval.instructions"):
        need(key, lambda v: v >= 2, "2 or more")
    need("eval.interpolation", lambda v: 0 <= v <= 1, "between 0 and 1")
    need("micro.remat", lambda v: v in REMAT, " or ".join(map(repr, REMAT)))
    need("student", lambda v: v in BRANCHES, "'general' or 'domain'")
    need("camopd.cycle", lambda v: len(v) > 0 and set(v) <= set(BRANCHES), "a non-empty tuple of 'general', 'domain'")
    need("camopd.weight_band", lambda v: len(v) == 2 and 0 <= v[0] <= 1 <= v[1], "(low, high) with low <= 1 <= high")
    for branch in BRANCHES:
        need(f"camopd.demand.{branch}", lambda v: v in DEMANDS, " or ".join(map(repr, DEMANDS)))
        need(f"camopd.rho.{branch}", lambda v: 0 < v <= 1, "above 0 and at most 1")
        positive(f"camopd.scale.{branch}")
        need(f"data.{branch}.source", lambda v, b=branch: v == SOURCES[b], repr(SOURCES[branch]))
    longest = config.rollout.max_prompt_tokens + config.rollout.max_new_tokens
    answered = max(config.eval.max_new_tokens, config.rollout.max_new_tokens)  # of the responses that are scored
    if config.micro.width < max(longest, config.rollout.max_prompt_tokens + answered):
        raise ValueError(
            f"config.micro.width = {config.micro.width}: a packed row must hold rollout.max_prompt_tokens "
            f"({config.rollout.max_prompt_tokens}) and the longest response ({answered} tokens)"
        )
    if config.micro.slots < answered:
        raise ValueError(
            f"config.micro.slots = {config.micro.slots}: a packed row must hold the longest response, {answered} tokens"
        )


def check_devices(config: ConfigDict, shards: int) -> None:
    """Raise ValueError unless the prompts of a step can be spread evenly over the data shards."""
    if config.rollout.batch_size % shards:
        raise ValueError(
            f"config.rollout.batch_size = {config.rollout.batch_size}: allowed is a multiple of {shards}, the devices "
            "over which a batch is spread (mesh.replica x mesh.fsdp)"
        )
