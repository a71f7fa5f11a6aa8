"""Make report.html of a run again, also of one that is going on: python bin/report.py RUN

RUN is the workdir of a run. The page needs no network: open it in a browser, or send it as it is.
"""

import sys
from pathlib import Path

from absl import flags

from camopd_jax import cli


def main(argv: list[str]) -> int:
    values = flags.FlagValues()

    def run(rest: list[str]) -> None:
        if len(rest) != 1:
            raise ValueError("give the workdir of one run: python bin/report.py RUN, see --help")

        from camopd_jax import report

        print(report.write(Path(rest[0]).expanduser()))

    return cli.main(argv, values, __doc__, run)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
