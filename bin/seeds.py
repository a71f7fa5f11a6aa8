"""Compare reinforcement runs over seeds: python bin/seeds.py RUN RUN ... [--against=RUN,RUN,...]

RUN is the workdir of a finished run of configs/distraction.py, of a seed each; --against names runs of another kind,
such as those with config.grpo.shuffle_rewards, in the same order of seeds. Prints what was gained over the start, with
intervals that resample held-out instances and seeds.
"""

import sys
from pathlib import Path

from absl import flags

from camopd_jax import cli


def main(argv: list[str]) -> int:
    values = flags.FlagValues()
    flags.DEFINE_list("against", [], "Workdirs of the runs to compare with.", flag_values=values)

    def run(rest: list[str]) -> None:
        if not rest:
            raise ValueError("no run is named: python bin/seeds.py RUN RUN ...")
        from camopd_jax.reinforce import seeds

        print(seeds.table([Path(x).expanduser() for x in rest], [Path(x).expanduser() for x in values.against]))

    return cli.main(argv, values, __doc__, run)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
