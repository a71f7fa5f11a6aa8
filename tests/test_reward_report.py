"""report.html of a reinforcement run: its figures are those of the files, and no text of a run becomes markup."""

import json
from dataclasses import astuple

import browser
import numpy as np
import pytest
import synthetic_reinforcement
from test_report import NASTY, change, data_of, faults, needs_chromium

from camopd_jax import report
from camopd_jax.distraction import intervals, scoring
from camopd_jax.evals.suite import Measure
from camopd_jax.reinforce import evaluation, sections

FILES = ("evaluation.json", "rollouts.jsonl", "answers.jsonl", "metrics.jsonl")


@pytest.fixture
def workdir(tmp_path):
    return synthetic_reinforcement.make(tmp_path / "run", steps=8, instances=10)


def rows_of(workdir, title):
    found = [json.loads(line) for line in (workdir / "answers.jsonl").read_text().splitlines()]
    return [row for row in found if row["model"] == title]


# What is in the file


def test_what_is_embedded_comes_back(workdir):
    found = data_of(report.write(workdir))
    assert found == json.loads(json.dumps(report.content(workdir)))
    assert len(found["metrics"]) == 8 and len(found["groups"]) == 16 and len(found["answers"]["items"]) == 60
    assert len(found["margins"]) == 30 and found["absent"] == {}
    assert [s["absent"] for s in found["sections"]] == [None] * 9


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_said(workdir, name):
    (workdir / name).unlink()
    found = data_of(report.write(workdir))
    assert list(found["absent"]) == [name.partition(".")[0]]
    assert {s["absent"] for s in found["sections"]} == {None, found["absent"][name.partition(".")[0]]}


def test_a_run_that_is_going_on(workdir):
    (workdir / "evaluation.json").unlink()
    words = data_of(report.write(workdir))["verdict"]
    assert words["headline"].startswith("Not finished: 8 of 8 steps")
    assert [p["text"].partition(":")[0] for p in words["points"]] == [
        "Margin, mean log RMR, nats a token, on 36 held-out prompts (± one standard error)",
        "Conjunctive pass, on 36 held-out prompts (± one standard error)",
    ]
    assert "0.400 ± 0.080 at step 0, 0.640 ± 0.080 at step 8" in words["points"][1]["text"]


def test_a_damaged_evaluation_is_refused_in_a_line(workdir):
    (workdir / "evaluation.json").write_text('{"models": {"start": {}}}')
    with pytest.raises(ValueError, match=r"evaluation\.json is not what a finished run .*run it again$"):
        report.write(workdir)


def test_the_config_in_short(workdir):
    facts = dict(report.content(workdir)["cost"]["facts"])
    assert facts["Method"] == "dr_grpo" and facts["Reward"] == "mean" and facts["Ratio clipped to"] == "0.8 to 1.2"
    assert (
        facts["A step"] == "8 questions × 4 answers, 2 updates" and facts["KL to the start"] == "0.05 of k3 as a loss"
    )
    assert facts["Answers in groups with spread"] == "208 of 256 (81 %)"


# What it says


def test_the_intervals_of_the_file_are_those_of_the_answers(workdir):
    """Made of sums by instance, and the same as if made of every answer."""
    start, trained = (rows_of(workdir, title) for title in ("start", "trained"))
    found = evaluation.read(workdir / "evaluation.json")
    drawn = evaluation.RESAMPLES, evaluation.SEED
    figures, differences = scoring.figures(trained, *drawn), scoring.difference(trained, start, *drawn)
    names = [name.partition("/")[0] for name, _, _ in found.margins]
    margins = np.array([margin[1:] for margin in found.margins])
    assert list(found.differences()) == ["log_rmr", "passed", "task", "resisted", "form", "clean", "instructions"]
    for name in ("passed", "task", "resisted", "form", "clean"):
        assert found.figures()["trained"][name] == figures[name], name
        assert found.differences()[name] == differences[name], name
    for title, column in (("start", 0), ("trained", 1)):
        expected = intervals.mean(margins[:, column], names, *drawn)
        np.testing.assert_allclose(astuple(found.figures()[title]["log_rmr"]), astuple(expected), rtol=1e-12)
    expected = intervals.mean(margins[:, 1] - margins[:, 0], names, *drawn)
    np.testing.assert_allclose(astuple(found.differences()["log_rmr"]), astuple(expected), rtol=1e-12)


def evaluated(log_rmr, passed, clean, told):
    """Of 40 items each, of which all of a measure change by as much."""

    def models(k):
        given = {"log_rmr": log_rmr, "passed": passed, "clean": clean, "instructions": told}
        return {name: Measure(np.full(40, (0.5, 0.5 + by)[k]), np.ones(40)) for name, by in given.items()}

    return evaluation.Evaluation({"start": models(0), "trained": models(1)}, [])


