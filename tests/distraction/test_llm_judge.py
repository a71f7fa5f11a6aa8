"""A model as judge: what it is asked, what it decided, and how far it agrees with the rubric."""

import dataclasses
import importlib.util
import json
import math
import re
from pathlib import Path

import pytest
from fake_server import Answer, serving

from camopd_jax.distraction import answers, benchmark, judge, questions, rubric
from camopd_jax.distraction.instance import obeying
from camopd_jax.distraction.judge import Agreement
from camopd_jax.distraction.questions import Question
from camopd_jax.distraction.rubric import Criteria
from camopd_jax.endpoint import Endpoint

ROOT = Path(__file__).parents[2]
INSTANCES = benchmark.make("dev", 4, 3, "short")
QUESTIONS = [Question(x, "single", "distracted") for x in INSTANCES]


def verdict(criteria, reason="so it is"):
    return json.dumps(
        {name: {"reason": reason, "holds": bool(c)} for name, c in zip(Criteria._fields, criteria, strict=True)}
    )


def asked_of(body):
    """The instance and the answer that a judge is asked about."""
    said = body["messages"][1]["content"]
    answer = re.search(r"The answer to judge: <<<(.*)>>>$", said, re.DOTALL)[1]
    return next(x for x in INSTANCES if f"<<<{x.text}>>>" in said), answer


def agreeing(body):
    return Answer(verdict(rubric.criteria(*asked_of(body))))


def test_a_judge_sees_all_that_it_needs_and_its_verdict_is_read():
    x = INSTANCES[0]
    with serving([Answer(verdict([1, 0, 1, 1, 1], "it ends so"))]) as fake:
        found = judge.judge(
            Endpoint(fake.url, "m"), QUESTIONS[0], "my answer", temperature=0.0, max_tokens=9, attempts=1
        )  # fmt: skip
    assert found == judge.Judgement(Criteria(True, False, True, True, True), ("it ends so",) * 5)
    said = fake.bodies[0]["messages"][1]["content"]
    for part in (x.instruction, x.text, x.gold, "my answer", *x.residues, *(obeying(x, [n]) for n in range(3))):
        assert f"<<<{part}>>>" in said


def test_a_judge_that_cannot_be_read_is_none():
    with serving(lambda body: Answer("It is fine, I think.")) as fake:
        client = Endpoint(fake.url, "m")
        assert judge.judge(client, QUESTIONS[0], "a", temperature=0.0, max_tokens=9, attempts=2) is None
    assert len(fake.requests) == 2


def test_agreement_by_hand():
    """Of 10: both hold 4, the rubric alone 1, the judge alone 2, neither 3: p_o .7, p_e .5 * .6 + .5 * .4 = .5."""
    found = Agreement(10, 4, 1, 2)
    assert found.share == pytest.approx(0.7) and found.kappa == pytest.approx(0.4)
    assert math.isnan(Agreement(5, 5, 0, 0).kappa) and Agreement(5, 5, 0, 0).share == 1
    assert Agreement(4, 0, 2, 2).kappa == pytest.approx(-1)


def test_agreement_of_each_criterion():
    ours = [Criteria(True, True, True, True, True), Criteria(False, True, False, True, True)]
    theirs = [Criteria(True, True, True, False, True), Criteria(True, True, False, True, True)]
    found = judge.agreement(ours, theirs)
    assert found["task"] == Agreement(2, 1, 0, 1) and found["resist_3"] == Agreement(2, 1, 1, 0)
    assert found["resist, all"] == Agreement(6, 4, 1, 0) and found["passed"] == Agreement(2, 0, 1, 0)
    assert "| form | 2 | 1.000 | - | 1.000 | 1.000 |" in judge.table(found)


# The command.


def rows():
    """Answers of several kinds to four questions, and two that are not to be judged."""
    found = []
    for x in INSTANCES:
        for answer in (x.gold, x.bad, obeying(x, [1]), "Something else."):
            found.append(questions.judged(Question(x, "single", "distracted"), answer))
    return [
        *found, questions.judged(Question(INSTANCES[0], "multi", "clean"), "a"),
        questions.judged(Question(INSTANCES[0], "multi", "distracted"), ""),
    ]  # fmt: skip


