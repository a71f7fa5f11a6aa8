"""bin/act.py: from scenes and the models that play them to the judge's scores."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags

from camopd_jax import endpoint, lock, metrics, shown
from camopd_jax.acting import judging, prompts, scenes, simulation
from camopd_jax.acting.scenes import Scene
from camopd_jax.acting.simulation import Cast, Played
from camopd_jax.endpoint import Endpoint
from camopd_jax.evals import answering, asking, suite
from camopd_jax.evals.answering import How
from camopd_jax.evals.asking import Answer

TASK = "coser_gca"
JUDGEMENTS = "judgements.jsonl"
TOKENS = 512  # of a turn, as in CoSER
COLUMNS = 256  # conversations are padded to a multiple of so many tokens


def run(
    values: flags.FlagValues, out: Path, model: str | Endpoint, helpers: dict[str, Endpoint | None], judge: Endpoint
) -> None:
    """Play what is not played yet, judge what is not judged yet, then write and print the scores.

    Args:
      model: a model source, or the model of a server: it plays the characters.
      helpers: who plays "environment" and "director"; None: nobody.

    Raises:
      ValueError: if a flag has a value that is not allowed, the data are not as published, or `out` holds another
        evaluation.
    """
    how = answering.how(values, TOKENS)
    source = values.data or scenes.SOURCE
    chosen = scenes.read(source, values.limit)
    if values.limit is None and len(chosen) != scenes.COUNT:
        print(f"note: {source} has {len(chosen):,} scenes; the published test set has {scenes.COUNT:,}")
    actor, names = _actor(values, model, how, len(chosen))
    others = {
        name: None if x is None else f"{x.model} of {x.base_url}" for name, x in {**helpers, "judge": judge}.items()
    }
    setting = {"task": TASK, "data": source, "scenes": digest(chosen), "rounds": values.rounds,
               **dataclasses.asdict(how), **others, **names}  # fmt: skip
    plain = How(TOKENS, 0.0, how.think_end)
    cast = Cast(actor, *(
        client and answering.of_server(client, plain, values.concurrency, quiet=True)
        for client in (helpers["environment"], helpers["director"])
    ))  # fmt: skip
    held = lock.take(out / "lock", f"--out={out} is in use")
    try:
        asking.prepare(out, setting)
        played = simulation.play(chosen, cast, out, values.rounds, values.seed)
        rows = judged(values, judge, chosen, played, out)
        found = results(setting, rows, played)
        metrics.write_json(out / "results.json", found, indent=2)
        metrics.put(out / "scenes.md", script(chosen, played))
    finally:
        held.release()
    for client in {id(c): c for c in (*helpers.values(), judge, model) if isinstance(c, Endpoint)}.values():
        print(f"{client.base_url}, {client.model}: {client.priced(client.spent)}")
    print(summary(found))
    print(f"{simulation.TURNS}, {JUDGEMENTS}, scenes.md and results.json are in {out}")


def _actor(values: flags.FlagValues, model: str | Endpoint, how: How, count: int) -> tuple[Answer, dict]:
    if isinstance(model, Endpoint):
        return answering.of_server(model, how, values.concurrency, quiet=True), answering.server_names(model)
    loaded = answering.on_devices(values, model)
    rows = min(values.batch_size, count)

    def answer(asked: Sequence) -> Iterator[list]:
        prompts_ = loaded.encode(asked, how)
        yield from answering.of_model(loaded.policy, prompts_, how, rows, values.seed, COLUMNS)(asked)

    return answer, loaded.names


def digest(chosen: Sequence[Scene]) -> str:
    """Sixteen hex digits of the scenes, and of what is told of them."""
    found = hashlib.sha256()
    for scene in chosen:
        told = [prompts.system(scene, who, scene.characters) for who in (*scene.characters, prompts.DIRECTOR)]
        told += [str(judging.asking(scene, (), dimension)) for dimension in judging.DIMENSIONS]
        found.update(repr((scene, told)).encode("utf-8", "replace"))
    return found.hexdigest()[:16]


def judged(
    values: flags.FlagValues, judge: Endpoint, chosen: Sequence[Scene], played: Played, out: Path
) -> list[dict]:  # fmt: skip
    """The rows of all scenes and dimensions (`judging.judge`); those that `out` has are not asked for."""
    file = out / JUDGEMENTS
    rows = {row["id"]: row for row in asking.whole(file, ("id", "score"), "delete the line, and it is judged again")}
    metrics.write_jsonl(file, list(rows.values()))  # without a last line that was cut short
    wanted = [(scene, dimension) for scene in chosen for dimension in judging.DIMENSIONS]
    missing = [(s, d) for s, d in wanted if f"{s.id}/{d.name}" not in rows]
    how = {"temperature": 0.0, "max_tokens": values.judge_max_tokens}
    conversations = (judging.asking(scene, played[scene.id], dimension) for scene, dimension in missing)
    most = judge.estimate(conversations, **how, schema=judging.SCHEMA)
    print(
        f"{judge.base_url}, {judge.model}: {len(missing):,} judgements, at most about {judge.priced(most)}", flush=True
    )
    judge.check(most)

    def one(item):
        scene, dimension = item
        return judging.judge(judge, scene, played[scene.id], dimension, **how, attempts=values.attempts)

    progress = metrics.Progress("judging", len(wanted), len(wanted) - len(missing))
    try:
        for row in endpoint.each(one, missing, values.concurrency):
            asking.append(file, [row])
            rows[row["id"]] = row
            progress.show(len(rows), f"read {sum(r['score'] is not None for r in rows.values()):,}")
    except ConnectionError as error:
        raise ConnectionError(f"{error}; what was judged is kept, and the same command goes on from there") from None
    finally:
        progress.close()
    return [rows[f"{scene.id}/{dimension.name}"] for scene, dimension in wanted]


def results(setting: dict, rows: Sequence[dict], played: Played) -> dict:
    """What results.json holds: scores of 100 with standard errors over scenes; "average" is that of the dimensions.

    Raises:
      ValueError: if no scene could be judged in all dimensions.
    """
    names = [dimension.name for dimension in judging.DIMENSIONS]
    by_scene = [dict(zip(names, rows[n : n + len(names)], strict=True)) for n in range(0, len(rows), len(names))]
    whole = [{name: row["score"] for name, row in of.items()} for of in by_scene]
    whole = [scores for scores in whole if None not in scores.values()]
    if not whole:
        raise ValueError("no scene could be judged in all four dimensions. Try a larger model as judge, or more tokens")
    figures = {"average": suite.figure([sum(scores.values()) / len(names) for scores in whole])}
    figures |= {name: suite.figure([scores[name] for scores in whole]) for name in names}
    turns = [len(some) for some in played.values()]
    return {"setting": setting, "task": TASK, "figures": figures, "scenes": len(by_scene),
            "unread": len(by_scene) - len(whole), "turns": sum(turns) / len(turns)}  # fmt: skip


def script(chosen: Sequence[Scene], played: Played) -> str:
    """The scenes to read: Markdown, each turn as a block that shows what was said as it stands."""
    parts = ["# Played scenes"]
    for scene in chosen:
        parts.append(f"## {scene.id}".replace("\n", " "))
        parts += [
            "\n".join(f"    {line}" for line in shown.visible(f"{t.speaker}: {t.text}").split("\n"))
            for t in played[scene.id]
        ]
    return "\n\n".join(parts) + "\n"


def summary(found: dict) -> str:
    """The figures in words."""
    lines = [f"{found['scenes']:,} scenes of {found['turns']:.1f} turns; points of 100 (± one standard error):"]
    for name, of in found["figures"].items():
        error = f" ± {of['stderr']:.2f}" if of["stderr"] is not None else ""
        lines.append(f"  {name.replace('_', ' ')}: {of['value']:.2f}{error}")
    if found["unread"]:
        lines.append(f"  left out: {found['unread']:,} scenes, of which a judgement could not be read")
    return "\n".join(lines)