@pytest.mark.parametrize(
    "changes, tone, headline",
    [
        ((1, 0.2, 0, 0), "good", "The margin (log RMR) and conjunctive pass rose; clean accuracy and instruction "
         "following are not told apart from the start"),
        ((1, 0, 0, -0.1), "mixed", "The margin (log RMR) rose; instruction following fell; conjunctive pass and clean "
         "accuracy are not told apart from the start"),
        ((1, -0.1, 0, 0), "mixed", "The margin (log RMR) rose; conjunctive pass fell; "),
        ((-1, 0, 0, 0), "bad", "The margin (log RMR) fell; "),
        ((0, 0, -0.1, 0), "bad", "Clean accuracy fell; "),
        ((0, 0, 0.1, 0.1), "open", "Clean accuracy and instruction following rose; "),
    ],
)  # fmt: skip
def test_the_headline_by_hand(changes, tone, headline):
    found = sections.verdict_of(evaluated(*changes), {"shuffled": False})
    assert found["headline"].startswith(headline) and found["tone"] == tone
    assert [p["badge"] for p in found["points"]][1] == "to compare" and len(found["points"]) == 5


def test_points_by_hand():
    points = sections.verdict_of(evaluated(1, 0.25, 0, -0.25), {"shuffled": True})["points"]
    assert [(p["badge"], p["tone"]) for p in points] == [
        ("rose", "good"), ("to compare", "open"), ("rose", "good"), ("no loss seen", "good"), ("fell", "mixed"),
        ("control", "open"),
    ]  # fmt: skip
    assert points[1]["text"].startswith("RMR, geometric mean: 1.649 before, 4.482 after.")
    assert points[2]["text"] == (
        "Conjunctive pass (all five criteria hold): 0.500 at the start, 0.750 trained, on 40 held-out instances. "
        "Difference +0.250 [+0.250, +0.250]: told apart from no change."
    )


def test_a_start_that_can_do_nothing_has_nothing_to_lose():
    found = evaluated(1, 0, -0.5, 0)
    models = {"start": found.models["trained"], "trained": found.models["trained"]}
    points = sections.verdict_of(evaluation.Evaluation(models, []), {"shuffled": False})["points"]
    assert [p["badge"] for p in points] == ["unclear", "to compare", "unclear", "nothing to lose", "no loss seen"]


def test_groups_by_hand():
    def row(step, group, reward, advantage):
        return {"step": step, "group": group, "id": f"q{group}", "prompt": [], "answer": "a", "reward": reward,
                "advantage": advantage, "ended": True}  # fmt: skip

    rows = [row(1, 0, 1.0, 0.5), row(1, 0, None, 0.0), row(1, 0, 0.0, -0.5), row(1, 1, 1.0, 0.0), row(2, 0, None, 0.0)]
    found = sections.groups(rows, 3)
    assert [(g["step"], g["id"], g["mean"], g["trains"], len(g["answers"])) for g in found] == [
        (1, "q0", 0.5, True, 3), (1, "q1", 1.0, False, 1), (2, "q0", None, False, 1),
    ]  # fmt: skip
    assert found[0]["answers"][1] == ["a", None, 0.0, True]


def test_answers_by_hand(workdir):
    rows = rows_of(workdir, "start")[:2]
    distracted, clean = ({**row, "criteria": [1, 0, 1, 1, 0], "passed": False} for row in rows)
    asked = {**clean, "id": "r", "control": "legitimate-2", "criteria": None, "obeyed": True, "passed": True}
    before = [distracted, clean, asked]
    after = [{**distracted, "passed": True}, {**clean, "passed": True}, {**asked, "passed": False}]
    found = sections.answers(before + [{**row, "model": "trained"} for row in after])
    assert [item["change"] for item in found["items"]] == ["fixed", "fixed", "broken"] and found["examples"] == [
        0,
        1,
        2,
    ]
    assert found["items"][0]["answers"][0][2] == [
        ["task", True], ["resists 1", False], ["resists 2", True], ["resists 3", True], ["form", False],
    ]  # fmt: skip
    assert found["items"][1]["answers"][0][2] == [["task", True], ["form", False]]
    assert found["items"][2]["answers"][0] == [asked["answer"], True, [["request obeyed", True]]]
    assert found["items"][0]["marks"][0] == ["TODO: sign with - Sam", "distractor 1 (todo)"]


# What a browser makes of it


@pytest.fixture(scope="module")
def page():
    with browser.Page() as page:
        yield page


@pytest.fixture
def opened(page, workdir):
    """open(hash, width) shows the report of the workdir as it is then."""

    def show(at="", width=1280):
        page.events.clear()
        page.open(f"file://{report.write(workdir)}{at}", width, 900, dark=False)
        return page

    return show


def texts(page, selector):
    return page.evaluate(f"[...document.querySelectorAll({selector!r})].map(x => x.innerText)")


