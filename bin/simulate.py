"""Go through a recovery at full size without a model: python bin/simulate.py --config=configs/medical.py:paper

The run's own code does every step; a stand-in for the model gives log-probabilities, and the lengths of responses are
drawn. Says how often tokens are drawn, how full the rows are, how many micro-batches a step has and what the host
holds. With --stops the run is made a second time, stopped in these steps and started again, and the two are compared.
"""

import sys
import tempfile
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from camopd_jax import cli


def main(argv: list[str]) -> int:
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "Config file, with an optional preset: FILE.py[:PRESET].", flag_values=values, sys_argv=argv
    )
    flags.DEFINE_integer("steps", None, "Steps to do (default: config.steps).", flag_values=values)
    flags.DEFINE_enum(
        "lengths", "heavy", ["heavy", "longest"], "Of responses: a heavy tail, or all the longest.", flag_values=values
    )
    flags.DEFINE_list(
        "stops", [], "Steps in which a second run is stopped, in order: by SIGTERM, cut off, by SIGTERM, ...",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_list("devices", [], "Also price the work, for such as v5p-16,h100-8.", flag_values=values)
    flags.DEFINE_string("out", None, "Keep the workdirs there (default: nothing is kept).", flag_values=values)

    def run(rest: list[str]) -> None:
        if rest:
            raise ValueError(f"unknown argument {rest[0]!r}: arguments are written --NAME=VALUE, see --help")
        config = cli.config_of(values)
        if "camopd" not in config:
            raise ValueError("--config: allowed is a recovery; other runs have no simulation")
        from camopd_jax import simulated, simulated_page, simulation  # slow to import

        steps = config.steps if values.steps is None else values.steps
        if steps < 1:
            raise ValueError(f"--steps={steps}: allowed is a whole number, 1 or more")
        simulation.check(config)
        plans = [simulated_page.planned(config, devices) for devices in values.devices]
        config = simulation.adapted(config, steps)
        stops = simulation.stops_of(values.stops, steps)
        for line in simulated_page.header(config, values.lengths):
            print(line, flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            home = Path(values.out or scratch)
            if (home / "undisturbed").exists():
                raise ValueError(f"--out={home}: a simulation is there already; name another directory")
            one = simulation.Run(config, simulated.LENGTHS[values.lengths], home / "undisturbed")
            simulation.drive(one)
            print("\n".join(simulated_page.table(one)), flush=True)
            for plan in plans:
                print("\n".join(simulated_page.priced(one, *plan)), flush=True)
            if stops:
                other = simulation.Run(config, one.length, home / "stopped", stops)
                found = simulation.differences(one, simulation.drive(other))
                print("\n".join(simulated_page.compared(other, found)), flush=True)
                if found:
                    raise simulation.Unlike("the run that was stopped is not the undisturbed one")

    return cli.main(argv, values, __doc__, run)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
