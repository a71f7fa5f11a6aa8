"""The paper's data from the published datasets: python bin/prepare.py nemotron|coser|medical

    nemotron   10,000 general prompts, in the proportions of its categories       data/paper/general.jsonl
    medical    10,000 medical questions without answers, of four datasets         data/paper/medical.jsonl
    coser      the 10,000 role-play conversations with the most turns as prompts  data/paper/roleplay.jsonl
               all others, to fine-tune the domain teacher                        data/paper/roleplay_sft.jsonl

Read from the hub (HF_TOKEN), or from files: --chat=path:FILE, --coser=path:DIR, --nemotron=path:DIR. A source is
hf:NAME[@REVISION][:CONFIG]:SPLIT, hf:NAME[@REVISION]:FILE, path:FILE, path:DIR or path:PATTERN, with files that end in
.jsonl, .json or .parquet. A command that was stopped goes on where it was; what it writes does not depend on that, nor
on the order of the rows. What is in a file, and from where, is in the .manifest.json beside it. See docs/prepare.md.
"""

import dataclasses
import sys
from pathlib import Path

from absl import flags

from camopd_jax import cli

OUT = {"nemotron": "general.jsonl", "coser": "roleplay.jsonl", "medical": "medical.jsonl"}
OWN = {  # flags of one recipe alone; those of sources have the sources' names
    "nemotron": {
        "nemotron": "hf:NAME[@REVISION] or path:DIR, of all categories.",
        "categories": "Some of them, with commas between; their proportions stay.",
        **{name: "Source of this category." for name in ("chat", "code", "math", "stem", "tool_calling")},
    },
    "coser": {"coser": "Its source.", "sft_out": "File of the other conversations (default: OUT_sft.jsonl)."},
    "medical": {
        name: "Source of these questions." for name in ("medmcqa", "medreason", "medical_r1", "m23k")
    },
}  # fmt: skip


def main(argv: list[str]) -> int:
    values = flags.FlagValues()

    def define(kind, name, default, text):
        kind(name, default, text, flag_values=values)

    define(flags.DEFINE_integer, "count", 10_000, "Prompts.")
    define(flags.DEFINE_integer, "seed", 0, "Of the sample; of coser, of ties.")
    define(flags.DEFINE_string, "out", None, "File of the prompts (default: as above).")
    define(
        flags.DEFINE_multi_string, "column", [], "SOURCE.WANTED=FOUND: a column has another name; '': there is none."
    )
    define(flags.DEFINE_integer, "limit", 0, "Rows of each source that are read, at most; 0: all of them.")
    define(flags.DEFINE_integer, "save_every", 100_000, "Rows after which unfinished work is saved.")
    for recipe, own in OWN.items():
        for name, text in own.items():
            define(flags.DEFINE_string, name, None, f"{recipe}: {text}")

    def run(rest: list[str]) -> None:
        if len(rest) != 1 or rest[0] not in OUT:
            said = f"{' '.join(rest)!r}" if rest else "nothing"
            raise ValueError(f"what to prepare: {said} is named; allowed is one of {', '.join(OUT)}")
        for name, least in (("count", 1), ("seed", 0), ("limit", 0), ("save_every", 1)):
            if values[name].value < least:
                raise ValueError(f"--{name}={values[name].value}: allowed is a whole number, {least} or more")
        _prepare(values, rest[0])

    return cli.main(argv, values, __doc__, run)


def _prepare(values: flags.FlagValues, recipe: str) -> None:
    from camopd_jax import workdirs  # slow, with what follows: not before the arguments are known to be right
    from camopd_jax.prepare import apart, mixture, work

    out = Path(values.out or f"data/paper/{OUT[recipe]}").expanduser()
    rest = Path(values.sft_out).expanduser() if values.sft_out else out.with_name(f"{out.stem}_sft{out.suffix}")
    outputs = (out, rest) if recipe == "coser" else (out,)
    if out == rest:
        raise ValueError(f"--sft_out={rest}: is the file of the prompts too; give another name")
    for path in outputs:
        if path.suffix != ".jsonl":
            raise ValueError(f"{path}: allowed is a name that ends in .jsonl")
        workdirs.check_writable(f"--out={path}", path.parent)
    streams = _streams(values, recipe)
    order = work.Order(
        recipe, streams, values.count, values.seed, _columns(values.column, streams), values.limit, values.save_every,
        outputs,
    )  # fmt: skip
    (apart if recipe == "coser" else mixture).make(order)


def _streams(values: flags.FlagValues, recipe: str) -> tuple:
    """The sources of a recipe, as the flags have them; a flag of another recipe is an error."""
    from camopd_jax.prepare import recipes

    for name in (name for other in OWN.values() for name in other):
        if name not in OWN[recipe] and values[name].value is not None:
            raise ValueError(
                f"--{name}: is no flag of {recipe}; allowed are {', '.join(f'--{n}' for n in OWN[recipe])}"
            )
    streams = recipes.RECIPES[recipe]
    if values.categories is not None:
        known, asked = [s.name for s in streams], values.categories.split(",")
        for name in asked:
            if name not in known:
                raise ValueError(f"--categories: there is no category {name!r}; allowed are {', '.join(known)}")
        streams = tuple(s for s in streams if s.name in asked)
    if values.nemotron is not None:
        streams = tuple(dataclasses.replace(s, source=recipes.category(values.nemotron, s.name)) for s in streams)
    return tuple(dataclasses.replace(s, source=values[s.name].value or s.source) for s in streams)


def _columns(given: list[str], streams: tuple) -> dict[str, dict[str, str]]:
    """FOUND by stream and WANTED."""
    found: dict[str, dict[str, str]] = {}
    wanted = {f"{s.name}.{column}": (s.name, column) for s in streams for column in s.columns}
    for text in given:
        name, equals, column = text.partition("=")
        if not equals or name not in wanted:
            raise ValueError(f"--column={text}: allowed is NAME=COLUMN, NAME one of {', '.join(wanted)}")
        stream, what = wanted[name]
        found.setdefault(stream, {})[what] = column
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv))
