"""Given-circumstance acting: what each one hears, who is next, what flaws cost, and that nothing is asked twice."""

import importlib.util
import itertools
import json
from pathlib import Path

import pytest
import stage
from fake_server import Answer, serving

from camopd_jax.acting import evaluation, judging, prompts, scenes, simulation
from camopd_jax.acting.prompts import DIRECTOR, END, Turn
from camopd_jax.acting.simulation import Cast
from camopd_jax.endpoint import Endpoint
from camopd_jax.evals.asking import Said

ROOT = Path(__file__).parents[2]
LEAR, MARLOW = (scenes._scene("here", row) for row in (stage.LEAR, stage.MARLOW))
NAMES = (*LEAR.characters, scenes.ENVIRONMENT)
TURNS = [
    Turn("Fool", "[He must see.] Think, uncle. (bows)", "King Lear"),
    Turn("King Lear", "[It stings.]\nWhat?", "Environment"),
    Turn("Environment", "Thunder [far away].", "Fool"),
]


def program():
    spec = importlib.util.spec_from_file_location("act_program", ROOT / "bin" / "act.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_scene_has_what_was_published():
    assert LEAR.id == "King Lear-7-0" and LEAR.characters == ("Fool", "King Lear")
    assert LEAR.profiles == {"Fool": "A jester.\n\nWitty.", "King Lear": "Proud."}
    assert LEAR.motivations == {"Fool": "Open his eyes."}
    assert MARLOW.characters == ("Marlow", "Kurtz") and MARLOW.major == ("Marlow",) and not MARLOW.profiles


def test_a_character_knows_its_own_thoughts_and_no_others():
    fool, lear = (prompts.messages(LEAR, TURNS, who, NAMES) for who in LEAR.characters)
    assert [m["role"] for m in fool] == ["system", "user", "assistant", "user"]
    assert fool[1]["content"] == prompts.START and fool[2]["content"] == TURNS[0].text
    assert fool[3]["content"] == "King Lear: What?\n\nEnvironment: Thunder [far away]."
    assert [m["role"] for m in lear] == ["system", "user", "assistant", "user"]
    assert lear[1]["content"] == f"{prompts.START}\n\nFool: Think, uncle. (bows)"
    assert "Open his eyes." in fool[0]["content"] and "Open his eyes." not in lear[0]["content"]
    assert "Fool: A jester." in lear[0]["content"] and "Fool: A jester." not in fool[0]["content"]
    assert "The Fool warns" not in fool[0]["content"], "what is to come is not told"


def test_the_director_sees_its_own_choices_and_no_thoughts():
    told = prompts.messages(LEAR, TURNS, DIRECTOR, NAMES)
    assert [m["role"] for m in told] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert [m["content"] for m in told[2::2]] == ["King Lear", "Environment"]
    assert "He must see" not in str(told) and "Fool, King Lear, Environment" in told[0]["content"]
    assert "Environment" not in prompts.system(LEAR, DIRECTOR, LEAR.characters)


def test_silence_is_told_so_that_the_last_word_is_never_ones_own():
    silent = [Turn("Fool", "Uncle!", "King Lear"), Turn("King Lear", "[It stings.]", "Fool")]
    fool, director = (prompts.messages(LEAR, silent, who, NAMES) for who in ("Fool", DIRECTOR))
    assert fool[-1] == director[-1] == {"role": "user", "content": f"King Lear: {prompts.SILENT}"}
    alone = prompts.messages(LEAR, silent[:1], "Fool", ("Fool",))
    assert alone[-1] == {"role": "user", "content": prompts.SILENT}
    empty = prompts.messages(LEAR, [Turn("Fool", "", "King Lear")], "Fool", NAMES)
    assert [m["role"] for m in empty] == ["system", "user"]


@pytest.mark.parametrize(
    "answer, turns, expected",
    [
        ("King Lear", 1, {"King Lear"}),
        ("**King Lear**", 1, {"King Lear"}),
        ("King Lear: because he must answer", 1, {"King Lear"}),
        ("Fool", 1, {"King Lear", "Environment"}),  # who spoke last
        ("Cordelia", 1, {"King Lear", "Environment"}),
        ("random", 1, {"King Lear", "Environment"}),
        (END, 5, {"King Lear", "Environment"}),
        (END, 6, {END}),
    ],
)
def test_who_is_next(answer, turns, expected):
    so_far = [Turn("Fool", "x", "Fool")] * turns
    drawn = {simulation.chosen(LEAR, so_far, answer, NAMES, seed) for seed in range(12)}
    assert drawn == expected


def test_a_scene_of_one_goes_on():
    assert simulation.chosen(LEAR, [Turn("Fool", "x", "")], "?", ("Fool",), 0) == "Fool"


@pytest.mark.parametrize(
    "severities, turns, points",
    [
        ([], 0, 100),
        ([], 10, 100),  # never more
        ([3], 0, 85),
        ([3, 5], 10, 75),  # 100 - 5 (8 - 3)
        ([1], 5, 100),  # 1 is less than the 1.5 that five turns may have
        ([5] * 20, 4, 0),  # never less
    ],
)
def test_points_by_hand(severities, turns, points):
    assert judging.score(severities, turns) == pytest.approx(points)


def test_a_judge_sees_both_conversations_without_thoughts_and_its_flaws_cost():
    quality = judging.DIMENSIONS[3]
    bad = Answer(json.dumps({"flaws": [{**stage.FLAW, "severity": 11}]}))
    good = Answer(json.dumps({"flaws": [{**stage.FLAW, "severity": 10}, stage.FLAW]}))
    with serving([bad, good]) as fake:
        client = Endpoint(fake.url, "m")
        row = judging.judge(client, LEAR, TURNS, quality, temperature=0.0, max_tokens=99, attempts=2)
    assert row["id"] == "King Lear-7-0/storyline_quality" and row["turns"] == 2
    assert row["score"] == pytest.approx(100 - 5 * (12 - 0.6)) and len(row["flaws"]) == 2
    first, second = fake.bodies
    told = first["messages"][0]["content"] + first["messages"][1]["content"]
    for part in ("The Fool warns", "A cold court.", "Proud.", "uncle? (taps it)", "Fool: Think, uncle. (bows)"):
        assert part in told
    assert "He must see" not in told and "It stings" not in told and "Thunder [far away]." in told
    assert "severity 11: it must be 1 to 10" in second["messages"][-1]["content"]
    assert (
        "Only of the main characters: Fool, King Lear" in judging.asking(LEAR, [], judging.DIMENSIONS[2])[0]["content"]
    )
    assert "Heart of {Darkness}" in judging.asking(MARLOW, [], quality)[0]["content"]


def test_a_judge_that_cannot_be_read_scores_nothing():
    with serving(lambda body: Answer("Lovely.")) as fake:
        row = judging.judge(
            Endpoint(fake.url, "m"), LEAR, TURNS, judging.DIMENSIONS[0], temperature=0.0, max_tokens=9, attempts=2
        )
    assert row["score"] is None and row["flaws"] is None and len(fake.requests) == 2


class Player:
    """Says who it is and how often it was asked; stops after so many."""

    def __init__(self, most=None):
        self.asked, self.most = [], most

    def __call__(self, some):
        for request in some:
            if len(self.asked) == self.most:
                raise KeyboardInterrupt
            self.asked.append(request.id)
            yield [(request, Said(f"turn {request.id}", False))]


def test_a_killed_play_goes_on_where_it_stopped(tmp_path):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole, first, second, third = Player(), Player(most=3), Player(), Player()
    expected = simulation.play([LEAR, MARLOW], Cast(whole, None, None), tmp_path / "whole", 20, 0)
    with pytest.raises(KeyboardInterrupt):
        simulation.play([LEAR, MARLOW], Cast(first, None, None), tmp_path / "killed", 20, 0)
    with (tmp_path / "killed" / simulation.TURNS).open("a") as file:
        file.write('{"id": "King')  # by the kill
    found = simulation.play([LEAR, MARLOW], Cast(second, None, None), tmp_path / "killed", 20, 0)
    assert found == expected and sorted(first.asked + second.asked) == sorted(whole.asked)
    assert simulation.play([LEAR, MARLOW], Cast(third, None, None), tmp_path / "killed", 20, 0) == expected
    assert not third.asked
    assert [t.speaker for t in expected[LEAR.id]] == ["Fool", "King Lear", "Fool"], "as often as in the book, by turns"
    assert [t.speaker for t in expected[MARLOW.id]] == ["Marlow", "Kurtz"]
    rows = (tmp_path / "killed" / simulation.TURNS).read_text().splitlines()
    (tmp_path / "killed" / simulation.TURNS).write_text("\n".join(rows[1:]) + "\n")
    with pytest.raises(ValueError, match=r"turns.jsonl:\d is no next turn of a scene; give another --out"):
        simulation.kept(tmp_path / "killed", [LEAR, MARLOW])


def run(fake, tmp_path, *more, out="out"):
    data = stage.write(tmp_path / "scenes.json")
    flags = [f"--judge_server={fake.url}", "--judge_model=critic", f"--data={data}", f"--out={tmp_path / out}"]
    return program().main(["act", *flags, "--rounds=8", "--attempts=1", *more])


def test_a_model_of_a_server_acts_is_judged_and_is_asked_once(tmp_path, capsys):
    def failing(body):
        return Answer(status=401) if len(fake.requests) == 15 else stage.script(body)

    with serving(failing) as fake:
        actor = (f"--server={fake.url}", "--model=actor", "--concurrency=2", "--director_model=usher")
        assert run(fake, tmp_path, *actor) == 2 and "401" in capsys.readouterr().err
        assert run(fake, tmp_path, *actor) == 0
        asked, said = len(fake.requests), capsys.readouterr().out
        assert run(fake, tmp_path, *actor) == 0 and len(fake.requests) == asked
        assert run(fake, tmp_path, *actor, "--temperature=1") == 2
        assert "temperature was 0.0 and is 1.0" in capsys.readouterr().err
    bodies = [json.dumps(body) for body in fake.bodies]
    assert len(bodies) - len(set(bodies)) <= 2, "again only what was refused, or was under way then"
    assert {b["model"] for b in fake.bodies} == {"actor", "usher", "critic"}
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    turns = [json.loads(line) for line in (tmp_path / "out" / simulation.TURNS).read_text().splitlines()]
    assert found["task"] == evaluation.TASK and found["scenes"] == 2 and found["unread"] == 0
    lear = [t for t in turns if t["id"] == LEAR.id]
    assert len(lear) in (7, 8) and all(a["next"] == b["speaker"] for a, b in itertools.pairwise(lear))
    acted = {i: sum(t["id"] == i and t["speaker"] != "Environment" for t in turns) for i in (LEAR.id, MARLOW.id)}
    expected = {i: judging.score([2], n) for i, n in acted.items()}
    assert found["figures"]["storyline_quality"]["value"] == pytest.approx(sum(expected.values()) / 2)
    assert found["figures"]["average"]["n"] == 2 and "2 scenes of " in said
    assert "    Fool: [I am Fool.] Words 0 of Fool. (nods)" in (tmp_path / "out" / "scenes.md").read_text()


def test_a_model_of_this_machine_acts(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CAMOPD_CACHE", str(tmp_path / "cache"))
    local = ("--model=random:llama", "--max_new_tokens=4", "--environment_model=", "--director_model=", "--limit=1")
    with serving(stage.script) as fake:
        assert run(fake, tmp_path, *local) == 0, capsys.readouterr().err
        assert len(fake.requests) == 4, "of a judge alone"
        assert run(fake, tmp_path, *local) == 0 and len(fake.requests) == 4
    turns = [json.loads(line) for line in (tmp_path / "out" / simulation.TURNS).read_text().splitlines()]
    assert [t["speaker"] for t in turns] == ["Fool", "King Lear", "Fool"] and turns[-1]["next"] == END


@pytest.mark.parametrize(
    "change, says",
    [
        ({"plot": {}}, "plot is '{}'; allowed is an object with the text summary"),
        ({"speaking_characters_w_env": ["Environment"]}, "allowed is a list of names, one of them a character's"),
        ({"dialogues": [{"character": "Fool"}]}, "allowed is a list of objects with the texts character and message"),
        ({"character_profiles": []}, "allowed is an object with a text for each name"),
        ({"key_characters": ["Fool"]}, "allowed is a list of objects with name"),
        ({"scenario": None}, "there is no column 'scenario', or it is null"),
    ],
)
def test_a_row_that_is_not_as_published_is_named(tmp_path, change, says):
    (tmp_path / "scenes.json").write_text(json.dumps([stage.LEAR, {**stage.MARLOW, **change}]))
    with pytest.raises(ValueError) as error:
        scenes.read(f"path:{tmp_path / 'scenes.json'}", None)
    assert says in str(error.value) and "scenes.json item 2: " in str(error.value)
