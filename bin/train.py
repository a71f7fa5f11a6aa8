"""Train as a config says: python bin/train.py --config=configs/medical.py

The same command again goes on where it stopped. Values can be set on the command line, as in
--config.rollout.batch_size=16. Presets follow the file: --config=configs/medical.py:tiny.
"""

import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from camopd_jax import cli


def main(argv: list[str]) -> int:
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "Config file, with an optional preset: FILE.py[:PRESET].", flag_values=values, sys_argv=argv
    )
    flags.DEFINE_string("workdir", None, "Where the run is kept (default: runs/NAME-PRESET).", flag_values=values)

    def run(rest: list[str]) -> None:
        if rest:
            raise ValueError(f"unknown argument {rest[0]!r}: arguments are written --NAME=VALUE, see --help")
        config = values.config
        if config is None:
            raise ValueError("--config is missing: for example --config=configs/medical.py")
        workdir = Path(values.workdir or f"runs/{config.name}-{config.preset}")

        from camopd_jax import recover  # slow: not before the arguments are known to be right

        try:
            recover.run(config, workdir)
        except FloatingPointError as error:
            advice = f"what was saved in {workdir} is whole; try a smaller learning rate"
            raise FloatingPointError(f"{error}; {advice}") from None

    return cli.main(argv, values, __doc__, run)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