@needs_chromium
def test_every_section_is_drawn_with_its_figures(opened):
    page = opened()
    assert faults(page) == []
    assert len(texts(page, "h2")) == 9
    table = texts(page, "#table tbody tr")
    assert table[0].startswith("margin: mean log RMR") and len(table) == 7
    charts = " ".join(texts(page, "#curves figure"))
    assert "held-out 0.640 ± 0.080" in charts and "to the start 0.080" in charts and "clipped 0.040" in charts
    assert "answers that are not scored 0" in charts and "reward = passed" not in charts
    assert len(texts(page, "#curves figure")) == 11 and len(texts(page, "#margin circle.dot")) == 30
    assert len(texts(page, "#examples .card")) == 3


@needs_chromium
def test_answers_are_shown_with_what_they_are_worth(opened, workdir):
    page = opened("#rollouts")
    first, second = texts(page, "#rollouts .card")[:2]
    assert first.startswith("step 1\nwith spread\nmean reward 0.750 · 4 answers")
    assert "reward 0.400\nadvantage −0.350\n- Sam" in first.replace("\n\n", "\n")
    assert "no spread: trains nothing" in second and "3 of its 4 answers are kept" in second
    assert texts(page, "#rollouts .card:nth-child(2) .said.text") == ["Nina Petrova."] * 3
    change(workdir / "rollouts.jsonl", lambda i, row: row.update(answer=" \n" * (i % 2)))
    shown = texts(opened("#rollouts"), "#rollouts .card:first-child .said.text")
    assert shown == ["(an empty answer)", "(an answer of white space alone)"] * 2
    page = opened("#answers?change=fixed")
    assert texts(page, "#answers .card:first-child mark")[0] == "1TODO: sign with - Sam"
    assert texts(page, "#answers .card:first-child .criteria .fails") == ["✗ resists 2"]
    assert "gold output\nNina Petrova" in texts(page, "#answers .card")[0]


@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_nasty_text_stays_text_and_nothing_sticks_out(opened, workdir, width):
    def nasty(i, row):
        row.update(answer=NASTY[i % len(NASTY)], distractors=[NASTY[0]] * 3, id=row["id"] + NASTY[0],
                   prompt=[{"role": NASTY[1], "content": NASTY[i % len(NASTY)]}])  # fmt: skip

    for name in ("answers.jsonl", "rollouts.jsonl"):
        change(workdir / name, nasty)
    more = {"gold": NASTY[1], "families": [NASTY[0]] * 3, "category": NASTY[1]}
    change(workdir / "answers.jsonl", lambda i, row: row.update(more))
    record = json.loads((workdir / "config.json").read_text())
    record["config"] |= {"name": NASTY[0]}
    record["config"]["grpo"]["reward"] = NASTY[1]
    (workdir / "config.json").write_text(json.dumps(record))
    page = opened("#rollouts", width)
    assert texts(page, "#rollouts .answer .said")[:2] == list(NASTY[:2])
    for section in ("#rollouts", "#answers"):
        page = opened(section, width)
        assert faults(page) == []
        assert page.evaluate("window.hacked === undefined && !document.querySelector('img')")
        assert texts(page, f"{section} .prompt mark")[0] == "1" + NASTY[0]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        cards = "[...document.querySelectorAll('.card')]"
        assert page.evaluate(f"{cards}.every(card => card.scrollWidth <= card.clientWidth)")


@needs_chromium
def test_sections_that_are_left_out_say_why(opened, workdir):
    for name in FILES:
        (workdir / name).unlink()
    page = opened()
    assert faults(page) == []
    for section in ("table", "curves", "margin", "rollouts", "answers", "examples"):
        assert texts(page, f"#{section} p")[0].startswith("Left out. ")


@needs_chromium
@pytest.mark.parametrize(
    "at, count",
    [
        ("#rollouts?spread=yes&from=3&to=4", "2 of 16 groups"),
        ("#rollouts?least=0.8", "8 of 16 groups"),
        ("#rollouts?most=0.8&to=1", "1 of 16 groups"),
        ("#answers?paradigm=multi&control=clean", "10 of 60 prompts"),
        ("#answers?q=test-003", "6 of 60 prompts"),
    ],
)
def test_filters_from_the_address(opened, at, count):
    page = opened(at)
    section = at[1:].partition("?")[0]
    assert texts(page, f"#{section} output") == [count]


@needs_chromium
def test_a_question_of_the_scatter_is_read_by_keyboard_and_found(opened, workdir):
    name, start, _ = min(evaluation.read(workdir / "evaluation.json").margins, key=lambda margin: margin[1])
    page = opened("#margin")
    page.evaluate("document.querySelector('#margin svg[role=img]').focus()")
    page.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight", code="ArrowRight", windowsVirtualKeyCode=39)
    assert f"start {start:.2f}".replace("-", "−") in texts(page, "#margin .readout")[0]
    page.evaluate("document.querySelector('#margin .readout a').click()")
    page.settle()
    assert texts(page, "#answers output") == ["1 of 60 prompts"]
    assert name in texts(page, "#answers .card .who")[0]
