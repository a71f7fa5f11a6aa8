"""report.html: what it says is right, what is missing is said, and no text of a run becomes markup."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import browser
import numpy as np
import pytest
import synthetic_run

from camopd_jax import recovery_sections, report, sections, verdict
from camopd_jax.evals.suite import Line, Measure

NASTY = (
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "<!-- <script>",
    "&lt;b&gt; & &amp;",
    "a\u2028b\u2029c",
    "\u202egnp.exe\u2066",
    "\x00\x07null",
    "lone \ud83d surrogate",
    "W" * 3000,
    "",
    '"}\n{{data}} {{script}}',
    "__proto__",
)


class Parsed(HTMLParser):
    """The elements of a page, and the text inside its scripts and styles."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.attributes, self.inside = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append(dict(attrs))

    def handle_data(self, data):
        if self.tags[-1:] in (["script"], ["style"]) and len(data) > 1:
            self.inside.append(data)


@pytest.fixture
def workdir(tmp_path):
    return synthetic_run.make(tmp_path / "run", steps=12, kept=12, tokens=10)


def data_of(path):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text())[1])


def change(path, edit):
    """Edit each row of a file of lines."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    synthetic_run.lines(path, [edit(i, row) or row for i, row in enumerate(rows)])


def make_nasty(workdir):
    """Nasty text wherever a model, a data set or a user can put some."""
    nasty = len(NASTY)

    def answer(i, row):
        row.update(answer=NASTY[i // 4 % nasty], prompt=NASTY[i // 4 % nasty])

    def rollout(i, row):
        row.update(prompt=NASTY[i % nasty], id=NASTY[i % nasty], tokens=[NASTY[(i + t) % nasty] for t in range(10)])

    change(workdir / "answers.jsonl", answer)
    change(workdir / "rollouts.jsonl", rollout)
    record = json.loads((workdir / "config.json").read_text())
    record["config"] |= {"name": NASTY[0], "preset": NASTY[1], "note": NASTY[2]}
    (workdir / "config.json").write_text(json.dumps(record))
    return workdir


# What is in the file


def test_what_is_embedded_comes_back(workdir):
    path = report.write(workdir)
    assert path == workdir / "report.html"
    found = data_of(path)
    assert found == json.loads(json.dumps(report.content(workdir)))
    assert len(found["metrics"]) == 12 and len(found["rollouts"]) == 12 and len(found["answers"]["items"]) == 60
    assert found["absent"] == {}
    assert list(workdir.glob("*.tmp")) == []


def test_what_stands_in_a_script_element_cannot_end_it():
    text = report.embedded(NASTY)
    assert text.isascii() and not set(text) & set("<>&\x00")
    assert json.loads(text) == list(NASTY)


def test_no_text_becomes_markup(workdir):
    plain = Parsed(report.write(workdir).read_text())
    path = report.write(make_nasty(workdir))
    text = path.read_text()
    assert Parsed(text).tags == plain.tags
    assert text.isascii() or not set(text) & {"\u2028", "\u2029", "\u202e", "\x00"}
    found = data_of(path)
    assert [item["prompt"] for item in found["answers"]["items"][: len(NASTY)]] == list(NASTY)
    assert [r["tokens"][0] for r in found["rollouts"]] == list(NASTY)


def test_the_policy_allows_these_scripts_and_nothing_else(workdir):
    page = Parsed(report.write(workdir).read_text())
    policy = next(a["content"] for a in page.attributes if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy and "http" not in policy
    style, _, script = page.inside
    for text, source in ((style, "style-src"), (script, "script-src")):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{source} 'sha256-{digest}'" in policy
    assert not [a for a in page.attributes if "src" in a or "href" in a or "style" in a]


def test_the_assets_are_short_and_write_no_markup():
    assert {p.name for p in report.ASSETS.iterdir()} == {*report.SCRIPTS, "report.html", "report.css"}
    for path in report.ASSETS.iterdir():
        text = path.read_text()
        assert len(text.splitlines()) <= 300, path
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|fetch\(|import\(", text), path
        assert set(re.findall(r"https?://\S+?[\"')]", text)) <= {'http://www.w3.org/2000/svg"'}


@pytest.mark.parametrize("name", ["evaluation.json", "rollouts.jsonl", "diagnostics.jsonl", "answers.jsonl",
                                  "metrics.jsonl"])  # fmt: skip
def test_a_missing_file_is_said(workdir, name):
    (workdir / name).unlink()
    assert list(data_of(report.write(workdir))["absent"]) == [name.partition(".")[0]]


def test_a_run_that_has_just_begun(workdir):
    for path in workdir.glob("*.jsonl"):
        path.unlink()
    (workdir / "evaluation.json").unlink()
    found = data_of(report.write(workdir))
    assert set(found["absent"]) == {"metrics", "evaluation", "diagnostics", "rollouts", "answers"}
    assert found["verdict"]["headline"].startswith("Not finished: 0 of 12 steps")


def test_a_run_that_is_going_on(workdir):
    (workdir / "evaluation.json").unlink()
    metrics = workdir / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(True)[:7]) + '{"step": 8, "bra')  # is being written
    found = data_of(report.write(workdir))
    assert found["verdict"]["headline"].startswith("Not finished: 7 of 12 steps")
    assert "0.900 ± 0.200 at step 0, 0.331 ± 0.074 at step 12" in found["verdict"]["points"][0]["text"]


def test_what_is_no_number_is_null(workdir):
    change(workdir / "rollouts.jsonl", lambda i, row: row["teacher_logp"].__setitem__(0, -np.inf))
    assert data_of(report.write(workdir))["rollouts"][0]["teacher_logp"][0] is None


def test_a_fault_leaves_the_report_that_was_there(workdir):
    before = report.write(workdir).read_text()
    (workdir / "evaluation.json").write_text("{}")
    with pytest.raises(ValueError, match="json is not what a finished run"):
        report.write(workdir)
    assert (workdir / "report.html").read_text() == before


# What it says


def test_cost_by_hand():
    run = {"title": "medical:small", "seed": 3, "steps": 4, "method": "mix", "devices": ["cpu:0", "cpu:1"]}
    row = {"seconds": 50.0, "seconds_rollout": 10.0, "seconds_score": 5.0, "seconds_update": 30.0, "selected": 3,
           "batch": 8, "response_tokens": 1000, "trained_tokens": 400}  # fmt: skip
    skipped = {k: v for k, v in row.items() if k != "trained_tokens"} | {"selected": 0}
    found = recovery_sections.cost([row, skipped], run)
    assert found["stages"] == [["rollout", 20.0], ["score", 10.0], ["update", 60.0], ["other", 10.0]]
    assert dict(found["facts"]) == {
        "Method": "mix", "Preset": "medical:small", "Seed": "3", "Steps": "2 of 4",
        "Time in the steps": "1 min 40 s, 50.0 s a step", "Tokens sampled": "2,000", "Tokens trained": "400 (20 %)",
        "Responses selected": "3 of 16 (19 %)", "Devices": "2 (cpu:0, cpu:1)",
    }  # fmt: skip
    assert sections.duration(7384) == "2 h 3 min"


def test_warnings_are_those_of_the_steps(workdir):
    assert report.content(workdir)["warnings"] == []
    change(workdir / "metrics.jsonl", lambda i, row: row.update(warnings=["general/length"] if i in (1, 2, 4) else []))
    (warning,) = data_of(report.write(workdir))["warnings"]
    assert (warning["branch"], warning["name"], warning["steps"]) == ("general", "length", "2 to 5")
    assert warning["means"].startswith("Much shorter, the student may collapse")


def test_examples_are_what_was_fixed_and_first_what_the_teacher_passes():
    passed = {  # general teacher, start, recovered
        "a": (1, 1, 1), "b": (1, 1, 0), "c": (0, 0, 1), "d": (1, 0, 1), "e": (0, 0, 0), "f": (1, 0, 1),
    }  # fmt: skip
    titles = ("general teacher", "domain teacher = start", "recovered")
    rows = [
        {"task": "t", "id": i, "prompt": f"{i}?", "model": title, "answer": f"{i}-{title}", "passed": bool(p)}
        for i, ps in passed.items() for title, p in zip(titles, ps, strict=True)
    ]  # fmt: skip
    found = recovery_sections.answers(rows, "domain teacher = start")
    assert [item["change"] for item in found["items"]] == ["same", "broken", "fixed", "fixed", "same", "fixed"]
    assert [found["items"][i]["id"] for i in found["examples"]] == ["d", "f", "c"]
    assert found["items"][3]["answers"][2] == ["d-recovered", True]
    unfinished = recovery_sections.answers(
        [row for row in rows if row["model"] != "recovered"], "domain teacher = start"
    )
    assert unfinished["examples"] == [] and {item["change"] for item in unfinished["items"]} == {""}


@pytest.mark.parametrize(
    "interval, badge, says",
    [
        (None, "undefined", "Recovery is undefined: the start is not told apart from the general teacher"),
        ((0.5, 0.2, 0.8), "recovered", "[95 % interval 20 to 80]: told apart from zero and from full recovery"),
        ((0.9, 0.4, 1.3), "recovered", "told apart from zero, not from full recovery"),
        ((1.5, 1.1, 1.9), "recovered", "told apart from zero, and beyond full recovery"),
        ((0.1, -0.1, 0.3), "unclear", "not told apart from zero"),
        ((0.1, 0.0, 0.3), "unclear", "not told apart from zero"),
        ((-0.4, -0.7, -0.1), "worse", "told apart from zero, and in the wrong direction"),
    ],
)
def test_recovery_in_words(interval, badge, says):
    point = verdict.recovery("Distance", 0.8, 0.4, 0.0, 50, interval)
    assert point["badge"] == badge and says in point["text"]
    assert "0.800 at the start, 0.400 recovered, 0.000 the general teacher, on 50 held-out" in point["text"]


@pytest.mark.parametrize(
    "interval, badge",
    [(None, "undefined"), ((0.9, 0.8, 0.99), "loss"), ((0.9, 0.8, 1.0), "no loss seen"), ((1.2, 1.1, 1.3), "gain")],
)
def test_retention_in_words(interval, badge):
    assert verdict.retention("domain", 0.8, 0.7, 50, interval)["badge"] == badge


def evaluation(start, after, general):
    """Of three models by (reverse KL, passed instructions of 4, passed domain questions of 4), all tokens alike."""

    def measures(kl, followed, coded):
        ones = np.ones(4)
        flags = [Measure((np.arange(4) < n).astype(float), ones) for n in (followed, coded)]
        return {"reverse_kl": Measure(kl * ones, ones), "instructions": flags[0], "domain": flags[1]}

    models = {"general teacher": general, "domain teacher = start": start, "recovered": after}
    lines = [Line("domain", "domain: coding", 3, "domain", "exact_match")]
    return verdict.Evaluation(lines, {t: measures(*m) for t, m in models.items()}, "domain", ["domain"])


@pytest.mark.parametrize(
    "after, headline, tone",
    [
        ((0.25, 4, 4), "Recovered 75 % of the distance to the general teacher; kept 100 % of the domain", "good"),
        ((0.25, 4, 0), "Recovered 75 % of the distance to the general teacher; kept 0 % of the domain", "mixed"),
        ((1.0, 4, 4), "No recovery is told apart from zero", "open"),
        ((1.5, 4, 4), "The student moved away from the general teacher", "bad"),
    ],
)  # fmt: skip
def test_the_headline_by_hand(after, headline, tone):
    found = verdict.of_evaluation(evaluation((1.0, 0, 4), after, (0.0, 4, 0)))
    assert found["headline"].replace("\N{NO-BREAK SPACE}", " ").startswith(headline)
    assert found["tone"] == tone
    assert [p["badge"] for p in found["points"]][1] == "recovered"


def test_without_a_loss_there_is_nothing_to_recover():
    found = verdict.of_evaluation(evaluation((0.0, 2, 0), (0.0, 2, 0), (0.0, 2, 0)))
    assert found["headline"] == (
        "Recovery is undefined: the start is not told apart from the general teacher; domain retention is undefined"
    )


# What a browser makes of it

needs_chromium = pytest.mark.skipif(browser.CHROMIUM is None, reason="no chromium here: apt-get install chromium")


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


def faults(page):
    """Exceptions, complaints of the browser, and requests for anything but the file."""
    kinds = ("Runtime.exceptionThrown", "Log.entryAdded")
    urls = [e["params"]["request"]["url"] for e in page.events if e["method"] == "Network.requestWillBeSent"]
    return [e for e in page.events if e["method"] in kinds] + [u for u in urls if not u.startswith(("file:", "about:"))]


@needs_chromium
def test_the_page_draws_every_section(opened):
    page = opened()
    assert faults(page) == []
    heads = page.evaluate("[...document.querySelectorAll('h2')].map(h => h.textContent)")
    assert len(heads) == 9 and heads[:3] == ["Did it work?", "What it cost", "Three examples"]
    assert page.evaluate("document.querySelectorAll('#examples .card').length") == 3
    assert page.evaluate("document.querySelectorAll('#curves svg .path').length") >= 12
    assert page.evaluate("document.querySelectorAll('#diagnostics figure').length") == 7
    assert page.evaluate("document.querySelector('#table tbody tr').textContent").startswith("reverse KL to general")


@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_nasty_text_stays_text_and_nothing_sticks_out(opened, workdir, width):
    make_nasty(workdir)
    page = opened("#rollouts", width)
    assert faults(page) == []
    assert page.evaluate("window.hacked === undefined && !document.querySelector('img')")
    assert page.evaluate("document.querySelector('h1').textContent").startswith("</script><script>window.hacked")
    tokens = page.evaluate(
        "[...document.querySelectorAll('#rollouts .card')[0].querySelectorAll('.token')].map(t => t.innerText)"
    )
    assert tokens[:2] == list(NASTY[:2]) and "⟨202E⟩gnp.exe⟨2066⟩" in tokens and "⟨0000⟩⟨0007⟩null" in tokens
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.querySelectorAll('.card')].every(card => card.scrollWidth <= card.clientWidth)")


@needs_chromium
def test_sections_that_are_left_out_say_why(opened, workdir):
    for name in ("evaluation.json", "rollouts.jsonl", "diagnostics.jsonl", "answers.jsonl", "metrics.jsonl"):
        (workdir / name).unlink()
    page = opened()
    assert faults(page) == []
    for section in ("table", "curves", "diagnostics", "rollouts", "answers", "examples"):
        assert page.evaluate(f"document.querySelector('#{section} p').textContent").startswith("Left out. ")


@needs_chromium
def test_other_methods_are_drawn_too(opened, workdir):
    """Steps on two branches at once, of which one trained nothing, off-policy: forward KL, no gap and no sampling."""

    def off_policy(i, row):
        figures = {k: v for k, v in row["branches"][row["branch"]].items() if not k.startswith(("gap", "reverse"))}
        row.update(branch="general+domain", branches={b: figures | {"forward_kl": 0.3} for b in ("general", "domain")})
        row.update(forward_kl=0.3)
        for key in ("reverse_kl", "seconds_rollout", *(["grad_norm", "trained_tokens"] if i == 4 else [])):
            del row[key]

    change(workdir / "metrics.jsonl", off_policy)
    page = opened("#curves")
    assert faults(page) == []
    words = page.evaluate("document.querySelector('#curves').innerText")
    assert "KL to each teacher" in words and "Reverse KL to each teacher" not in words
    assert "general, training batch (forward) 0.300" in words and "general, held-out (reverse) 0.331 ± 0.074" in words
    assert "general+domain steps" in words and "No values." in words


@needs_chromium
def test_warnings_and_the_entropy_are_shown(opened, workdir):
    def edit(i, row):
        row.update(entropy=1.5, warnings=["general/length"] if i in (1, 2) else [])
        row["branches"][row["branch"]].update(entropy=1.5)

    page = opened("#curves")
    assert "Warnings" not in page.evaluate("document.body.innerText")
    change(workdir / "metrics.jsonl", edit)
    page = opened("#curves")
    assert faults(page) == []
    assert "Entropy of the student" in page.evaluate("document.querySelector('#curves').innerText")
    words = page.evaluate("document.querySelector('#verdict').innerText")
    assert "Warnings during the training" in words and "Branch general, step 2 to 3. Much shorter, the student" in words


@needs_chromium
def test_filters_from_the_address_and_by_hand(opened):
    page = opened("#rollouts?branch=domain&selected=yes&sort=worst")
    assert page.evaluate("document.querySelector('#rollouts output').textContent") == "2 of 12 rollouts"
    heads = page.evaluate("[...document.querySelectorAll('#rollouts .card .who')].map(h => h.textContent)")
    assert all("domain" in head and "not selected" not in head for head in heads)
    page.evaluate("{const s = document.querySelector('#answers input[type=search]'); s.value = 'fever 11';"
                  "s.dispatchEvent(new Event('input', {bubbles: true}))}")  # fmt: skip
    page.settle()
    assert page.evaluate("document.querySelector('#answers output').textContent") == "1 of 60 prompts"
    assert page.evaluate("location.hash") == "#answers?q=fever+11"


@needs_chromium
def test_a_token_tells_its_figures_by_keyboard(opened, workdir):
    def plain(i, row):
        row.update(teacher_logp=[-1.0] * 10, student_logp=[-0.5, -3.0] * 5, weight=[1.0, 0.0] * 5)

    change(workdir / "rollouts.jsonl", plain)
    page = opened("#rollouts")
    page.evaluate("document.querySelector('#rollouts .card .token').focus()")
    tip = "document.querySelector('#tip:not([hidden])').textContent"
    assert "gap −0.50 nats: the student is over-confident" in page.evaluate(tip)
    for kind in ("keyDown", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=kind, key="ArrowRight", code="ArrowRight", windowsVirtualKeyCode=39)
    text = page.evaluate(tip)
    assert "gap +2 nats: the teacher prefers it" in text and "log p teacher −1, student −3" in text
    assert "importance weight 0: outside the band" in text


@needs_chromium
def test_a_chart_is_read_by_keyboard(opened):
    page = opened("#curves")
    page.evaluate("document.querySelectorAll('#curves svg[role=img]')[6].focus()")
    assert page.evaluate("document.querySelectorAll('#curves .readout')[6].textContent").startswith("step 12")
    page.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowLeft", code="ArrowLeft", windowsVirtualKeyCode=37)
    assert page.evaluate("document.querySelectorAll('#curves .readout')[6].textContent").startswith("step 11")


@needs_chromium
def test_cards_are_filled_where_one_looks(page, tmp_path):
    workdir = synthetic_run.make(tmp_path / "long", steps=40, kept=200, tokens=60)
    page.open(f"file://{report.write(workdir)}#rollouts", 1280, 900, dark=True)
    first, last = (f"document.querySelector('#rollouts .card:{place}-child')" for place in ("first", "last"))
    filled = f"[{first}, {last}].map(card => card.querySelectorAll('.token').length)"
    assert page.evaluate(filled) == [60, 0]
    height = page.evaluate(f"{first}.offsetHeight")
    page.evaluate(f"{last}.scrollIntoView()")
    page.settle()
    assert page.evaluate(filled) == [0, 60]
    assert page.evaluate(f"{first}.offsetHeight") == height
