"""Two small scenes of the published schema, and a server whose models play all parts by a script."""

import json

from fake_server import Answer

LEAR = {
    "book": "King Lear",
    "i_c": 0,
    "scenario": "A cold court.",
    "plot": {
        "i_p": 7,
        "summary": "The Fool warns the king.",
        "key_characters": [{"name": "Fool", "description": "A jester.", "experience": "Sees all."}],
    },
    "character_profiles": {"Fool": "Witty.", "King Lear": "Proud."},
    "key_characters": [{"name": "Fool", "motivation": "Open his eyes."}, {"name": "King Lear", "motivation": ""}],
    "speaking_characters_w_env": ["Fool", "King Lear", "Environment"],
    "major_characters": ["Fool", "King Lear"],
    "dialogues": [
        {"character": "Fool", "message": "[He must see.] Why so many brains in one head, uncle? (taps it)"},
        {"character": "King Lear", "message": "[It stings.] What is thy meaning?"},
        {"character": "Environment", "message": "Thunder far away."},
        {"character": "Fool", "message": "Think of thy daughters."},
    ],
}
MARLOW = {
    **LEAR,
    "book": "Heart of {Darkness}",
    "i_c": 3,
    "plot": {"i_p": 2, "summary": "A river.", "key_characters": []},
    "character_profiles": {},
    "key_characters": [],
    "speaking_characters_w_env": ["Marlow", "Kurtz"],
    "major_characters": ["Marlow"],
    "dialogues": [{"character": "Marlow", "message": "Hm."}, {"character": "Kurtz", "message": "The horror!"}],
}
FLAW = {"instance": "too modern", "type": "Character Language", "severity": 2}


def write(path):
    path.write_text(json.dumps([LEAR, MARLOW]))
    return f"path:{path}"


def script(body):
    """An actor that counts its turns, a director who names nobody well, a judge who finds one flaw."""
    system, turns = body["messages"][0]["content"], sum(m["role"] == "assistant" for m in body["messages"])
    if "You find its flaws" in system or "you find its flaws" in system:
        return Answer(json.dumps({"flaws": [FLAW] * (2 if "Anthropomorphism" in system else 1)}))
    if system.startswith("You say who acts next"):
        return Answer("<END CHAT>" if turns >= 6 else "Kurtz" if "River" in system else "random")
    if system.startswith("You are the environment"):
        return Answer("It thunders.")
    who = system.removeprefix("You are ").partition(" from ")[0]
    return Answer(f"[I am {who}.] Words {turns} of {who}. (nods)")
