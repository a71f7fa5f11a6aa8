"""Tokens a second that the plan predicts for more and more devices: python bin/scaling.py --out=docs/scaling.png

A table on standard output and the same as a figure. For each set of devices it takes the fastest mesh that fits, with
as many rows at once as fit it. Nothing is loaded and no device is touched.
"""

import sys
from pathlib import Path

from absl import flags

from camopd_jax import cli

CHIPS = {"v5e": (1, 2, 4, 8, 16, 32, 64, 128, 256), "v5p": (8, 16, 32, 64, 128, 256), "h100": (4, 8, 16, 32, 64, 128)}
PRESETS = {"paper": "Qwen3-8B", "qwen3_0p6b": "Qwen3-0.6B, adapters"}


def main(argv: list[str]) -> int:
    values = flags.FlagValues()
    flags.DEFINE_string("out", None, "Where the figure goes (default: the table alone).", flag_values=values)

    def run(rest: list[str]) -> None:
        if rest:
            raise ValueError(f"unknown argument {rest[0]!r}: arguments are written --NAME=VALUE, see --help")
        from camopd_jax import scaling  # slow to import

        found = {}
        print("preset       devices      r x f x t  rows  waves   s rollout    s scores    s update  tokens/s  linked")
        for preset in PRESETS:
            config = scaling.config_of(Path(__file__).parent.parent / "configs" / "medical.py", preset)
            for chip, counts in CHIPS.items():
                for count in counts:
                    point = scaling.best(config, f"{chip}-{count}")
                    if point:
                        print(f"{preset:12s} {f'{chip}-{count}':8s}{point.line()}", flush=True)
                        found.setdefault((PRESETS[preset], point.chip), []).append(point)
        if values.out:
            scaling.draw(found, Path(values.out))

    return cli.main(argv, values, __doc__, run)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
