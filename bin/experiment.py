"""Compare methods of recovery, or sweep CaMOPD's values, over seeds: every cell and seed is a run of bin/train.py.

    python bin/experiment.py --config=configs/medical.py --out=runs/grid --methods=camopd,vanilla_mopd,mix --seeds=0,1,2
    python bin/experiment.py --config=configs/medical.py --out=runs/sweep --sweep --seeds=0,1,2
    python bin/experiment.py --config=configs/icd.py --out=runs/icd --methods=probias,no_bias,no_graph --seeds=0,1,2
    python bin/experiment.py --out=runs/grid --report

Runs go one after the other, each in OUT/CELL/seedS with its log beside it; the same command goes on where it stopped,
and further methods or seeds can be added to the same --out. At the end, and with --report, tables, tests and figures
of what is finished are written: OUT/results.md, OUT/results.json, OUT/figures.
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
    flags.DEFINE_string("out", None, "Where the experiment is kept.", flag_values=values)
    flags.DEFINE_list("methods", None, "Methods to run; the others are compared with the first.", flag_values=values)
    flags.DEFINE_bool("sweep", False, "Run the paper's sweep of cycle, r and rho instead.", flag_values=values)
    flags.DEFINE_list("seeds", None, "Seeds of each cell, such as 0,1,2.", flag_values=values)
    flags.DEFINE_bool("keep_going", False, "Go on with the other runs when one fails.", flag_values=values)
    flags.DEFINE_bool("drop_weights", False, "Delete checkpoints and export of a finished run.", flag_values=values)
    flags.DEFINE_bool("report", False, "Run nothing: tables and figures of what is finished.", flag_values=values)
    flags.DEFINE_string("docs", None, "Write the results here too, such as docs/results.md.", flag_values=values)
    code = 0

    def run(rest: list[str]) -> None:
        nonlocal code
        if rest:
            raise ValueError(f"unknown argument {rest[0]!r}: arguments are written --NAME=VALUE, see --help")
        if values.out is None:
            raise ValueError("--out is missing: the directory of the experiment, such as --out=runs/grid")
        out = Path(values.out).expanduser()
        docs = Path(values.docs).expanduser() if values.docs is not None else None
        if docs is not None and docs.suffix != ".md":
            raise ValueError(f"--docs={docs}: allowed is the name of a Markdown file, such as docs/results.md")
        if not values.report:
            code = _run(values, out)
        if code and not (values.keep_going and code == 1):
            return

        from camopd_jax.experiment import grid

        if "protocol" in grid.read(out).base:
            from camopd_jax.coding.ablations import write
        else:
            from camopd_jax.experiment.report import write
        write(out, docs)

    return cli.main(argv, values, __doc__, run) or code


def _run(values: flags.FlagValues, out: Path) -> int:
    config = cli.config_of(values)
    if "camopd" not in config and "protocol" not in config:
        raise ValueError(f"--config: {config.name}: allowed is a recovery or ICD coding, as configs/medical.py")
    if (values.methods is None) == (not values.sweep):
        raise ValueError("give --methods, such as --methods=camopd,vanilla_mopd, or --sweep: one of the two")
    if values.seeds is None:
        raise ValueError("--seeds is missing: such as --seeds=0,1,2")

    # Slow: not before the arguments are known to be right. The report is wanted after hours: what it lacks shows now.
    from camopd_jax.experiment import grid, report, runner  # noqa: F401

    flag = values["config"]
    name, overrides = config_flags.get_config_filename(flag), config_flags.get_override_values(flag)
    if "protocol" in config:
        from camopd_jax.coding import ablations, rules

        if values.sweep:
            raise ValueError("--sweep: allowed for a recovery; of ICD coding give --methods, such as probias,no_graph")
        cells = ablations.cells(values.methods)
    else:
        from camopd_jax import rules

        cells = grid.sweep_cells(config) if values.sweep else grid.method_cells(values.methods)
    asked = grid.make(name, overrides, config, cells, grid.seeds(values.seeds))
    grid.check(asked, config, out, rules.check_config)
    grid.joined(asked, out)
    train = Path(__file__).with_name("train.py")
    return runner.run(asked, out, train, keep_going=values.keep_going, drop_weights=values.drop_weights)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
