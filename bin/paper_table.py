"""The paper's table beside ours: python bin/paper_table.py --scenario=medical camopd=results/recovered base=DIR,DIR

Each NAME=DIR[,DIR] is a model, and where its results are: those of bin/evaluate.py, of bin/act.py, and scores.json of
what other programs have measured. A NAME of the paper (general_teacher, domain_teacher, camopd, vanilla_mopd, ...)
stands beside its row. What is missing is "-". --commands --model=SOURCE_OR_RUN --results=DIR prints the commands that
measure one model. See docs/paper-evaluation.md.
"""

import sys
from pathlib import Path

from absl import flags

from camopd_jax import cli, published


def main(argv: list[str]) -> int:
    values = flags.FlagValues()

    def define(kind, name, default, *rest):
        kind(name, default, *rest, flag_values=values)

    define(flags.DEFINE_enum, "scenario", None, list(published.SCENARIOS), "Of the paper.")
    define(flags.DEFINE_string, "out", None, "A Markdown file for the table, too; one that is there is replaced.")
    define(flags.DEFINE_bool, "commands", False, "Print the commands that measure --model, and no table.")
    define(flags.DEFINE_string, "model", None, "A model source, or the workdir of a run, for --commands.")
    define(flags.DEFINE_string, "results", "results", "Where they shall put results, for --commands.")

    def run(rest: list[str]) -> None:
        if values.scenario is None:
            raise ValueError(f"--scenario is missing: allowed are {', '.join(published.SCENARIOS)}")
        if values.commands:
            if values.model is None or rest:
                raise ValueError("--commands needs --model=SOURCE_OR_RUN, and no results")
            print(published.commands(values.scenario, values.model, values.results))
            return
        models = {}
        for word in rest:
            name, equals, places = word.partition("=")
            if not name or not equals or not all(places.split(",")):
                raise ValueError(f"{word!r}: allowed is NAME=DIR[,DIR], a model and where its results are")
            if name in models:
                raise ValueError(f"{word!r}: {name} comes twice; allowed is NAME=DIR,DIR")
            models[name] = published.figures(places.split(","))
        text = published.table(values.scenario, models)
        print(text, end="")
        if values.out is not None:
            out = Path(values.out).expanduser()
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(text, encoding="utf-8")
            print(f"\nthe table is in {out}")

    return cli.main(argv, values, __doc__, run)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
