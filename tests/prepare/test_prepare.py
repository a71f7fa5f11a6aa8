"""bin/prepare.py on small files of the published schemas: what it writes, again after a kill, and its errors."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import published
import pytest
from published import CATEGORIES, done, prepare, read, refused, write

from camopd_jax import data, metrics, sources
from camopd_jax.prepare import apart, origins, work

SYSTEMS = ("You are Anna.", "You are Anna. Ben is your brother.")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(origins, "BATCH", 7)


def general(folder, seed=None, suffix="jsonl", n=60, **replaced):
    """The flags of files with all categories; other rows in place of those of some."""
    folder.mkdir(exist_ok=True)
    rows = {name: replaced.get(name, published.category(name, n * (8 if name == "stem" else 1))) for name in CATEGORIES}
    return [f"--{name}={write(folder / f'{name}.{suffix}', rows[name], seed)}" for name in CATEGORIES]


def questions(folder, seed=None, n=40, **replaced):
    folder.mkdir(exist_ok=True)
    rows = published.medical(n) | replaced
    return [f"--{name}={write(folder / f'{name}.json', rows[name], seed)}" for name in rows]


def scenes():
    """Twenty scenes in several forms each, with some that begin others and some about the next speaker."""
    rows = []
    for i in range(20):
        name, turns = f"Szene {i} é", 2 + i % 6
        rows += [published.scene(name, turns, system, thoughts) for system in SYSTEMS for thoughts in (True, False)]
    rows += [
        published.scene("Szene 5 é", 3, "Short."),
        published.scene("Szene 11 é", 9, "You are Anna, later.", start=0),
    ]
    for name, turns in (
        ("Wer 0", 12),
        ("Wer 1", 12),
        ("Wer 2", 12),
        ("Szene 11 é", 10),
    ):  # the last goes on from a prompt
        rows.append(published.scene(name, turns, "Who is next?"))
        rows[-1]["conversations"][-1]["value"] = "<END CHAT>"
    return rows + rows[:2]


def role_play(folder, seed=None, suffix="json"):
    folder.mkdir(exist_ok=True)
    return [f"--coser={write(folder / f'coser.{suffix}', scenes(), seed)}"]


MAKERS = {"nemotron": (general, 300), "medical": (questions, 100), "coser": (role_play, 12)}


def outputs(out):
    return sorted(p for p in out.parent.glob(f"{out.stem}*.jsonl"))


def test_general_prompts_in_exact_proportions_without_answers(tmp_path):
    out = tmp_path / "general.jsonl"
    done("nemotron", f"--out={out}", "--count=300", *general(tmp_path / "in"))
    rows = read(out)
    # 300 times the official shares: 8.73, 22.17, 23.90, 241.57 and 3.63
    assert Counter(r["source"] for r in rows) == {"chat": 9, "code": 22, "math": 24, "stem": 241, "tool_calling": 4}
    assert len({data.content_hash(r["messages"]) for r in rows}) == len({r["id"] for r in rows}) == 300
    assert published.ANSWER not in out.read_text() and "π? 🧮" in out.read_text()
    assert {m["role"] for r in rows for m in r["messages"]} == {"system", "user"}
    assert all("<tools>" in r["messages"][0]["content"] for r in rows if r["source"] == "tool_calling")
    assert [r.messages for r in sources.read(f"path:{out}")] == [r["messages"] for r in rows]
    assert not (tmp_path / "general.jsonl.unfinished").exists()


def test_the_manifest_counts_every_row(tmp_path):
    out, folder = tmp_path / "g.jsonl", tmp_path / "in"
    bad = [published.asked(""), published.asked("-"), published.asked("-"), {"messages": None}]
    chat = published.category("chat", 10) + bad
    code = [published.asked("chat: was ist 0 × π? 🧮"), *published.category("code", 60)]
    done("nemotron", f"--out={out}", "--count=300", "--seed=3", *general(folder, chat=chat, code=code))
    manifest = json.loads((tmp_path / "g.manifest.json").read_text())
    assert (manifest["seed"], manifest["count"], manifest["recipe"]) == (3, 300, "nemotron")
    assert manifest["command"].startswith("python ")
    assert manifest["outputs"] == [
        {"file": str(out), "rows": 300, "bytes": out.stat().st_size,
         "sha256": hashlib.sha256(out.read_bytes()).hexdigest()}
    ]  # fmt: skip
    found = manifest["sources"]["chat"]
    texts = [r["messages"][0]["content"] for r in read(out)]
    twice = {f"chat: was ist {i} × π? 🧮" for i in (0, 5)}
    assert (found["read"], found["kept"], found["files"]) == (16, 9, 1)
    assert found["duplicates_of_kept"] == len(twice.intersection(texts))
    assert found["dropped"] == {
        "messages is no list of messages": 1, "the question is empty": 1,
        "the question is only '-', as it may not be given away there": 2,
    }  # fmt: skip
    assert found["licence"] == "not checked here" and found["revision"] == "local files, not known"
    assert manifest["sources"]["code"]["in_earlier_sources"] == texts.count("chat: was ist 0 × π? 🧮")
    assert manifest["sources"]["stem"]["kept"] == 241 and manifest["sources"]["stem"]["read"] == 576


def test_a_prompt_of_an_earlier_source_is_not_taken_again(tmp_path):
    both = [{"question": f"What, {i}?"} for i in range(20)]
    none = [{"question": f"What, {i}?", "options": ""} for i in range(20)]
    out = tmp_path / "m.jsonl"
    flags = questions(tmp_path / "in", n=40, medreason=none, medical_r1=both + [{"question": f"{i}"} for i in range(9)])
    done("medical", f"--out={out}", "--count=40", *flags)
    texts = [json.dumps(r["messages"]) for r in read(out)]
    assert len(set(texts)) == len(texts) == 40
    found = json.loads((tmp_path / "m.manifest.json").read_text())["sources"]
    assert found["medical_r1"]["in_earlier_sources"] == 12 and found["medical_r1"]["kept"] == 8


def test_medical_questions_four_three_two_one(tmp_path):
    out = tmp_path / "medical.jsonl"
    done("medical", f"--out={out}", "--count=100", *questions(tmp_path / "in"))
    rows = read(out)
    assert Counter(r["source"] for r in rows) == {"medmcqa": 40, "medreason": 30, "medical_r1": 20, "m23k": 10}
    assert published.ANSWER not in out.read_text()
    assert all(r["messages"][0]["content"].startswith("You are a careful medical assistant.") for r in rows)
    letters = [r["source"] for r in rows if "letter of your choice" in r["messages"][1]["content"]]
    assert set(letters) == {"medmcqa", "medreason", "m23k"} and len(letters) == 80
    assert len(sources.read(f"path:{out}")) == 100


@pytest.mark.parametrize("recipe", MAKERS)
def test_the_same_bytes_whatever_the_order_of_rows_and_the_batches(tmp_path, monkeypatch, recipe):
    make, count = MAKERS[recipe]
    digests = set()
    for i, batch in enumerate((1, 7, 1000)):
        monkeypatch.setattr(origins, "BATCH", batch)
        out = tmp_path / str(i) / "out.jsonl"
        done(recipe, f"--out={out}", f"--count={count}", f"--save_every={3 + 40 * i}", *make(tmp_path / f"in{i}", i))
        manifest = json.loads(out.with_suffix(".manifest.json").read_text())
        rest = {name: {k: v for k, v in s.items() if k != "source"} for name, s in manifest["sources"].items()}
        digests.add((*(p.read_bytes() for p in outputs(out)), json.dumps([rest, manifest.get("disjoint")])))
    assert len(digests) == 1


def test_another_seed_is_another_sample(tmp_path):
    flags = ["--count=100", *questions(tmp_path / "in")]
    for seed in (0, 1):
        done("medical", f"--out={tmp_path / f'{seed}.jsonl'}", f"--seed={seed}", *flags)
    a, b = ({r["messages"][1]["content"] for r in read(tmp_path / f"{seed}.jsonl")} for seed in (0, 1))
    assert a != b and a & b


def counted(out):
    """What a manifest says of sources and files."""
    manifest = json.loads(out.with_suffix(".manifest.json").read_text())
    return manifest["sources"], manifest.get("disjoint")


class Killed(BaseException):
    pass


@pytest.mark.parametrize("recipe", MAKERS)
def test_stopped_at_any_write_it_goes_on_to_the_same_bytes(tmp_path, monkeypatch, recipe):
    make, count = MAKERS[recipe]
    flags = [f"--count={count}", "--save_every=20", *make(tmp_path / "in")]
    done(recipe, f"--out={tmp_path / 'whole' / 'out.jsonl'}", *flags)
    expected = [p.read_bytes() for p in outputs(tmp_path / "whole" / "out.jsonl")]
    real_json, real_rows = metrics.write_json, work.write_rows

    def stop_after(n):
        left = iter(range(n))

        def write_json(*args, **kwargs):
            if next(left, None) is None:
                raise Killed
            real_json(*args, **kwargs)

        def write_rows(path, rows):
            if next(left, None) is None:
                path.with_name(f".writing-{path.name}").write_text("half")
                raise Killed
            return real_rows(path, rows)

        monkeypatch.setattr(metrics, "write_json", write_json)
        monkeypatch.setattr(work, "write_rows", write_rows)

    out, stops = tmp_path / "stopped" / "out.jsonl", 0
    while True:
        stop_after(1000 if stops > 20 else 2 + stops % 3)  # so that each start saves at least one more state
        try:
            done(recipe, f"--out={out}", *flags)
            break
        except Killed:
            stops += 1
    assert stops > 2 and [p.read_bytes() for p in outputs(out)] == expected
    assert counted(out) == counted(tmp_path / "whole" / "out.jsonl")
    assert not list(out.parent.glob("*.unfinished")) and not list(out.parent.glob(".writing*"))


def test_half_a_row_of_a_stopped_command_is_dropped(tmp_path, monkeypatch):
    flags = ["--count=12", "--save_every=20", *role_play(tmp_path / "in")]
    done("coser", f"--out={tmp_path / 'whole' / 'out.jsonl'}", *flags)
    out, real, left = tmp_path / "stopped" / "out.jsonl", metrics.write_json, iter(range(3))

    def write_json(*args, **kwargs):
        if next(left, None) is None:
            raise Killed
        real(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(metrics, "write_json", write_json)
        prepare("coser", f"--out={out}", *flags)
    for file in out.parent.glob("out.jsonl.unfinished/*.rows"):
        with file.open("ab") as rows:
            rows.write(b'[{"role": "us')
    done("coser", f"--out={out}", *flags)
    assert [p.read_bytes() for p in outputs(out)] == [p.read_bytes() for p in outputs(tmp_path / "whole" / "out.jsonl")]


KILLER = """
import os, signal, sys
from camopd_jax import metrics
from camopd_jax.prepare import origins
origins.BATCH, real, left = 7, metrics.write_json, [int(sys.argv.pop(1))]
def write_json(*args, **kwargs):
    real(*args, **kwargs)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
