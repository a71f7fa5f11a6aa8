"""bin/evaluate.py --tasks=distractionif: nothing is asked twice, the same answers have the same rows wherever from."""

import importlib.util
import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jax
import pytest
from fake_server import Answer, serving
from plain import mesh

from camopd_jax.chat import Chat
from camopd_jax.distraction import benchmark, questions, results, scoring
from camopd_jax.distraction.instance import CONTROLS, PARADIGMS, obeying
from camopd_jax.engine import Policy
from camopd_jax.evals import answering, asking, likelihood
from camopd_jax.evals.asking import Said
from camopd_jax.models import load

ROOT = Path(__file__).parents[2]
QUESTIONS = questions.questions(benchmark.make("dev", 2, 3, "short"), PARADIGMS, CONTROLS)
SETTING = {"model": "a", "fingerprint": "f", "questions": questions.digest(QUESTIONS)}


def program(name):
    spec = importlib.util.spec_from_file_location(f"{name}_program", ROOT / "bin" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def text_of(q):
    """Right, obedient and empty answers in turn."""
    return [q.instance.gold, q.instance.bad, obeying(q.instance, [0]), ""][sum(map(ord, q.id)) % 4]


class Model:
    """Answers four questions at a time, and stops after so many parts."""

    def __init__(self, parts=None):
        self.asked, self.parts = [], parts

    def __call__(self, some):
        for n, start in enumerate(range(0, len(some), 4)):
            if n == self.parts:
                raise KeyboardInterrupt
            self.asked += [q.id for q in some[start : start + 4]]
            yield [(q, Said(text_of(q), False)) for q in some[start : start + 4]]


def test_what_was_answered_before_a_kill_is_not_asked_again(tmp_path):
    whole, first, second, third = Model(), Model(parts=3), Model(), Model()
    for out in ("whole", "killed"):
        asking.prepare(tmp_path / out, SETTING)
    expected = asking.ask(QUESTIONS, whole, questions.judged, tmp_path / "whole", True)
    with pytest.raises(KeyboardInterrupt):
        asking.ask(QUESTIONS, first, questions.judged, tmp_path / "killed", True)
    with (tmp_path / "killed" / asking.ANSWERS).open("a") as file:
        file.write('{"id": "cut sho')  # by the kill
    asking.prepare(tmp_path / "killed", SETTING)
    assert asking.ask(QUESTIONS, second, questions.judged, tmp_path / "killed", True) == expected
    assert first.asked + second.asked == [q.id for q in QUESTIONS] and len(first.asked) == 12
    assert asking.answered(tmp_path / "killed") == expected
    assert asking.ask(QUESTIONS, third, questions.judged, tmp_path / "killed", True) == expected and not third.asked
    assert [row["passed"] for row in expected] == [questions.judged(q, text_of(q))["passed"] for q in QUESTIONS]


def test_answers_that_may_not_be_shown_are_judged_and_not_kept(tmp_path):
    asking.prepare(tmp_path / "out", SETTING)
    rows = asking.ask(QUESTIONS, Model(), questions.judged, tmp_path / "out", False)
    assert {row["answer"] for row in rows} == {""} and any(row["passed"] for row in rows)
    assert QUESTIONS[0].instance.bad not in (tmp_path / "out" / asking.ANSWERS).read_text()


def test_another_evaluation_is_refused(tmp_path):
    asking.prepare(tmp_path / "out", SETTING)
    asking.prepare(tmp_path / "out", SETTING | {"model": "the same one, elsewhere"})
    with pytest.raises(ValueError, match="another evaluation: fingerprint was 'f' and is 'g'; allowed are the same"):
        asking.prepare(tmp_path / "out", SETTING | {"fingerprint": "g"})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="no evaluation by this program"):
        asking.prepare(tmp_path / "mine", SETTING)
    (tmp_path / "out" / asking.ANSWERS).write_text('{"id": 1}\n{}\n')
    with pytest.raises(ValueError, match=r"answers.jsonl:1 is damaged; delete the line"):
        asking.answered(tmp_path / "out")


