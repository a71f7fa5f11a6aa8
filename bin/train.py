"""Train as a config says: python bin/train.py --config=configs/medical.py

The same command again goes on where it stopped. Values can be set on the command line, as in
--config.rollout.batch_size=16. Presets follow the file: --config=configs/medical.py:tiny.
--check makes the checks of a start, prints their page and ends; nothing is trained, and no workdir is made.
--dry_run prints what the run would hold in memory and how long it would take, here or on --devices, and ends.
With --compile it also compiles a step's programs for these devices, and compares.
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
    flags.DEFINE_multi_string(
        "allow_change", [], "A key that may differ from what the run in the workdir was made with; once for each key.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_bool("check", False, "Make the checks of a start and end; nothing is trained.", flag_values=values)
    flags.DEFINE_bool("dry_run", False, "Print the plan of the run and end; nothing is loaded.", flag_values=values)
    flags.DEFINE_string(
        "devices", None, "What --dry_run plans for, such as v5p-16, v5e-4, h100-8 or cpu-8 (default: this machine).",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_bool(
        "compile", False, "With --dry_run: compile the programs of a step for these devices, and compare.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_string(
        "coordinator", None, "HOST:PORT of process 0, where several processes make one run; see the README.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_integer("processes", None, "How many processes make the run.", flag_values=values)
    flags.DEFINE_integer("process", None, "Which of them this is, from 0.", flag_values=values)
    flags.DEFINE_bool(
        "distributed", None, "Several processes make the run, as the cluster says (TPU slice, Slurm, MPI). By itself "
        "in a step of Slurm with several tasks and on several TPU hosts, where --nodistributed makes them runs apart.",
        flag_values=values,
    )  # fmt: skip

    def run(rest: list[str]) -> None:
        if rest:
            raise ValueError(f"unknown argument {rest[0]!r}: arguments are written --NAME=VALUE, see --help")
        config = cli.config_of(values)
        if values.devices is not None and not values.dry_run:
            raise ValueError(f"--devices={values.devices}: allowed with --dry_run; a run takes what is here")
        if values.compile and not values.dry_run:
            raise ValueError("--compile: allowed with --dry_run; a run compiles what it needs")
        if values.check and values.dry_run:
            raise ValueError("--check: allowed without --dry_run, which loads nothing that could be checked")
        if values.dry_run and (values.distributed or values.coordinator):
            raise ValueError("--dry_run: allowed in one process, without --coordinator and --distributed")
        if values.dry_run and "camopd" not in config:
            raise ValueError("--dry_run: allowed for a recovery; --check prints what a run of another kind holds")
        if values.dry_run:
            from camopd_jax import dry_run

            for line in dry_run.lines(config, values.devices, values.compile):
                print(line, flush=True)
            return
        workdir = Path(values.workdir or f"runs/{config.name}-{config.preset}").expanduser()

        from camopd_jax import guards, hosts  # slow: not before the arguments are known to be right

        if "grpo" in config:
            from camopd_jax.reinforce.run import run as go
            from camopd_jax.reinforce.start import check
        elif "protocol" in config:
            from camopd_jax.coding.run import run as go
            from camopd_jax.coding.start import check
        else:
            from camopd_jax.preflight import check
            from camopd_jax.recover import run as go

        hosts.start(values.coordinator, values.processes, values.process, values.distributed)
        if values.check:
            check(config, workdir, values.allow_change)
            print("All checks are passed; without --check the run starts.", flush=True)
            return
        try:
            go(config, workdir, values.allow_change)
        except guards.Stopped:
            raise
        except FloatingPointError as error:
            advice = f"what was saved in {workdir} is whole; try a smaller learning rate"
            raise FloatingPointError(f"{error}; {advice}") from None

    return cli.main(argv, values, __doc__, run)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
