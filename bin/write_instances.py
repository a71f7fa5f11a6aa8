"""Instances of DistractionIF by a model: python bin/write_instances.py --server=URL --model=NAME --out=FILE.jsonl

URL is the base of any OpenAI-compatible API, such as http://localhost:8000/v1. One structured call makes an instance;
one that is not sound is asked for again, with the reasons. Answers are kept as they come (--cache): a command that was
stopped goes on, and a larger --count begins with the smaller one. See docs/distractionif.md.
"""

import sys
from collections import Counter
from pathlib import Path

from absl import flags

from camopd_jax import cli, remote, shown

SHOWN = 3  # reasons of each kind


def main(argv: list[str]) -> int:
    values = flags.FlagValues()

    def define(kind, name, default, *rest):
        kind(name, default, *rest, flag_values=values)

    remote.define(values)
    define(flags.DEFINE_integer, "count", 100, "Instances to ask for; those that never become sound are left out.")
    define(flags.DEFINE_integer, "seed", 0, "Of genres, topics, tasks and distractors.")
    define(flags.DEFINE_enum, "split", "dev", ["dev", "test"], "Which genres, topics, tasks and families.")
    define(flags.DEFINE_enum, "level", "short", ["short", "full"], "Of the text: 120 or 400 words at most.")
    define(flags.DEFINE_string, "out", None, "The JSONL file of the instances; must not be there yet.")
    define(flags.DEFINE_string, "cache", None, "Directory of the answers (default: OUT.answers).")
    define(flags.DEFINE_float, "temperature", 0.7, "Of sampling.")
    define(flags.DEFINE_integer, "max_tokens", 4096, "Of an answer, with what a model thinks before it.")
    define(flags.DEFINE_integer, "attempts", 3, "At an instance, each with what was wrong with the one before.")

    def run(rest: list[str]) -> None:
        if rest:
            raise ValueError(f"unknown argument {rest[0]!r}: arguments are written --NAME=VALUE, see --help")
        if values.out is None:
            raise ValueError("--out is missing: the file of the instances, such as --out=written.jsonl")
        for name, least in (("count", 1), ("seed", 0), ("max_tokens", 1), ("attempts", 1)):
            if values[name].value < least:
                raise ValueError(f"--{name}={values[name].value}: allowed is a whole number, {least} or more")
        if not 0 <= values.temperature <= 2:
            raise ValueError(f"--temperature={values.temperature}: allowed is 0 to 2")
        out = Path(values.out).expanduser()
        if out.exists():
            raise ValueError(f"--out={out}: is there already; give another name")
        cache = Path(f"{out}.answers" if values.cache is None else values.cache).expanduser()
        client = remote.client(values, cache)

        from camopd_jax import workdirs  # slow: not before the arguments are known to be right

        workdirs.check_writable(f"--out={out}", out)
        _write(values, client, out)

    return cli.main(argv, values, f"{__doc__}\n{remote.SENT}\n", run)


def _write(values: flags.FlagValues, client, out: Path) -> None:
    from camopd_jax import metrics
    from camopd_jax.distraction import files, ideas, writing

    wanted = ideas.make(values.split, values.count, values.seed, values.level)
    how = {"temperature": values.temperature, "max_tokens": values.max_tokens}
    first = client.estimate(map(writing.asking, wanted), **how, schema=writing.schema(values.split))
    print(f"{client.base_url}, {client.model}: at most about {client.priced(first)}, if each is sound at once")
    print(f"there are up to {values.attempts} attempts at each; what the cache has is not asked again", flush=True)
    client.check(first)
    found, progress = [], metrics.Progress("writing", len(wanted), 0)
    try:
        for written in writing.write(client, wanted, **how, attempts=values.attempts, at_once=values.concurrency):
            found.append(written)
            progress.show(len(found), f"sound so far {sum(w.instance is not None for w in found)}")
    except ConnectionError as error:
        raise ConnectionError(f"{error}; what was answered is kept, and the same command goes on from there") from None
    finally:
        progress.close()
    _tell(found)
    sound = [w.instance for w in found if w.instance is not None]
    print(f"asked now: {client.priced(client.spent)}", flush=True)
    if not sound:
        raise ValueError(f"{client.model}: none of {len(found)} is sound; the reasons stand above. Try a larger model")
    out.parent.mkdir(parents=True, exist_ok=True)
    staged = out.with_name(f".writing-{out.name}")
    files.write(staged, sound)
    staged.replace(out)
    print(f"{len(sound)} of {len(found)} instances are in {out}")


def _tell(found: list) -> None:
    """What was rejected and why."""
    from camopd_jax.distraction import writing

    rejected = [faults for w in found for faults in w.rejected]
    examples: dict[str, Counter] = {}
    for fault in (fault for faults in rejected for fault in faults):
        examples.setdefault(writing.kind_of(fault), Counter())[fault] += 1
    print(f"{len(rejected)} answers of {len(rejected) + sum(w.instance is not None for w in found)} were rejected")
    for kind, n in writing.counted(rejected).most_common():
        print(f"  {kind}: {n}")
        for fault, _ in examples[kind].most_common(SHOWN):
            print(f"    {shown.line(fault)}")
    for w in found:
        if w.instance is None:
            print(f"  left out: {w.idea.id}")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
