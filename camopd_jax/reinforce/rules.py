"""What the config of a reinforcement run may be."""

from ml_collections import ConfigDict

from camopd_jax.distraction import benchmark, content, grpo, instance, rewards
from camopd_jax.keys import Keys, check_rows, check_secrets, has

BUILTIN = "builtin:distractionif"
REFERENCE = "reference"  # the teacher that the student starts as


def check_config(config: ConfigDict) -> int:
    """Validate every value of a config, and that it has all keys and no others; returns how many these are.

    Raises:
      ValueError: naming the key, its value and what is allowed.
    """
    check_secrets(config)
    if not has(config, f"teachers.{REFERENCE}"):
        raise ValueError(f"config.teachers.{REFERENCE} is missing: allowed is a model source")
    keys = Keys(config)
    keys.shared()
    keys.text(f"teachers.{REFERENCE}")
    keys.one_of("student", (REFERENCE,))
    for part in ("train", "heldout"):
        source = f"{BUILTIN!r}, or 'path:FILE.jsonl' with instances (docs/distractionif.md)"
        keys.need(f"data.{part}.source", lambda v: v == BUILTIN or v.startswith("path:"), source)
        _some_of(keys, f"data.{part}.controls", instance.CONTROLS)
        _some_of(keys, f"data.{part}.paradigms", instance.PARADIGMS)
    keys.whole("data.train.count")
    keys.whole("data.heldout.count", "eval.prompts", "eval.instructions", least=2)
    keys.one_of("data.level", content.LEVELS)
    known = tuple(benchmark.OPERATIONS)
    keys.need(
        "data.operations", lambda v: isinstance(v, tuple | list) and set(v) <= set(known),
        f"a tuple out of {known}; (): all",
    )  # fmt: skip
    keys.whole("eval.max_instruction_tokens")
    _check_grpo(keys)
    count = keys.check_no_others()
    for needed in ("clean", "distracted"):
        if needed not in config.data.heldout.controls:
            raise ValueError(
                f"config.data.heldout.controls = {tuple(config.data.heldout.controls)}: {needed!r} must be among them: "
                "what a model resists says nothing without what it can do"
            )
    check_rows(config.micro, config.rollout.max_prompt_tokens, config.rollout.max_new_tokens)
    grpo.check(config.grpo)
    return count


def _some_of(keys: Keys, key: str, allowed: tuple[str, ...]) -> None:
    keys.need(
        key, lambda v: isinstance(v, tuple | list) and len(v) > 0 and set(v) <= set(allowed),
        f"a non-empty tuple out of {allowed}",
    )  # fmt: skip


def _check_grpo(keys: Keys) -> None:
    """The types of config.grpo; what goes together is `grpo.check`'s."""
    keys.text("grpo.variant", "grpo.loss_kl")
    keys.whole("grpo.group_size", least=2)
    keys.whole("grpo.epochs")
    keys.whole("grpo.redraws", least=0)
    keys.not_negative("grpo.loss_kl_weight", "grpo.reward_kl_weight")
    keys.need("grpo.clip", lambda v: len(v) == 2 and 0 < v[0] <= 1 and v[1] > 0, "(below, above)")
    keys.need("grpo.reward", lambda v: v in rewards.BUILTIN or v.rpartition(":")[0].endswith(".py"), rewards.ALLOWED)
    keys.flag("grpo.shuffle_rewards")


def doubts(config: ConfigDict) -> list[str]:
    """What is allowed and rarely meant, a line each."""
    found, g = [], config.grpo
    if config.optim.warmup_steps > config.steps * g.epochs:
        found.append(
            f"config.optim.warmup_steps = {config.optim.warmup_steps}: the learning rate is not reached in "
            f"{config.steps * g.epochs} updates"
        )
    if g.shuffle_rewards:
        found.append("config.grpo.shuffle_rewards = True: a control, in which nothing can be learnt")
    if bool(g.redraws) != grpo.VARIANTS[g.variant].draws_again:
        found.append(
            f"config.grpo.redraws = {g.redraws}: the variant {g.variant!r} "
            f"{'draws no group again' if g.redraws else 'is published with groups drawn again'}"
        )
    if tuple(g.clip) != (published := grpo.VARIANTS[g.variant].clip):
        found.append(f"config.grpo.clip = {tuple(g.clip)}: the variant {g.variant!r} is published with {published}")
    if config.checkpoint.keep_best and not config.eval.every:
        found.append(
            f"config.checkpoint.keep_best = {config.checkpoint.keep_best}: nothing is evaluated in between "
            "(eval.every = 0), so that no step is kept for being the best"
        )
    return found