metrics.write_json = write_json
sys.path.insert(0, "bin")
import prepare
sys.exit(prepare.main(sys.argv))
"""


@pytest.mark.parametrize("recipe", ["nemotron", "coser"])
def test_killed_it_goes_on_to_the_same_bytes(tmp_path, recipe):
    make, count = MAKERS[recipe]
    flags = [f"--count={count}", "--save_every=20", *make(tmp_path / "in")]
    done(recipe, f"--out={tmp_path / 'whole' / 'out.jsonl'}", *flags)
    out = tmp_path / "killed" / "out.jsonl"
    command = [sys.executable, "-c", KILLER, "4", recipe, f"--out={out}", *flags]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    killed = subprocess.run(command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not out.exists() and len(list(out.parent.glob("out.jsonl.unfinished/*.json"))) >= 2
    said = done(recipe, f"--out={out}", *flags)
    assert "has ended without giving" in said
    whole = [p.read_bytes() for p in outputs(tmp_path / "whole" / "out.jsonl")]
    assert [p.read_bytes() for p in outputs(out)] == whole
    assert counted(out) == counted(tmp_path / "whole" / "out.jsonl")


def test_what_was_read_is_not_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(work, "WITHOUT_ANY", 10)
    folder, out = tmp_path / "in", tmp_path / "g.jsonl"
    hidden = [published.asked("-")] * 30
    flags = ["--count=300", f"--out={out}", *general(folder, code=hidden)]
    code, said, errors = prepare("nemotron", *flags)
    assert code == 2 and "22 asked for, and 0 different ones are in the 14 rows that were read; 14 left out:" in errors
    assert "leave it out with --categories, or name another source with --code" in errors
    assert "What was read is kept in" in said and not out.exists()
    (folder / "chat.jsonl").chmod(0)
    real = origins.open_
    opened = []
    monkeypatch.setattr(origins, "open_", lambda name, *rest: opened.append(name) or real(name, *rest))
    mended = write(folder / "mended.jsonl", published.category("code", 60))
    done("nemotron", *flags, f"--code={mended}")
    assert opened == ["code", "math", "stem", "tool_calling"]
    done("nemotron", "--count=300", f"--out={tmp_path / 'b.jsonl'}", *flags[2:], f"--code={mended}")
    assert out.read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_some_categories_in_their_proportions_and_a_limit_of_rows(tmp_path):
    out = tmp_path / "g.jsonl"
    done("nemotron", f"--out={out}", "--count=28", "--categories=math,chat", "--limit=40", *general(tmp_path / "in"))
    assert Counter(r["source"] for r in read(out)) == {"chat": 7, "math": 21}  # 7.49 and 20.51
    manifest = json.loads((tmp_path / "g.manifest.json").read_text())
    assert [s["read"] for s in manifest["sources"].values()] == [40, 40] and manifest["limit"] == 40


def test_a_directory_of_the_hub_s_files(tmp_path):
    folder, out = tmp_path / "data", tmp_path / "g.jsonl"
    folder.mkdir()
    for name in CATEGORIES:
        stem = "tool" if name == "tool_calling" else name
        rows = published.category(name, 480)
        write(folder / f"{stem}-0.jsonl", rows[:100])
        write(folder / f"{stem}-1.jsonl", rows[100:])
    done("nemotron", f"--out={out}", "--count=300", f"--nemotron=path:{tmp_path}")
    done(
        "nemotron",
        f"--out={tmp_path / 'h.jsonl'}",
        "--count=300",
        *general(tmp_path / "in", n=480, stem=rows[:0] + published.category("stem", 480)),
    )
    assert out.read_bytes() == (tmp_path / "h.jsonl").read_bytes()


def turns(messages):
    return [(m["role"], m["content"].replace("[Was nun?] ", "")) for m in messages if m["role"] != "system"]


@pytest.mark.parametrize("count", [4, 8, 11])
def test_the_longest_conversations_are_prompts_and_share_nothing_with_the_rest(tmp_path, count):
    out = tmp_path / "roleplay.jsonl"
    done("coser", f"--out={out}", f"--count={count}", *role_play(tmp_path / "in"))
    prompts, rest = read(out), read(tmp_path / "roleplay_sft.jsonl")
    # Scene 11 has 9 turns of Anna in one form and 7 in four; scenes 5 and 17 have 7 in four: with the
    # system message and without the last turn 18 messages and 14.
    assert len(prompts) == count and Counter(len(p["messages"]) for p in prompts) == {18: 1, 14: count - 1}
    assert all(p["messages"][-1]["role"] == "user" for p in prompts)
    whole = {tuple(turns(published_of(p, prompts))) for p in prompts}
    learned = [tuple(turns(r["messages"])) for r in rest]
    contexts = [tuple(turns(p["messages"])) for p in prompts]
    for conversation in learned:
        assert conversation not in whole
        assert not any(conversation[: len(w)] == w for w in whole), "a prompt begins it"
        assert not any(c[: len(conversation)] == conversation for c in contexts), "it begins a prompt"
    assert sum(r["messages"][-1]["content"] == "<END CHAT>" for r in rest) == 3
    how = dict(count=0, at_most=True, candidates=3, seed=0, heldout_share=0.2)
    assert data.load_prompts(f"path:{out}", "train", **how).rows == count
    assert data.load_conversations(f"path:{tmp_path / 'roleplay_sft.jsonl'}", **how).rows == len(rest)


def published_of(prompt, prompts):
    """The whole conversation that a prompt was made of."""
    found = [c["conversations"] for c in scenes()]
    found = [[{"role": {"human": "user"}.get(t["from"], t["from"]), "content": t["value"]} for t in c] for c in found]
    return next(c for c in found if c[:-1] == prompt["messages"])


def test_the_proof_is_of_the_files(tmp_path):
    out, sft = tmp_path / "r.jsonl", tmp_path / "elsewhere" / "sft.jsonl"
    done("coser", f"--out={out}", f"--sft_out={sft}", "--count=12", *role_play(tmp_path / "in"))
    manifest = json.loads((tmp_path / "r.manifest.json").read_text())
    proof, counts = manifest["disjoint"], manifest["sources"]["coser"]
    assert [proof[k] for k in ("shared", "prompts_that_begin_another", "others_that_begin_a_prompt")] == [0, 0, 0]
    assert (proof["prompts"], proof["to_learn_from"]) == (12, len(read(sft)))
    assert counts["read"] == 88 and counts["different"] == 86 and counts["naming_the_next_speaker"] == 4
    assert counts["different"] == 12 + len(read(sft)) + sum(counts["kept_out_of_both"].values())
    # One of the 13 longest is left, the short form of scene 5 begins a prompt, and one of scene 11 goes on from one.
    reasons = counts["kept_out_of_both"]
    assert set(reasons) == {"the dialogue of a prompt", "the beginning of a prompt", "begins with a prompt"}
    prompt = read(out)[0]
    for extra in (
        published_of(prompt, None),  # the prompt with its last turn
        [{"role": "system", "content": "Another."}, *published_of(prompt, None)[1:]],
        [*published_of(prompt, None), {"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}],
        prompt["messages"][:3],
    ):
        rows = [*read(sft), {"id": "x", "messages": extra}]
        write(tmp_path / "bad.jsonl", rows)
        with pytest.raises(RuntimeError, match="share conversations"):
            apart.proof(out, tmp_path / "bad.jsonl", [])


def test_a_last_turn_that_another_character_hears_is_counted(tmp_path):
    rows = [published.scene(f"s{i}", 9) for i in range(3)]
    heard = rows[0]["conversations"][-1]["value"].replace("[Was nun?] ", "")
    other = published.scene("s9", 2, "You are Ben.")
    other["conversations"][1]["value"] += heard
    out = tmp_path / "r.jsonl"
    done("coser", f"--out={out}", "--count=3", f"--coser={write(tmp_path / 'c.jsonl', [*rows, other])}")
    proof = json.loads((tmp_path / "r.manifest.json").read_text())["disjoint"]
    assert proof["prompts_whose_last_turn_is_heard_in_another"] == 1


def mistake(tmp_path, recipe, *flags):
    """The line, of a command that leaves nothing behind."""
    make, _ = MAKERS[recipe]
    given = make(tmp_path / "in")
    before = sorted(tmp_path.rglob("*"))
    said = refused(recipe, f"--out={tmp_path / 'x.jsonl'}", *given, *flags)
    assert sorted(tmp_path.rglob("*")) == before
    return said


@pytest.mark.parametrize(
    "recipe, flags, says",
    [
        ("nemotron", ["--count=0"], "--count=0: allowed is a whole number, 1 or more"),
        ("nemotron", ["--count=many"], "count=many: allowed is a whole number"),
        ("nemotron", ["--seed=-1"], "--seed=-1: allowed is a whole number, 0 or more"),
        ("nemotron", ["--limit=-1"], "--limit=-1: allowed is a whole number, 0 or more"),
        ("nemotron", ["--save_every=0"], "--save_every=0: allowed is a whole number, 1 or more"),
        ("nemotron", ["more"], "what to prepare: 'nemotron more' is named; allowed is one of nemotron, coser, medical"),
        ("nemotron", ["--categories=chat,maths"], "--categories: there is no category 'maths'; allowed are chat, code"),
        ("nemotron", ["--categories="], "--categories: there is no category ''"),
        ("nemotron", ["--medmcqa=path:x"], "--medmcqa: is no flag of nemotron; allowed are --nemotron, --categories"),
        ("medical", ["--nemotron=path:x"], "--nemotron: is no flag of medical; allowed are --medmcqa, --medreason"),
        ("medical", ["--sft_out=x.jsonl"], "--sft_out: is no flag of medical"),
        ("nemotron", ["--column=chat.message=a"], "--column=chat.message=a: allowed is NAME=COLUMN, NAME one of chat"),
        ("nemotron", ["--column=chat.messages"], "--column=chat.messages: allowed is NAME=COLUMN"),
        ("nemotron", ["--column=chat.messages=chat"], "there is no column 'chat'; its columns are uuid, messages"),
        ("nemotron", ["--chat=x.jsonl"], "--chat=x.jsonl: allowed are hf:NAME[@REVISION][:CONFIG]:SPLIT"),
        ("nemotron", ["--chat=path:nowhere.jsonl"], "data source path:nowhere.jsonl: no file is there that ends in"),
        ("nemotron", ["--count=100000"], "2,910 asked for, and 60 different ones are in the 72 rows that were read;"),
        ("medical", ["--count=200"], "80 asked for, and 40 different ones are in the 40 rows that were read; ask"),
        ("coser", ["--count=90"], "90 asked for, and 86 different ones are in the 88 rows that were read; ask"),
        ("coser", ["--sft_out=x.csv"], "x.csv: allowed is a name that ends in .jsonl"),
        ("coser", ["--out=/proc/nothing/x.jsonl"], "/proc/nothing/x.jsonl: /proc is not a directory that"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(tmp_path, recipe, flags, says):
    assert says in mistake(tmp_path, recipe, *flags)


def test_the_two_files_of_coser_are_two(tmp_path):
    assert "is the file of the prompts too" in mistake(tmp_path, "coser", f"--sft_out={tmp_path / 'x.jsonl'}")


@pytest.mark.parametrize("name", ["out.jsonl", "out_sft.jsonl", "out.manifest.json"])
def test_what_is_there_is_not_written_over(tmp_path, name):
    (tmp_path / name).write_text("mine")
    said = refused("coser", f"--out={tmp_path / 'out.jsonl'}", "--count=12", *role_play(tmp_path / "in"))
    assert said == f"{tmp_path / name}: is there already; move it away, or give another name with --out"
    assert (tmp_path / name).read_text() == "mine" and len(list(tmp_path.iterdir())) == 2


def test_unfinished_work_of_another_command_and_with_other_files(tmp_path, monkeypatch):
    flags = ["medical", f"--out={tmp_path / 'm.jsonl'}", "--save_every=10", *questions(tmp_path / "in")]
    real = work.read

    def read_two(order, stream, *rest):
        if stream.name == "medical_r1":
            raise Killed
        real(order, stream, *rest)

    monkeypatch.setattr(work, "read", read_two)
    with pytest.raises(Killed):
        prepare(*flags, "--count=100")
    monkeypatch.setattr(work, "read", real)
    assert "unfinished work of a command with another count, seed; give that command" in refused(
        *flags, "--count=99", "--seed=1"
    )
    state = tmp_path / "m.jsonl.unfinished" / "medreason.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"done": False}))
    write(tmp_path / "in" / "medreason.json", published.medical(41)["medreason"])
    assert "its files are not those that the unfinished work read; delete" in refused(*flags, "--count=100")


def test_no_recipe_and_the_help(tmp_path):
    assert "what to prepare: nothing is named; allowed is one of nemotron, coser, medical" in refused()
    said = done("--help")
    assert "nemotron   10,000 general prompts" in said and "--categories" in said


def test_a_commit_is_kept_over_a_restart(tmp_path, monkeypatch):
    """The hub's main moves on between two starts; the second goes on with the commit of the first."""
    flags = ["--count=100", f"--out={tmp_path / 'm.jsonl'}", "--save_every=10", *questions(tmp_path / "in")]
    local = origins.open_
    head, asked, fail = ["first"], [], [True]

    def open_(name, source, wanted, columns, revision=None):
        asked.append((name, revision))
        found = local(name, source, wanted, columns)

        def batches(place):
            for i, batch in enumerate(found.batches(place)):
                if fail[0] and i == 3:
                    raise sources.TextError("data source hf:x", "the network is gone")
                yield batch

        return origins.Origin(name, source, revision or head[0], "mit", [], batches)

    monkeypatch.setattr(origins, "open_", open_)
    assert "the network is gone" in refused("medical", *flags)
    head[0], fail[0] = "second", False
    done("medical", *flags)
    found = json.loads((tmp_path / "m.manifest.json").read_text())["sources"]
    assert [s["revision"] for s in found.values()] == ["first", "second", "second", "second"]
    assert asked[:2] == [("medmcqa", None), ("medmcqa", "first")] and found["m23k"]["licence"] == "mit"
