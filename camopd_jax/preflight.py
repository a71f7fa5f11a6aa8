"""What a recovery checks before it starts; what is the same for every kind of run is in page.py."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from camopd_jax import checked, inputs, judged, page, plan, renderings, room, rules, selftest, stops
from camopd_jax.camopd import methods
from camopd_jax.chat import Chat
from camopd_jax.inputs import Inputs
from camopd_jax.page import Checked, Program, from_cache, warnings
from camopd_jax.shown import WARNING


def check(config: ConfigDict, workdir: Path, allowed: Sequence[str]) -> Checked:
    """`page.check` of a recovery."""
    return page.check(RECOVERY, config, workdir, allowed)


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


def _memory(read: Inputs, workdir: Path) -> list[str]:
    del workdir
    lines, doubts = room.memory(read)
    return [*lines, *warnings(doubts)]


def _self_tests(read: Inputs) -> Iterator[str]:
    config = read.config
    how = (config.precision, config.rollout.temperature)

    def passed() -> dict:
        found = selftest.figures(read)
        judged.judge(found, *how)  # what has failed is not kept
        return found

    found, known = checked.remembered({"self-test": checked.shaped_by(read)}, passed)
    first, *others = judged.judge(found, *how)
    yield from (f"{first}{from_cache(known)}", *others)
    if read.examples:
        yield stops.of_examples(read)


def _header(config: ConfigDict, workdir: Path) -> Iterator[str]:
    """The stages."""
    names, made, s = rules.branches(config), rules.specialised(config), config.specialise
    made_by = f"made by {s.steps} updates of {s.batch_size} examples unless cached" if made else ""
    turns = methods.steps_in_words(config.camopd, config.rollout.batch_size)
    for n in names:
        start = ", the start of the student" if n == config.student else ""
        yield f"  {n} teacher: {made_by if n == made else config.teachers[n]}{start}"
    yield "  1. full evaluation of the teachers and of their interpolation (unless cached)"
    yield (
        f"  2. recovery by {config.camopd.method}: {config.steps} updates of {config.rollout.batch_size} prompts, "
        f"{turns}"
    )
    yield "  3. full evaluation of the recovered student, table, plots, export"


RECOVERY = Program(
    rules.check_config,
    rules.doubts,
    _header,
    inputs.read,
    (
        ("data", lambda read, workdir: [*_data(read), *apart(read)]),
        ("tokens", _tokenizers),
        ("disk", lambda read, workdir: room.check_disks(room.written(read, workdir))),
        ("memory", _memory),
    ),
    _self_tests,
    plan.estimate,
)