def test_a_change_of_text_rubric_or_outputs_is_another_benchmark():
    def digest(**changes):
        one = QUESTIONS[0]
        return questions.digest(
            [questions.Question(type(one.instance)(**{**vars(one.instance), **changes}), "single", "clean")]
        )

    same = digest()
    assert same == digest() and len(same) == 16
    for changes in ({"instruction": "x"}, {"gold": "x"}, {"bad": "x"}, {"rubric": {}}, {"text_clean": "x"}):
        assert digest(**changes) != same


@pytest.fixture(scope="module")
def model():
    return load.load("random:llama")


def test_answers_of_a_model_do_not_depend_on_the_batch(model):
    some = QUESTIONS[:5]
    prompts = answering.encode(model.tokenizer, Chat("", "template", "2026-01-01"), some)
    engine = likelihood.engine_of(model, mesh(), "float32", 64)
    params = jax.tree.map(lambda x: x * 8, engine.place(model.read, "float32"))  # far from uniform

    def texts(batch, which, end=""):
        how = answering.How(12, 0.0, end)
        parts = list(answering.of_model(Policy(engine, lambda: params), prompts, how, batch, 0)(which))
        return [said.text for part in parts for _, said in part], len(parts)

    alone = [texts(1, [q])[0][0] for q in some]
    found, parts = texts(2, some)
    assert found == alone and parts == 2 and len(set(alone)) == 5
    again, _ = texts(3, some[3:])  # as after a stop
    assert again == alone[3:]
    assert texts(1, some[:1], alone[0][3])[0] == [alone[0].rpartition(alone[0][3])[2].lstrip()]


def test_a_prompt_that_leaves_no_room_is_refused(model):
    prompts = answering.encode(model.tokenizer, Chat("", "template", "2026-01-01"), QUESTIONS[:2])
    most = max(map(len, prompts.values()))
    answering.check_room(prompts, 10, most + 10, "--model=x")
    with pytest.raises(ValueError, match=f"with 10 more of the answer that is above the {most + 9}"):
        answering.check_room(prompts, 10, most + 9, "--model=x")


def run(capsys, *arguments):
    code = program("evaluate").main(["evaluate", "--tasks=distractionif", *arguments])
    said = capsys.readouterr()
    return code, said.out + said.err


def test_a_model_from_the_command_line_and_the_difference_to_itself(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CAMOPD_CACHE", str(tmp_path / "cache"))
    flags = ["--model=random:llama", "--limit=2", "--max_new_tokens=4", "--controls=distracted,clean"]
    code, _ = run(capsys, *flags, f"--out={tmp_path / 'one'}")
    assert code == 0
    code, said = run(capsys, *flags, f"--out={tmp_path / 'two'}", f"--against={tmp_path / 'one'}")
    assert code == 0 and "12 questions of 2 instances" in said and "Less those of random:llama" in said
    found = json.loads((tmp_path / "two" / "results.json").read_text())
    assert found["questions"] == 12 and found["cut"] == 1.0
    assert all(e == {"value": 0, "low": 0, "high": 0} for e in found["differences"]["all"]["all"].values())
    assert {p.name for p in (tmp_path / "two" / "plots").iterdir()} == {"passed.png", "resisted.png"}
    code, said = run(capsys, *flags, f"--out={tmp_path / 'two'}")
    assert code == 0 and "12 questions, 12 of them answered already" in said
    code, said = run(capsys, *flags[:2], "--max_new_tokens=5", f"--out={tmp_path / 'two'}")
    assert code == 2 and "holds the answers of another evaluation: questions was" in said


def test_a_server_gets_the_same_rows_for_the_same_answers_and_is_asked_once(tmp_path, capsys):
    asked = questions.questions(benchmark.make("test", 2, 0, "short"), PARADIGMS, CONTROLS)
    by_messages = {json.dumps(q.messages): q for q in asked}

    def script(body):
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0.0, 128)
        if len(server.requests) == 13:
            return Answer(status=401)
        q = by_messages[json.dumps(body["messages"])]
        return Answer("<think>hm</think>\n" + text_of(q), finish="length" if q.control == "clean" else "stop")

    out = tmp_path / "out"
    with serving(script) as server:
        flags = [f"--server={server.url}", "--model=m", "--limit=2", f"--out={out}", "--concurrency=2"]
        code, said = run(capsys, *flags)
        assert code == 2 and "401" in said
        code, said = run(capsys, *flags)
        assert code == 0 and "asked now: " in said
        assert len(server.requests) == 31, "each once, and again what was refused"
        run(capsys, *flags)
        assert len(server.requests) == 31
        code, said = run(capsys, *flags, "--think_end_token=x")
        assert code == 2 and "think_end was '</think>' and is 'x'" in said
    rows = [json.loads(line) for line in (out / asking.ANSWERS).read_text().splitlines()]
    assert rows == [questions.judged(q, text_of(q)) | {"cut": q.control == "clean"} for q in asked]
    found = json.loads((out / "results.json").read_text())
    assert found["figures"]["all"]["all"]["passed"]["value"] == scoring.figures(rows, 10, 0)["passed"].value
    assert found["setting"]["fingerprint"] == f"m of {server.url}" and found["cut"] == pytest.approx(0.2)


