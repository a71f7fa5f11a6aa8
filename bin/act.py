"""Given-circumstance acting after CoSER: python bin/act.py --model=SOURCE_OR_RUN --judge_server=URL --judge_model=JUDGE
--out=DIR

The model plays the characters of scenes from books; models of the judge's server play the environment, say who acts
next (--environment_model, --director_model), and find flaws in four dimensions. --server=URL --model=NAME lets a model
of a server act. --data=path:FILE gives the scenes, which are otherwise fetched from the hub. Every turn and judgement
is kept: a command that was stopped goes on. See docs/paper-evaluation.md.
"""

import copy
import sys
from pathlib import Path

from absl import flags

from camopd_jax import cli, remote


def main(argv: list[str]) -> int:
    from camopd_jax.acting import evaluation
    from camopd_jax.evals import answering

    values = flags.FlagValues()

    def define(kind, name, default, *rest):
        kind(name, default, *rest, flag_values=values)

    remote.define(values)
    values["model"].help = "A model source, or the workdir of a run; with --server the model's name there."
    remote.define(values, "judge_")
    answering.define(values, f"default: {evaluation.TOKENS}")
    define(flags.DEFINE_string, "data", None, "Scenes: path:FILE.json, .jsonl or .parquet, or a file of the hub.")
    define(flags.DEFINE_integer, "limit", None, "The first so many scenes (default: all).")
    define(flags.DEFINE_integer, "rounds", 20, "Turns of a scene at most.")
    define(flags.DEFINE_string, "environment_model", None, "At the judge's server (default: the judge); '': none.")
    define(
        flags.DEFINE_string, "director_model", None,
        "Who says who acts next, at the judge's server (default: the judge); '': characters act by turns.",
    )  # fmt: skip
    define(flags.DEFINE_integer, "judge_max_tokens", 4096, "Of a judgement, with what a model thinks before it.")
    define(flags.DEFINE_integer, "attempts", 3, "At a judgement that cannot be read.")
    define(flags.DEFINE_string, "out", None, "Directory of turns, judgements and results.json.")

    def run(rest: list[str]) -> None:
        if rest:
            raise ValueError(f"unknown argument {rest[0]!r}: arguments are written --NAME=VALUE, see --help")
        for name in ("limit", "rounds", "judge_max_tokens", "attempts"):
            if values[name].value is not None and values[name].value < 1:
                raise ValueError(f"--{name}={values[name].value}: allowed is a whole number, 1 or more")
        answering.check(values)
        if values.out is None:
            raise ValueError("--out is missing: a directory for the turns, with which a stopped evaluation goes on")
        from camopd_jax import workdirs
        from camopd_jax.evals import named

        out = Path(values.out).expanduser()
        asked = out / "asked"  # the answers of servers
        judge = remote.client(values, asked, "judge_")
        helpers = {name: _helper(judge, values[f"{name}_model"].value) for name in ("environment", "director")}
        if values.server is not None:
            model = remote.client(values, asked)
        elif values.model is None:
            raise ValueError("--model is missing: a model source, or the workdir of a run")
        else:
            model = named.source_of(values.model, "model")
            if not workdirs.may_show_answers(values.model):
                raise ValueError(
                    f"--model={values.model}: what it says would go to the judge's server; the run has data.licensed, "
                    "and no 'responses' in data.licensed_shown"
                )
        workdirs.check_writable(f"--out={out}", out)
        evaluation.run(values, out, model, helpers, judge)

    return cli.main(argv, values, f"{__doc__}\n{remote.SENT}\n", run)


def _helper(judge, name: str | None):
    """Another model of the judge's server, with a limit of its own; the judge, or nobody."""
    if name in (None, judge.model):
        return judge
    if not name:
        return None
    helper = copy.copy(judge)
    helper.model = name
    return helper


if __name__ == "__main__":
    sys.exit(main(sys.argv))
