"""What actors, environment and director are told, in our words and with CoSER's content and order of parts."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from camopd_jax.acting.scenes import ENVIRONMENT, Scene

END = "<END CHAT>"
START = "===Conversation Start==="
DIRECTOR = "Director"
SILENT = "(silence)"
WORDS = 60  # of a character's turn

_THOUGHT = re.compile(r"\[.*?\]", re.DOTALL)
_SAYS = (
    "Your output has **thought**, **speech** and **action**. Put thoughts, which others cannot see, in "
    "square brackets, as in [I must not show that I am afraid.]. Put actions, which others see, in parentheses, as in "
    f"(looks away). Speak briefly, as people do: {WORDS} words at most, and for yourself alone."
)
_ENVIRONMENT = """You are the environment of a role-playing game. From what the characters say and do, describe what \
changes around them: the place, sounds, weather and light, and how bystanders and minor characters react. Write one to \
three vivid sentences that suit the tone, the time and the culture of the scene. Never decide what the main characters \
do or say; they are: {major}.

===The scenario===
{scenario}"""
_DIRECTOR = """You say who acts next in a role-playing game. Choose one name of this list, by what was said and done \
so far: {names}. {environment}Answer with the name alone. If it is open who is next, answer random. If the scene has \
come to its end, answer {end}.

===The scenario===
{scenario}"""
_IS_SPECIAL = "Environment is no person: it tells what changes around the characters. "


@dataclass(frozen=True)
class Turn:
    """What one of them said in a scene, and who is next; END: nobody."""

    speaker: str
    text: str
    next: str


def without_thoughts(text: str) -> str:
    """What others hear and see of a message."""
    lines = (line.strip() for line in _THOUGHT.sub("", text).split("\n"))
    return "\n".join(line for line in lines if line)


def named(speaker: str, text: str) -> str:
    """A message with its speaker in front, once."""
    return text if text.lstrip().startswith(f"{speaker}:") else f"{speaker}: {text}"


def system(scene: Scene, who: str, names: Sequence[str]) -> str:
    """What a character, the environment or the director is told before the scene begins.

    Args:
      names: who can act in it.
    """
    if who == ENVIRONMENT:
        return _ENVIRONMENT.format(major=", ".join(scene.major), scenario=scene.scenario)
    if who == DIRECTOR:
        special = _IS_SPECIAL if ENVIRONMENT in names else ""
        return _DIRECTOR.format(names=", ".join(names), environment=special, end=END, scenario=scene.scenario)
    others = "\n\n".join(f"{name}: {text}" for name, text in scene.profiles.items() if name != who)
    parts = [
        ("", f"You are {who} from {scene.book}."),
        (f"{who}'s profile", scene.profiles.get(who, "")),
        ("Current scenario", scene.scenario),
        ("The other characters", others),
        ("Your inner thoughts", scene.motivations.get(who, "")),
        ("Requirements", _SAYS),
    ]
    return "\n\n".join(f"==={title}===\n{text}" if title else text for title, text in parts if text)


def messages(scene: Scene, turns: Sequence[Turn], who: str, names: Sequence[str]) -> list[dict]:
    """The scene so far, as one of them has lived it: own turns whole, those of others without thoughts."""
    told = [("user", START)]
    for turn in turns:
        heard = turn.text.strip() if turn.speaker == ENVIRONMENT else without_thoughts(turn.text)
        if turn.speaker == who:
            told.append(("assistant", turn.text.strip()))
        else:
            told.append(("user", named(turn.speaker, heard or SILENT)))
        if who == DIRECTOR:
            told.append(("assistant", turn.next))
    if who == DIRECTOR and turns:
        told.pop()  # what is asked
    merged: list[dict] = []
    for role, text in told:
        if text and merged and merged[-1]["role"] == role:
            merged[-1]["content"] += f"\n\n{text}"
        elif text:
            merged.append({"role": role, "content": text})
    if merged[-1]["role"] == "assistant":  # nobody else is there to answer
        merged.append({"role": "user", "content": SILENT})
    return [{"role": "system", "content": system(scene, who, names)}, *merged]
