"""Scenes played turn by turn, all of them side by side, and every turn kept as it comes."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from camopd_jax import metrics
from camopd_jax.acting import prompts
from camopd_jax.acting.prompts import DIRECTOR, END, Turn
from camopd_jax.acting.scenes import ENVIRONMENT, Scene
from camopd_jax.evals import asking
from camopd_jax.evals.asking import Answer

TURNS = "turns.jsonl"
AGAIN = "give another --out, and all is played again"
FEWEST = 6  # turns before the director may end a scene

Played = dict[str, list[Turn]]  # by the id of the scene


@dataclass(frozen=True)
class Request:
    """What one of a scene is asked."""

    id: str
    messages: list[dict]


@dataclass(frozen=True)
class Cast:
    """Who plays."""

    actor: Answer  # all characters
    environment: Answer | None  # None: there is none
    director: Answer | None  # None: characters act by turns, as often as in the book

    def names(self, scene: Scene) -> tuple[str, ...]:
        """Who can act in a scene."""
        return (*scene.characters, ENVIRONMENT) if self.environment else scene.characters


def play(scenes: Sequence[Scene], cast: Cast, out: Path, rounds: int, seed: int) -> Played:
    """The turns of all scenes; those that `out` has are not played again.

    Args:
      rounds: turns of a scene at most; seed: of the choice where the director names nobody.

    Raises:
      ValueError: if a kept turn is damaged.
    """
    played = kept(out, scenes)
    before = sum(_over(played[scene.id], rounds) for scene in scenes)
    progress = metrics.Progress("acting", len(scenes), before)
    while open_ := [scene for scene in scenes if not _over(played[scene.id], rounds)]:
        for answer, some in _by_player(open_, played, cast):
            for part in _turns(some, played, answer, cast, rounds, seed):
                asking.append(out / TURNS, [_row(scene, len(played[scene.id]), turn) for scene, turn in part])
                for scene, turn in part:
                    played[scene.id].append(turn)
        done = sum(_over(played[scene.id], rounds) for scene in scenes)
        if done > before:
            progress.show(done, f"{sum(map(len, played.values())):,} turns")
    progress.close()
    return played


def _row(scene: Scene, number: int, turn: Turn) -> dict:
    return {"id": scene.id, "turn": number, "speaker": turn.speaker, "text": turn.text, "next": turn.next}


def kept(out: Path, scenes: Sequence[Scene]) -> Played:
    """The turns that are on the disk; one that was cut short by a kill is left out.

    Raises:
      ValueError: if a line before the last is damaged, or a scene's turns are not in order.
    """
    file, played = out / TURNS, {scene.id: [] for scene in scenes}
    rows = asking.whole(file, ("id", "turn", "speaker", "text", "next"), AGAIN)
    for number, row in enumerate(rows, 1):
        turns = played.get(row["id"])
        if turns is None or row["turn"] != len(turns):
            raise ValueError(f"{file}:{number} is no next turn of a scene; {AGAIN}")
        turns.append(Turn(row["speaker"], row["text"], row["next"]))
    metrics.write_jsonl(file, rows)  # without a last line that was cut short
    return played


def _over(turns: Sequence[Turn], rounds: int) -> bool:
    return len(turns) >= rounds or (bool(turns) and turns[-1].next == END)


def _speaker(scene: Scene, turns: Sequence[Turn]) -> str:
    return turns[-1].next if turns else scene.characters[0]


def _by_player(scenes: Sequence[Scene], played: Played, cast: Cast) -> list[tuple[Answer, list[Scene]]]:
    """The scenes that wait for the environment, and those that wait for a character."""
    waiting = [s for s in scenes if _speaker(s, played[s.id]) == ENVIRONMENT]
    acting = [s for s in scenes if _speaker(s, played[s.id]) != ENVIRONMENT]
    return [(answer, some) for answer, some in ((cast.environment, waiting), (cast.actor, acting)) if some]


def _turns(
    scenes: Sequence[Scene], played: Played, answer: Answer, cast: Cast, rounds: int, seed: int
) -> Iterator[list[tuple[Scene, Turn]]]:  # fmt: skip
    """One more turn of each scene, in parts, as they come."""
    by_id = {scene.id: scene for scene in scenes}
    asked = [_request(scene, played[scene.id], _speaker(scene, played[scene.id]), cast) for scene in scenes]
    for part in answer(asked):
        said = [(by_id[request.id.rpartition("/")[0]], reply.text.strip()) for request, reply in part]
        turns = {s.id: [*played[s.id], Turn(_speaker(s, played[s.id]), text, END)] for s, text in said}
        nexts = _nexts([scene for scene, _ in said], turns, cast, rounds, seed)
        yield [(s, Turn(_speaker(s, played[s.id]), text, nexts[s.id])) for s, text in said]


def _request(scene: Scene, turns: Sequence[Turn], who: str, cast: Cast) -> Request:
    return Request(f"{scene.id}/{len(turns)}", prompts.messages(scene, turns, who, cast.names(scene)))


def _nexts(
    scenes: Sequence[Scene], turns: Mapping[str, list[Turn]], cast: Cast, rounds: int, seed: int
) -> dict[str, str]:  # fmt: skip
    """Who is next in each scene."""
    if cast.director is None:
        return {s.id: _by_turns(s, len(turns[s.id])) for s in scenes}
    left = {s.id: s for s in scenes if len(turns[s.id]) < rounds}
    found = {s.id: END for s in scenes if s.id not in left}
    if left:
        for part in cast.director([_request(s, turns[s.id], DIRECTOR, cast) for s in left.values()]):
            for request, reply in part:
                scene = left[request.id.rpartition("/")[0]]
                found[scene.id] = chosen(scene, turns[scene.id], reply.text, cast.names(scene), seed)
    return found


def _by_turns(scene: Scene, number: int) -> str:
    """Characters in their order, until they had as many turns as the characters of the book."""
    wanted = sum(name != ENVIRONMENT for name, _ in scene.dialogue)
    return END if number >= wanted else scene.characters[number % len(scene.characters)]


def chosen(scene: Scene, turns: Sequence[Turn], answer: str, names: Sequence[str], seed: int) -> str:
    """Who acts after `turns`, by the director's answer: a name of the scene but the last speaker's, or the end.

    Anything else, and an end before `FEWEST` turns, is a draw among the major characters and the environment.
    """
    last, answer = turns[-1].speaker, answer.strip().strip("*\"'`. \n")
    said = answer if answer in names else answer.partition(":")[0].strip()
    if said == END and len(turns) >= FEWEST:
        return END
    if said in names and said != last:
        return said
    major = [name for name in names if (name in scene.major or name == ENVIRONMENT) and name != last]
    candidates = major or [name for name in names if name != last] or list(names)
    key = hashlib.sha256(json.dumps([seed, scene.id, len(turns)]).encode()).digest()
    return candidates[int(np.random.default_rng(list(key)).integers(len(candidates)))]
