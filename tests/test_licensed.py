"""data.licensed: words of a licensed branch are in no file for people, no cache outside the workdir, and no output."""

import importlib.util
import json
import os
import runpy
import subprocess
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ml_collections import ConfigDict

from camopd_jax import hosts, licensed, prompts, rules, sources
from camopd_jax.evals import cached
from camopd_jax.licensed import PLACES, TOKEN, Licence

ROOT = Path(__file__).parent.parent
CANARIES = ("zanzibarine", "quokkaform", "vexillomab")  # in prompts, answers and checks
WEIGHTS = ("checkpoints", "export", "specialised", "adapter")  # which are as licensed as the text


def program(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "bin" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("shown, written", [((), False), (("answers",), False), (("responses",), True)])
@pytest.mark.parametrize("which", ["run", "path:run/export"])
def test_answers_of_a_licensed_run_to_other_tasks_are_left_out(tmp_path, monkeypatch, capsys, shown, written, which):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    data = {"licensed": ["domain"], "licensed_shown": shown}
    (tmp_path / "run" / "config.json").write_text(json.dumps({"config": {"data": data}}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "lm_eval", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "lm_eval.utils", SimpleNamespace(handle_non_serializable=str))
    evaluate = program("evaluate")
    for name in ("_source", "_check_names", "_task_manager"):
        monkeypatch.setattr(evaluate, name, lambda *_: SimpleNamespace(all_tasks=["arc"]))
    monkeypatch.setattr(evaluate, "_evaluate", lambda *_: {"arc": 0.5, "samples": {"arc": [{"resps": CANARIES[0]}]}})
    assert evaluate.main(["evaluate", f"--model={which}", "--tasks=arc", "--out=out"]) == 0
    assert (holding(tmp_path, CANARIES) == {"out/samples_arc.jsonl"}) == written
    assert ("licensed_shown" in capsys.readouterr().out) != written
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == {"arc": 0.5}


def rows(n):
    for i in range(n):
        yield {
            "id": f"note-{i}",
            "prompt": f"{CANARIES[0]} {i}?",
            "answer": f"{CANARIES[1]} {i}",
            "checks": [{"kind": "mentions_any", "words": [CANARIES[2], f"{CANARIES[1]} {i}"]}],
        }


def run(home, *arguments):
    """The tiny preset with a licensed branch: exit code, stdout and stderr together."""
    flags = [f"--workdir={home / 'run'}", "--config.data.domain.source=path:notes.jsonl", "--config.steps=4",
             "--config.specialise.steps=2", "--config.diagnostics.every=0", "--config.eval.every=0",
             "--config.eval.instructions=8", "--config.data.domain.count=0", *arguments]  # fmt: skip
    env = os.environ | {"CAMOPD_CACHE": str(home / "cache"), "PYTHONPATH": str(ROOT)}
    env.pop("XLA_FLAGS", None)
    command = [sys.executable, str(ROOT / "bin/train.py"), f"--config={ROOT / 'configs/medical.py'}:tiny", *flags]
    done = subprocess.run(command, cwd=home, env=env, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def holding(home, words, *without):
    """The files below a directory that hold one of some words, in any encoding that we write (npz is unpacked)."""
    found = set()
    for path in sorted(p for p in home.rglob("*") if p.is_file() and not set(p.relative_to(home).parts) & set(without)):
        content = path.read_bytes()
        if path.suffix == ".npz":
            arrays = cached._stored(content).values()
            content = b"".join(str(a).encode() + tokens_as_text(a) for a in arrays)
        if any(word.encode() in content or word.encode("utf-16-le") in content for word in words):
            found.add(str(path.relative_to(home)))
    return found


def tokens_as_text(array):
    """Of the byte tokenizer a token below 256 is a byte."""
    return bytes(x for x in array.ravel().tolist() if 0 <= x < 256) if array.dtype == np.int32 else b""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    home = tmp_path_factory.mktemp("licensed")
    (home / "notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(40)))
    code, output = run(home, "--config.data.licensed=('domain',)")
    assert code == 0, output
    return home, output


def test_no_file_for_people_no_output_and_no_shared_cache_holds_a_licensed_word(finished):
    home, output = finished
    assert not [word for word in CANARIES if word in output]
    assert not holding(home / "cache", CANARIES)
    # What the run keeps for itself: the teacher that was trained on it, and evaluations with answers of models.
    assert not holding(home / "run", CANARIES, *WEIGHTS, "cache")


def test_nothing_that_a_model_computed_is_in_the_shared_cache(finished):
    home, _ = finished
    assert {p.name for p in (home / "cache").iterdir()} == {"checked", "compiled"}  # figures, and programs
    assert {p.name for p in (home / "run" / "cache").iterdir()} == {"evaluations", "specialised"}


def test_ids_figures_and_lengths_are_kept(finished):
    home, _ = finished
    rollouts = [json.loads(line) for line in (home / "run" / "rollouts.jsonl").read_text().splitlines()]
    domain = [row for row in rollouts if row["branch"] == "domain"]
    assert domain and len(rollouts) > len(domain)
    assert all(row["id"].startswith("note-") and row["prompt"].startswith("(licensed, ") for row in domain)
    assert not [row for row in rollouts if row["branch"] == "general" and row["prompt"].startswith("(licensed, ")]
    for row in rollouts:
        assert set(row["tokens"]) == {TOKEN}, "the student can recite what it learned to any prompt"
        assert len(row["tokens"]) == len(row["student_logp"]) == len(row["teacher_logp"]) > 0
    answers = [json.loads(line) for line in (home / "run" / "answers.jsonl").read_text().splitlines()]
    assert {row["task"] for row in answers} == {"domain", "instructions"}
    assert all(row["answer"].startswith("(licensed, ") and row["passed"] in (True, False) for row in answers)
    assert all(row["prompt"].startswith("(licensed, ") == (row["task"] == "domain") for row in answers)
    assert "note-" in (home / "run" / "report.html").read_text()


def test_what_the_user_names_is_shown(finished, tmp_path):
    """So that the search above can find what it does not find."""
    home, _ = finished
    (tmp_path / "notes.jsonl").write_bytes((home / "notes.jsonl").read_bytes())
    shown = "--config.data.licensed_shown=('rollouts','answers','cache')"
    code, output = run(tmp_path, "--config.data.licensed=('domain',)", shown)
    assert code == 0, output
    there = holding(tmp_path / "run", CANARIES, *WEIGHTS)
    assert {"rollouts.jsonl", "answers.jsonl", "report.html"} <= there
    assert (tmp_path / "cache" / "evaluations").is_dir() and not (tmp_path / "run" / "cache").exists()
    general = [json.loads(x) for x in (tmp_path / "run" / "rollouts.jsonl").read_text().splitlines()]
    assert all(set(row["tokens"]) == {TOKEN} for row in general if row["branch"] == "general")


BAD = (  # rows whose errors quote them, where that is not licensed
    {"messages": [{"role": CANARIES[0], "content": "a"}]},
    {"prompt": "a", "answer": "b", "checks": [{"kind": CANARIES[0]}]},
    {"prompt": "a", "answer": "b", "checks": [{"kind": "max_words", "n": CANARIES[1]}]},
)


@pytest.mark.parametrize("bad", BAD)
def test_an_error_names_the_row_and_does_not_quote_it(tmp_path, monkeypatch, bad):
    monkeypatch.chdir(tmp_path)
    good = [row | {"checks": [{"kind": "max_words", "n": 9}]} for row in rows(9)]
    for name, some in (("train", good), ("notes", [{"id": "note-x", **bad}, *good[:3]])):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    config = runpy.run_path(str(ROOT / "configs/medical.py"))["get_config"]("tiny")
    config.data.domain.source, config.data.domain.heldout = "path:train.jsonl", "path:notes.jsonl"
    config.data.domain.count = 0
    config.data.licensed = ("domain",)
    with pytest.raises(ValueError, match=r"config\.data\.licensed_shown") as error:
        prompts.load(config, rules.branches(config))
    text = "".join(traceback.format_exception(error.value))
    assert not [word for word in CANARIES if word in text]
    assert "notes.jsonl:1" in str(error.value) or "note-x" in str(error.value)
    config.data.licensed_shown = ("errors",)
    with pytest.raises(ValueError, match="|".join(CANARIES)):
        prompts.load(config, rules.branches(config))


def licence(branches=("notes",), shown=()):
    return Licence(frozenset(branches), frozenset(shown))


@pytest.mark.parametrize("place", PLACES)
def test_a_place_has_a_text_only_if_it_is_named(place):
    assert not licence().allows("notes", place)
    assert licence(shown=[place]).allows("notes", place)
    assert not licence(shown=set(PLACES) - {place}).allows("notes", place)
    assert licence().allows("general", place)


def test_responses_to_other_prompts_are_a_place_of_their_own():
    assert not licence().allows_response("general", "rollouts")
    assert not licence(shown=["rollouts"]).allows_response("general", "rollouts")
    assert licence(shown=["responses"]).allows_response("general", "rollouts")
    assert not licence(shown=["responses"]).allows_response("notes", "rollouts")
    assert licence(branches=()).allows_response("general", "rollouts")


def test_what_another_process_found_is_not_told_either():
    with pytest.raises(ValueError) as error, licence().errors("notes"):
        raise hosts.Told("x.jsonl:3: messages[0].role is 'quokkaform'")
    assert "quokkaform" not in str(error.value) and error.value.__suppress_context__
    with pytest.raises(sources.TextError, match="quokkaform"), licence().errors("general"):
        raise sources.TextError("x.jsonl:3", "messages[0].role is 'quokkaform'")


def test_the_cache_of_a_licensed_run_is_in_its_workdir(tmp_path, monkeypatch):
    monkeypatch.setenv("CAMOPD_CACHE", str(tmp_path / "cache"))
    shared = (tmp_path / "cache").resolve()
    for branches, shown, expected in (
        ((), (), shared), (("notes",), (), tmp_path / "run" / "cache"), (("notes",), ("cache",), shared)
    ):  # fmt: skip
        config = ConfigDict({"data": {"licensed": branches, "licensed_shown": shown}})
        assert licensed.of(config).cache(tmp_path / "run") == expected