def test_a_killed_evaluation_asks_no_answered_question_again(tmp_path):
    asked, running = [], []

    def script(body):
        asked.append(json.dumps(body["messages"]))
        if len(asked) == 9:  # eight have their answer, this one never gets it
            running[0].send_signal(signal.SIGKILL)
        return Answer("Yes")

    with serving(script) as server:
        flags = [f"--server={server.url}", "--model=m", "--limit=1", f"--out={tmp_path / 'out'}", "--concurrency=1"]
        command = [sys.executable, "bin/evaluate.py", "--tasks=distractionif", *flags]
        for code in (-signal.SIGKILL, 0):
            running[:] = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)]
            assert running[0].wait(timeout=300) == code
    assert Counter(Counter(asked).values()) == {1: 14, 2: 1} and asked[8] == asked[9]
    assert len((tmp_path / "out" / asking.ANSWERS).read_text().splitlines()) == 15


def test_the_tables_tell_resisted_from_could_not(tmp_path):
    rows = [questions.judged(q, text_of(q)) | {"cut": False} for q in QUESTIONS]
    setting = {"model": "some|model", "instances": "dev-short-3"}
    found = results.results(setting, rows, None, "")
    text = results.summary(found)
    overall = found["figures"]["all"]["all"]
    assert f"Without distractors {overall['clean']['value']:.0%} of the tasks are done" in text
    assert f"Of those that it can, it resists {overall['resisted_of_able']['value']:.0%}" in text
    lines = text.splitlines()
    head = next(line for line in lines if "passed, of able" in line)
    assert head.startswith("|  | passed | clean | drop | passed, of able | legitimate | obeyed | resisted, of able |")
    row = next(line for line in lines if line.startswith("| all | "))
    value = overall["passed"]
    assert row.split(" | ")[1] == f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
    assert {line.split(" | ")[0] for line in lines} >= {"| middle", "| single", "| meta-processing"}
    assert "dev-short-3: some|model" in results.console(text) and "---" not in results.console(text)


def test_differences_are_paired_in_every_group():
    def rows(answer):
        return [questions.judged(q, answer(q)) | {"cut": False} for q in QUESTIONS]

    setting = {"model": "m", "instances": "dev-short-3"}
    after, before = rows(lambda q: q.instance.gold), rows(text_of)
    found = results.results(setting, after, before, "before")
    earlier = results.results(setting, before, None, "")["figures"]
    assert set(found["differences"]) == {"all", "paradigm", "category", "family", "place", "template"}
    for what, groups in found["differences"].items():
        assert groups.keys() == found["figures"][what].keys()
        for name, of in groups.items():
            for measure, difference in of.items():
                now, then = (f[what][name][measure]["value"] for f in (found["figures"], earlier))
                assert difference["value"] == pytest.approx(now - then), (what, name, measure)
    same = results.results(setting, before, before, "before")["differences"]
    widths = [e["high"] - e["low"] for groups in same.values() for of in groups.values() for e in of.values()]
    assert len(widths) > 50 and not any(widths), "unpaired they would have a width"
    assert "Less those of before, paired by instance:" in results.summary(found)
