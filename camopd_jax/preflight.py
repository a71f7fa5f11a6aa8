"""The page of checks of a start: what was checked, with a figure for each, or one line that says what is wrong.

What needs no computing comes first, the cheapest of it before all; then the weights are read once, and the self-tests
compute. All processes of a run make the same checks and come to the same end.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
from ml_collections import ConfigDict

from camopd_jax import (
    checked,
    footprint,
    hosts,
    inputs,
    judged,
    plan,
    prompts,
    renderings,
    resume,
    room,
    rules,
    selftest,
    shown,
    stops,
    workdirs,
)
from camopd_jax.camopd import methods
from camopd_jax.chat import Chat
from camopd_jax.inputs import Inputs
from camopd_jax.models.conversion import cache_dir
from camopd_jax.shown import WARNING


@dataclass(frozen=True)
class Checked:
    """What a start has found in order."""

    read: Inputs
    models: dict[str, list[str]]  # source and fingerprint, by branch
    data: dict[str, str]  # digest of the training prompts, by branch


def check(config: ConfigDict, workdir: Path, allowed: Sequence[str]) -> Checked:
    """Make all checks of a start and print them, as they are made.

    Args:
      allowed: keys of the config that may differ from those of the run in the workdir.

    Raises:
      ValueError: at the first that is failed, with what is wrong, where, and what to do.
    """
    clock = time.monotonic()
    with hosts.together():
        keys = rules.check_config(config)
        resume.check_free(workdir)
        workdirs.check_allowed(config, workdir, allowed)
        workdirs.check_workdir(config, workdir, allowed)
        workdirs.check_writable(f"CAMOPD_CACHE: the cache {cache_dir()}", cache_dir())
        if config.precision == "float32":
            jax.config.update("jax_default_matmul_precision", "highest")  # float32 means float32 on every backend
        step = resume.check_whole(workdir)
        print(shown.lines(_header(config, workdir)), flush=True)
        goes_on = f"; the run in {workdir} goes on at step {step}" if step else ""
        _show("config", [f"{keys} keys, all there, known and in range{goes_on}", *_warnings(rules.doubts(config))])
        found = _checked(config, workdir, allowed)
        read = found.read
        _show("data", [*_data(read), *apart(read)])
        _show("tokens", _tokenizers(read, workdir))
        _show("disk", room.check_disks(room.written(read, workdir)))
        lines, warnings = room.memory(read)
        _show("memory", [*lines, *_warnings(warnings)])
        _show("weights", _weights(read))
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))  # what is refused leaves none behind
    with hosts.together():
        _show("self-test", _self_tests(read))
    _show("time", [plan.estimate(config, read)])
    print(f"  checked in {time.monotonic() - clock:.1f} s", flush=True)
    return found


def _show(group: str, lines: Iterable[str]) -> None:
    for line in lines:
        print(f"  {group:10s} {shown.line(line)}", flush=True)
        group = ""


def _warnings(lines: Iterable[str]) -> Iterator[str]:
    return (WARNING + line for line in lines)


def _checked(config: ConfigDict, workdir: Path, allowed: Sequence[str]) -> Checked:
    """The inputs of a run, which are those of the run in its workdir, if there is one; nothing is computed."""
    read = inputs.read(config)
    models = {name: [model.source, model.fingerprint] for name, model in read.models.items()}
    data = prompts.digests(read.branches)
    workdirs.check_same(workdir, models, data, allowed)
    everywhere = [told for told, _ in hosts.gather([models, data])]
    for number, theirs in enumerate(everywhere):
        if theirs != everywhere[0]:
            name = next(n for n in data if [x.get(n) for x in theirs] != [x.get(n) for x in everywhere[0]])
            raise ValueError(
                f"config.teachers.{name} or config.data.{name}: process {number} has other weights or prompts than "
                "process 0; give all of them the same files"
            )
    return Checked(read, models, data)


def _data(read: Inputs) -> Iterator[str]:
    """A line for each part of the data, and one for all sources, of which each is counted once."""
    parts = [statistics for _, statistics in read.statistics]
    yield from (statistics.describe(key) for key, statistics in read.statistics)
    largest = {s.source: s for s in sorted(parts, key=lambda s: s.rows)}.values()
    rows, duplicates = (sum(getattr(s, name) for s in largest) for name in ("rows", "duplicates"))
    dropped, cut = (sum(getattr(s, name) for s in parts) for name in ("dropped", "cut"))
    yield (
        f"in all {rows:,} rows of {len(largest)} sources, {duplicates:,} duplicates, {dropped:,} prompts left "
        f"out and {cut:,} cut as too long, none empty"
    )


def apart(read: Inputs) -> Iterator[str]:
    """A line that no prompt that trains is, as token ids, one that is evaluated; and what a small source means.

    Raises:
      ValueError: if one is: sources are held apart as text, of which a rendering may leave something out.
    """
    tasks = (read.suite.general, read.suite.instructions, *read.suite.domains.values())
    held = {ids.tobytes() for part in read.branches.values() for ids in part.heldout}
    held |= {ids.tobytes() for task in tasks for ids in task.encoded}
    trains = {f"data.{name}": (branch.prompt_ids, branch.prompts) for name, branch in read.branches.items()}
    if read.examples:
        trains["specialise"] = (range(1, 1 + len(read.examples.prompts)), read.examples.prompts)
    for key, (names, tokens) in trains.items():
        both = [name for name, ids in zip(names, tokens, strict=True) if ids.tobytes() in held]
        if both:
            raise ValueError(
                f"config.{key}: {len(both)} of its {len(tokens)} prompts that train are, as token ids, held-out "
                f"prompts too, for example {both[0]}; what told their texts apart was cut off (rollout.long_prompts) "
                "or is not in the chat template: raise rollout.max_prompt_tokens, or leave them out"
            )
    count = sum(len(tokens) for _, tokens in trains.values())
    yield f"{count:,} prompts that train and {len(held):,} that are held out, compared as token ids: none is both"
    c = read.config.camopd
    for turn in methods.method_of(c).turns(tuple(c.cycle), 0, read.config.rollout.batch_size):
        prompts_ = len(read.branches[turn.branch].prompts)
        if prompts_ < turn.rows:
            yield f"{WARNING}data.{turn.branch}: {prompts_} prompts for {turn.rows} of a step; some stand in it twice"


def _tokenizers(read: Inputs, workdir: Path) -> Iterator[str]:
    """What student and teachers share; where a teacher has another chat template or other stop tokens, a warning.

    Teachers score the student's tokens. One that was trained on another layout, or that ends its responses otherwise as
    well, is a biased judge of them: this is no fault of the code, may be meant, and cannot be mended here.
    """
    engine, chat = read.engine, Chat(**read.config.chat)
    samples = renderings.prompts(engine.tokenizer, chat)
    for name, model in read.models.items():
        where = f"config.teachers.{name} = {model.source!r}"
        tokens, ends = f"{engine.numerics.vocab:,} tokens", inputs.named(engine, model.stop_ids)
        if model is read.base:
            yield f"{name}: {tokens}, the student's; a response ends with {ends}"
            continue
        compared = f"{len(samples)} of {len(renderings.SAMPLES)} sample conversations compared"
        yield f"{name}: {tokens}, the student's too; a response ends with {ends}; {compared}"
        if set(model.stop_ids) != set(engine.stop_ids):
            yield (
                f"{WARNING}{where}: its responses end with {ends}, the student's with "
                f"{inputs.named(engine, engine.stop_ids)}; where only one of the two stops, the teacher misjudges it"
            )
        difference = renderings.difference(engine.tokenizer, model.tokenizer, chat)
        if difference:
            yield (
                f"{WARNING}{where}: its chat template renders a conversation otherwise, {difference}; it scores the "
                "student's rendering, which it was not trained on: a part of its gap will be of the layout alone"
            )
    if read.specialised:
        state = "is in the cache" if read.made_at(workdir).is_dir() else "will be made"
        yield f"{read.specialised}: {state}, with tokens and template of {read.base.source}"


def _weights(read: Inputs) -> Iterator[str]:
    for name, model in read.models.items():
        millions, (tensors, known) = footprint.parameters(model.cfg) / 1e6, checked.finite(model)
        yield (
            f"{name} {model.source}: {millions:,.1f} million in {tensors} tensors, all there, of the right shape "
            f"and finite{_source(known)}; fingerprint {model.fingerprint}"
        )


def _self_tests(read: Inputs) -> Iterator[str]:
    config = read.config
    how = (config.precision, config.rollout.temperature)

    def passed() -> dict:
        found = selftest.figures(read)
        judged.judge(found, *how)  # what has failed is not kept
        return found

    found, known = checked.remembered({"self-test": checked.shaped_by(read)}, passed)
    first, *others = judged.judge(found, *how)
    yield from (f"{first}{_source(known)}", *others)
    if read.examples:
        yield stops.of_examples(read)


def _source(known: bool) -> str:
    return " (from the cache)" if known else ""


def _header(config: ConfigDict, workdir: Path) -> str:
    """What will run, where, and how to get the other presets."""
    device, names = jax.devices()[0], rules.branches(config)
    made = rules.specialised(config)
    s, rank = config.specialise, config.lora.rank
    made_by = f"made by {s.steps} updates of {s.batch_size} examples unless cached" if made else ""
    trains = f"an adapter of rank {rank}" if rank else "all weights"
    turns = methods.steps_in_words(config.camopd, config.rollout.batch_size)
    return "\n".join(
        [
            f"{config.name}:{config.preset}, seed {config.seed}, on {jax.device_count()} x {device.device_kind}, "
            f"{config.precision}; {trains} of the student trains",
            *(
                f"  {n} teacher: {made_by if n == made else config.teachers[n]}"
                f"{', the start of the student' if n == config.student else ''}"
                for n in names
            ),
            "  1. full evaluation of the teachers and of their interpolation (unless cached)",
            f"  2. recovery by {config.camopd.method}: {config.steps} updates of {config.rollout.batch_size} prompts, "
            f"{turns}",
            "  3. full evaluation of the recovered student, table, plots, export",
            f"  kept in {workdir}; the same command goes on where it stopped",
            "  other presets: --config=configs/NAME.py[:PRESET]; every value: --config.KEY=VALUE",
        ]
    )
