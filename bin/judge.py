"""A model as judge beside the rubric: python bin/judge.py ANSWERS.jsonl --server=URL --model=NAME --out=FILE.jsonl

ANSWERS.jsonl is what an evaluation on DistractionIF left. The judge sees instruction, text, distractors, gold output
and answer, and decides the five criteria; how far it agrees with the rubric is printed, and each judgement is in
FILE.jsonl.
Answers are kept as they come (--cache): a command that was stopped goes on. See docs/distractionif.md.
"""

import sys
from pathlib import Path

from absl import flags

from camopd_jax import cli, remote


def main(argv: list[str]) -> int:
    values = flags.FlagValues()

    def define(kind, name, default, *rest):
        kind(name, default, *rest, flag_values=values)

    remote.define(values)
    define(flags.DEFINE_string, "instances", None, "Their JSONL file (default: the benchmark's own, by their ids).")
    define(flags.DEFINE_integer, "limit", None, "So many answers, drawn at random (default: all).")
    define(flags.DEFINE_integer, "seed", 0, "Of that draw.")
    define(flags.DEFINE_string, "out", None, "The JSONL file of the judgements; must not be there yet.")
    define(flags.DEFINE_string, "cache", None, "Directory of the judge's answers (default: OUT.answers).")
    define(flags.DEFINE_float, "temperature", 0.0, "Of sampling.")
    define(flags.DEFINE_integer, "max_tokens", 1024, "Of a judgement, with what a model thinks before it.")
    define(flags.DEFINE_integer, "attempts", 2, "At a judgement that cannot be read.")

    def run(rest: list[str]) -> None:
        if len(rest) != 1:
            raise ValueError(
                "give the file of answers: python bin/judge.py ANSWERS.jsonl --server=URL --model=NAME ..."
            )
        if values.out is None:
            raise ValueError("--out is missing: the file of the judgements, such as --out=judged.jsonl")
        for name, least in (("limit", 1), ("seed", 0), ("max_tokens", 1), ("attempts", 1)):
            if values[name].value is not None and values[name].value < least:
                raise ValueError(f"--{name}={values[name].value}: allowed is a whole number, {least} or more")
        if not 0 <= values.temperature <= 2:
            raise ValueError(f"--temperature={values.temperature}: allowed is 0 to 2")
        out = Path(values.out).expanduser()
        if out.exists():
            raise ValueError(f"--out={out}: is there already; give another name")
        cache = Path(f"{out}.answers" if values.cache is None else values.cache).expanduser()
        client = remote.client(values, cache)
        _judge(values, client, Path(rest[0]).expanduser(), out)

    return cli.main(argv, values, f"{__doc__}\n{remote.SENT}\n", run)


def _judge(values: flags.FlagValues, client, path: Path, out: Path) -> None:
    import numpy as np  # slow, with what follows: not before the arguments are known to be right

    from camopd_jax import endpoint, metrics, workdirs
    from camopd_jax.distraction import answers, files, judge, rubric

    workdirs.check_writable(f"--out={out}", out)
    every = answers.read(path, files.read(values.instances) if values.instances is not None else None)
    asked = [(q, a) for q, a in every if q.control == "distracted" and a.strip()]
    print(f"{len(every):,} answers, {len(asked):,} of them to distracted questions and not empty")
    if not asked:
        raise ValueError(f"{path}: there is no answer to judge; needed are some of control distracted, with their text")
    if values.limit is not None and values.limit < len(asked):
        chosen = np.random.default_rng(values.seed).choice(len(asked), values.limit, replace=False)
        asked = [asked[i] for i in sorted(chosen)]
    how = {"temperature": values.temperature, "max_tokens": values.max_tokens}
    cost = client.estimate((judge.asking(q, a) for q, a in asked), **how, schema=judge.SCHEMA)
    print(f"{client.base_url}, {client.model}: {len(asked):,} answers, at most about {client.priced(cost)}", flush=True)
    client.check(cost)

    def one(item):
        return judge.judge(client, *item, **how, attempts=values.attempts)

    found, progress = [], metrics.Progress("judging", len(asked), 0)
    try:
        for judgement in endpoint.each(one, asked, values.concurrency):
            found.append(judgement)
            progress.show(len(found), f"read {sum(j is not None for j in found)}")
    except ConnectionError as error:
        raise ConnectionError(f"{error}; what was answered is kept, and the same command goes on from there") from None
    finally:
        progress.close()
    print(f"asked now: {client.priced(client.spent)}")
    read = [(q, a, rubric.criteria(q.instance, a), j) for (q, a), j in zip(asked, found, strict=True) if j is not None]
    if not read:
        raise ValueError(f"{client.model}: none of {len(asked)} judgements could be read. Try a larger model")
    out.parent.mkdir(parents=True, exist_ok=True)
    metrics.put(out, judge.lines([judge.row(*item) for item in read]))
    print(judge.table(judge.agreement([c for _, _, c, _ in read], [j.criteria for _, _, _, j in read])))
    print(f"{len(read)} judgements are in {out}; {len(asked) - len(read)} could not be read")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