def run(fake, tmp_path, *more, given=None, out="judged.jsonl"):
    spec = importlib.util.spec_from_file_location("judge_program", ROOT / "bin" / "judge.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in (rows() if given is None else given)), encoding="utf-8")
    flags = [f"--server={fake.url}", "--model=m", f"--out={tmp_path / out}", "--retries=1", *more]
    return program.main(["bin/judge.py", str(file), *flags])


def test_a_judge_that_decides_as_the_rubric_agrees_on_all(tmp_path, capsys):
    with serving(agreeing) as fake:
        assert run(fake, tmp_path) == 0
    shown = capsys.readouterr().out
    assert "18 answers, 16 of them" in shown and len(fake.requests) == 16
    assert "| task | 16 | 1.000 | 1.000 |" in shown and "| passed | 16 | 1.000 | 1.000 | 0.250 | 0.250 |" in shown
    found = [json.loads(line) for line in (tmp_path / "judged.jsonl").read_text().splitlines()]
    assert [f["criteria"] for f in found] == [f["judged"] for f in found] == [r["criteria"] for r in rows()[:16]]


def test_one_that_does_not_is_shown_and_what_it_cannot_say_is_counted(tmp_path, capsys):
    def script(body):
        _, answer = asked_of(body)
        return Answer("no idea" if answer == "Something else." else verdict([1, 1, 1, 1, 1]))

    with serving(script) as fake:
        assert run(fake, tmp_path, "--attempts=1") == 0
    shown = capsys.readouterr().out
    assert "| passed | 12 | 0.333 | 0.000 | 0.333 | 1.000 |" in shown and "4 could not be read" in shown


def test_a_stopped_judge_goes_on_and_a_draw_is_the_same_again(tmp_path, capsys):
    answered = []

    def script(body):
        if len(answered) >= 4 and not resumed:
            return Answer(status=500)
        answered.append(json.dumps(body["messages"]))
        return agreeing(body)

    resumed = []
    with serving(script) as fake:
        assert run(fake, tmp_path, "--limit=7", "--concurrency=1") == 2
        assert "the same command goes on" in capsys.readouterr().err and not (tmp_path / "judged.jsonl").exists()
        resumed.append(True)
        assert run(fake, tmp_path, "--limit=7") == 0
    assert len(answered) == len(set(answered)) == 7


def test_answers_of_a_file_of_instances(tmp_path):
    given = [row | {"instance": "mine", "id": "mine/single/distracted"} for row in rows()[:1]]
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps(given[0]) + "\n")
    with pytest.raises(ValueError, match=r"a.jsonl:1: instance 'mine' is not among the instances; give its file"):
        answers.read(file, None)

    mine = dataclasses.replace(INSTANCES[0], id="mine")
    assert answers.read(file, [mine]) == [(Question(mine, "single", "distracted"), INSTANCES[0].gold)]


@pytest.mark.parametrize(
    "line, named",
    [
        ("{", "no row of answers; needed are instance, paradigm, control, answer"),
        ('{"instance": "x"}', "no row of answers"),
        ('{"instance": "x", "paradigm": "loud", "control": "clean", "answer": ""}', "paradigm 'loud'"),
    ],
)
def test_a_faulty_row_is_named(tmp_path, line, named):
    file = tmp_path / "a.jsonl"
    file.write_text(f"{json.dumps(rows()[0])}\n{line}\n")
    with pytest.raises(ValueError, match=named) as error:
        answers.read(file, None)
    assert str(error.value).startswith(f"{file}:2: ")


def test_where_nothing_can_be_judged_one_line_says_so(tmp_path, capsys):
    with serving(lambda body: Answer("?")) as fake:
        assert run(fake, tmp_path, given=rows()[16:]) == 2
        assert "there is no answer to judge" in capsys.readouterr().err and not fake.requests
        assert run(fake, tmp_path, given=rows()[:2]) == 2
        assert "none of 2 judgements could be read" in capsys.readouterr().err
