"""Descriptions of ICD codes: python bin/describe.py --config=configs/icd.py --server=URL --model=NAME --out=FILE

URL is the base of any OpenAI-compatible API, such as http://localhost:8000/v1. Each code of the config's label set
gets a description and what often comes with it, for config.descriptions.kind = "written" or "both" with
config.descriptions.file = FILE (JSONL). Code and title are all that is sent, never a note. What FILE has is not asked
again: a command that was stopped goes on. See docs/icd.md.
"""

import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from camopd_jax import cli, remote


def main(argv: list[str]) -> int:
    values = flags.FlagValues()

    def define(kind, name, default, *rest):
        kind(name, default, *rest, flag_values=values)

    config_flags.DEFINE_config_file(
        "config", None, "Config whose notes give the codes: configs/icd.py[:PRESET].", flag_values=values, sys_argv=argv
    )
    remote.define(values)
    define(flags.DEFINE_string, "out", None, "The JSONL file of the descriptions; what it has stays.")
    define(flags.DEFINE_string, "cache", None, "Directory of the answers (default: OUT.answers).")
    define(flags.DEFINE_float, "temperature", 0.0, "Of sampling.")
    define(flags.DEFINE_integer, "max_tokens", 1024, "Of an answer, with what a model thinks before it.")
    define(flags.DEFINE_integer, "attempts", 3, "At a code, each with what was wrong with the one before.")

    def run(rest: list[str]) -> None:
        if rest:
            raise ValueError(f"unknown argument {rest[0]!r}: arguments are written --NAME=VALUE, see --help")
        config = cli.config_of(values)
        if "descriptions" not in config:
            raise ValueError("--config: allowed is a config of ICD coding, such as configs/icd.py")
        if values.out is None:
            raise ValueError("--out is missing: the file of the descriptions, such as --out=descriptions.jsonl")
        for name in ("max_tokens", "attempts"):
            if values[name].value < 1:
                raise ValueError(f"--{name}={values[name].value}: allowed is a whole number, 1 or more")
        if not 0 <= values.temperature <= 2:
            raise ValueError(f"--temperature={values.temperature}: allowed is 0 to 2")
        out = Path(values.out).expanduser()
        client = remote.client(values, Path(f"{out}.answers" if values.cache is None else values.cache).expanduser())
        _describe(values, config, client, out)

    return cli.main(argv, values, f"{__doc__}\n{remote.SENT}\n", run)


def _describe(values: flags.FlagValues, config, client, out: Path) -> None:
    from camopd_jax import workdirs  # slow, with what follows: not before the arguments are known to be right
    from camopd_jax.coding import inputs
    from camopd_jax.probias import descriptions

    workdirs.check_writable(f"--out={out}", out)
    labels = inputs.notes(config).labels
    out.parent.mkdir(parents=True, exist_ok=True)
    how = {"temperature": values.temperature, "max_tokens": values.max_tokens}
    asked = [descriptions.asking(c, t) for c, t in zip(labels.codes, labels.titles, strict=True) if t]
    most = client.estimate(asked, **how, schema=descriptions.SCHEMA)
    print(
        f"{client.base_url}, {client.model}: at most about {client.priced(most)}, if each is sound at once", flush=True
    )
    client.check(most)
    try:
        found = descriptions.extend(
            out, client, labels, **how, attempts=values.attempts, at_once=values.concurrency, show=True
        )
    except ConnectionError as error:
        raise ConnectionError(f"{error}; what was answered is kept, and the same command goes on from there") from None
    print(f"asked now: {client.priced(client.spent)}")
    left = f"; {found['refused']} codes got none that could be used, and keep their titles" if found["refused"] else ""
    print(f"{found['had']} descriptions were there, {found['written']} were written into {out}{left}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
