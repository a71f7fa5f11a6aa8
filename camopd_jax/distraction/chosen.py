"""Which instances a command is about: the flags that say so, and the instances that they mean."""

from pathlib import Path

from absl import flags

from camopd_jax.distraction import benchmark, files
from camopd_jax.distraction.content import LEVELS, SPLITS
from camopd_jax.distraction.instance import PARADIGMS, Instance

INSTANCES = 100  # of the benchmark, where nothing else is said
FLAGS = ("instances", "split", "level", "benchmark_seed", "paradigms")
_MADE = ("split", "level", "benchmark_seed")  # have no meaning with a file


def define(values: flags.FlagValues) -> None:
    """Define `FLAGS`; "limit" is the caller's."""
    flags.DEFINE_string(
        "instances", None, "A JSONL file of instances (default: those that the benchmark makes).", flag_values=values
    )
    flags.DEFINE_enum("split", "test", list(SPLITS), "Of the benchmark.", flag_values=values)
    flags.DEFINE_enum(
        "level", "short", list(LEVELS), "Of the benchmark: short is for models of 100M parameters.", flag_values=values
    )
    flags.DEFINE_integer("benchmark_seed", 0, "Of the benchmark.", flag_values=values)
    flags.DEFINE_list("paradigms", list(PARADIGMS), f"Some of {', '.join(PARADIGMS)}.", flag_values=values)


def some_of(name: str, given: list[str], allowed: tuple[str, ...]) -> list[str]:
    """A list that a flag gives.

    Raises:
      ValueError: if it is empty, has something twice, or something that is not allowed.
    """
    if not given or len(set(given)) < len(given) or not set(given) <= set(allowed):
        raise ValueError(f"--{name}={','.join(given)}: allowed are some of {', '.join(allowed)}, each once")
    return given


def instances(values: flags.FlagValues, limit: int | None) -> tuple[str, list[Instance]]:
    """What the instances are called, and the instances: the first `limit`, if that is a number.

    Raises:
      ValueError: if a flag has a value that is not allowed, or the file's instances are not sound.
    """
    if values.instances is None:
        count = INSTANCES if limit is None else limit
        name = f"{values.split}-{values.level}-{values.benchmark_seed}"
        try:
            return name, benchmark.make(values.split, count, values.benchmark_seed, values.level)
        except ValueError as error:
            raise ValueError(f"--benchmark_seed: {error}") from None
    for name in _MADE:
        if values[name].present:
            raise ValueError(f"--{name} is of the benchmark's own instances; with --instances=FILE leave it out")
    return Path(values.instances).name, files.read(values.instances)[:limit]
