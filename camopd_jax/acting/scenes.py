"""Scenes of CoSER's test set: what each character knows, and the conversation of the book that is the reference."""

from collections.abc import Mapping
from dataclasses import dataclass

from camopd_jax.evals import rows

SOURCE, COUNT = "hf:Neph0s/CoSER:test/test_set.json", 200
ENVIRONMENT = "Environment"  # plays weather, crowds and minor characters
COLUMNS = (
    "book", "plot", "scenario", "character_profiles", "key_characters", "speaking_characters_w_env", "major_characters",
    "dialogues",
)  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """A scene of a book."""

    id: str
    book: str
    summary: str  # of the plot around it
    scenario: str
    characters: tuple[str, ...]  # who speak, the first begins; without the environment
    major: tuple[str, ...]  # of those
    profiles: Mapping[str, str]
    motivations: Mapping[str, str]
    dialogue: tuple[tuple[str, str], ...]  # character and message, as the book has them


def read(source: str, limit: int | None) -> list[Scene]:
    """The scenes of a file or of the hub, in its order: the first `limit`, if that is a number.

    Raises:
      ValueError: one line: it cannot be read, or a row is not as published.
    """
    found = [_scene(where, row) for where, row in rows.read(source, COLUMNS, "data")]
    if len({scene.id for scene in found}) < len(found):
        raise ValueError(f"--data={source}: a scene comes twice (book, plot.i_p and i_c); allowed is each once")
    return found[:limit]


def _scene(where: str, row: dict) -> Scene:
    def wrong(name: str, allowed: str) -> ValueError:
        return ValueError(f"{where}: {name} is {str(row[name])[:80]!r}; allowed is {allowed}")

    plot = row["plot"]
    if not isinstance(plot, dict) or not isinstance(plot.get("summary"), str):
        raise wrong("plot", "an object with the text summary")
    speaking = _names(row["speaking_characters_w_env"])
    if not speaking or speaking == [ENVIRONMENT]:
        raise wrong("speaking_characters_w_env", "a list of names, one of them a character's")
    profiles = row["character_profiles"]
    if not isinstance(profiles, dict):
        raise wrong("character_profiles", "an object with a text for each name")
    people, known = _people(row["key_characters"]), _people(plot.get("key_characters") or [])
    if people is None or known is None:
        raise wrong("key_characters", "a list of objects with name (plot.key_characters likewise)")
    lines = row["dialogues"]
    said = [(x.get("character"), x.get("message")) for x in lines if isinstance(x, dict)] if lines else []
    if not said or not all(isinstance(text, str) for pair in said for text in pair):
        raise wrong("dialogues", "a list of objects with the texts character and message")
    characters = tuple(name for name in speaking if name != ENVIRONMENT)
    whole = {}
    for name in characters:
        parts = (known.get(name, {}).get("description"), profiles.get(name))
        text = "\n\n".join(part.strip() for part in parts if isinstance(part, str) and part.strip())
        whole |= {name: text} if text else {}
    motives = {name: people[name].get("motivation") for name in characters if name in people}
    return Scene(
        id=f"{row['book']}-{plot.get('i_p', '')}-{row.get('i_c', where)}",
        book=str(row["book"]), summary=plot["summary"], scenario=str(row["scenario"]), characters=characters,
        major=tuple(name for name in _names(row["major_characters"]) if name in characters) or characters,
        profiles=whole, motivations={name: text for name, text in motives.items() if text}, dialogue=tuple(said),
    )  # fmt: skip


def _names(value: object) -> list[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []


def _people(value: object) -> dict[str, dict] | None:
    if not isinstance(value, list) or not all(isinstance(x, dict) and isinstance(x.get("name"), str) for x in value):
        return None
    return {x["name"]: x for x in value}
