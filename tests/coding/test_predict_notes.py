"""bin/predict.py: what a note of any kind gets, alone and in a batch, and that it is what the run itself says."""

import html
import importlib.util
import json
import re
import time
from dataclasses import replace

import browser
import coding_runs
import icd_files
import jax
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict
from safetensors.numpy import load_file

from camopd_jax.coding import coder, inputs, run, saved
from camopd_jax.coding.predicting import Predictor
from camopd_jax.probias import calibration, model
from camopd_jax.probias.model import Codes

SCRIPT = "Fever. <script>document.title = 'run'</script> <img src=x onerror=\"document.title = 'run'\"> & pain."


@pytest.fixture(scope="session")
def export(finished):
    return finished.workdir / "export"


@pytest.fixture(scope="session")
def predictor(export):
    return Predictor(saved.load(export))


@pytest.fixture(scope="session")
def read():
    return inputs.read(coding_runs.tiny())


@pytest.fixture
def predict(export, tmp_path, monkeypatch, capsys):
    """Run the program in a directory with files; its output."""
    spec = importlib.util.spec_from_file_location("predict_program", coding_runs.ROOT / "bin" / "predict.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    monkeypatch.chdir(tmp_path)

    def predict(*arguments, **files):
        for name, text in files.items():
            (tmp_path / name.replace("_", ".")).write_text(text, encoding="utf-8")
        code = program.main(["bin/predict.py", f"--model={export}", *arguments])
        output, errors = capsys.readouterr()
        assert code == 0, errors
        return output

    return predict


def test_probabilities_are_those_of_the_runs_evaluation(predictor, read, finished):
    ours = coder.Coder(read)
    params = unflatten_dict(load_file(finished.workdir / "export" / "model.safetensors"), sep=".")
    split = ours.split(params, read.parts["test"], run.scratch())
    expected = calibration.tempered(split.probability_NC, predictor.saved.temperature)
    texts = [note.text for note in read.corpus.splits["test"]]
    suggested = list(predictor.many(texts, 7))
    for n, text in enumerate(texts):
        wanted = {read.labels.codes[c] for c in np.flatnonzero(expected[n] >= predictor.saved.threshold_C)}
        assert {p.code for p in suggested[n]} == wanted
        if n < 6:
            alone = {p.code: p.probability for p in predictor.code(text, 1000, 0).predictions}
            np.testing.assert_allclose([alone[code] for code in read.labels.codes], expected[n], atol=1e-5)
        for p in suggested[n]:
            assert p.probability == pytest.approx(expected[n][read.labels.index[p.code]], abs=1e-5)


def test_a_batch_says_of_each_note_what_it_says_of_it_alone(predict, predictor, read, tmp_path):
    texts = [*[note.text for note in read.corpus.splits["test"]][:5], "x", "Fever. " * 3000]
    (tmp_path / "notes.jsonl").write_text("".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in enumerate(texts)))
    output = predict("notes.jsonl", "--batch_size=3")
    assert "7 notes: notes.codes.jsonl" in output
    rows = [json.loads(line) for line in (tmp_path / "notes.codes.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [str(i) for i in range(7)]
    assert not list(tmp_path.glob("*.part"))
    for text, row in zip(texts, rows, strict=True):
        alone = [p for p in predictor.code(text, 0, 0).predictions if p.suggested]
        assert {p.code for p in alone} == {found["code"] for found in row["codes"]}
        for p in alone:
            assert {found["code"]: found["probability"] for found in row["codes"]}[p.code] == pytest.approx(
                p.probability, abs=1e-4
            )


@pytest.mark.parametrize("text", [
    "The patient has fever.", "x", "\u200b", "fever \U0001f600\U0001f9d1\u200d\u2695\ufe0f pain", "a" * 5000,
    "Fever and pain " * 4000, " " * 30_000 + "fever",
    "M\u00fcdigkeit\u0308 \u00e9t\u00e9", "\u4f53\u6e29\u9ad8", "a\tb\r\nc\x0bd",
])  # fmt: skip
def test_passages_lie_inside_the_note_and_within_what_was_read(predictor, text):
    found = predictor.code(text, 5, 3)
    assert 0 <= found.read <= len(text)
    assert found.predictions and all(0 <= p.probability <= 1 for p in found.predictions)
    for p in found.predictions:
        assert len(p.evidence) <= 3
        for span in p.evidence:
            assert 0 <= span.start < span.end <= len(text) and 0 < span.weight <= 1 + 1e-6
            assert text[span.start : span.end].strip()
            assert span.start < found.read


def test_a_code_reads_the_word_that_the_attention_is_on(tmp_path):
    """The query of J45.901 is the direction of the embedding of "asthma", and all other embeddings are 0."""
    icd_files.export(tmp_path / "coded")
    loaded = saved.load(tmp_path / "coded")
    cfg = replace(loaded.cfg, direction="none", bias="none")
    params = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), model.split(cfg)[1])
    direction_W = np.tile([3.0, -3.0], 4).astype(np.float32)
    params["text"]["embed"][loaded.tokenizer.vocab["asthma"]] = direction_W
    for norms, name in ((params["text"], "embed_norm"), (params["text"]["layers"], "attn_norm"),
                        (params["text"]["layers"], "mlp_norm")):  # fmt: skip
        norms[name][:] = 1
    for name, scale in (("q0", 1), ("key", 3), ("query", 10), ("value", 1), ("output", 1)):
        params[name][:] = scale * np.eye(8)
    described_CE = np.zeros((6, 8), np.float32)
    described_CE[3] = direction_W
    codes = Codes(**vars(loaded.codes) | {"described_CE": described_CE})
    made = Predictor(replace(loaded, cfg=cfg, params=params, codes=codes))
    for text in ("asthma", "kidney, asthma. hypertension", "kidney " * 40 + "asthma " + "diabetes " * 40):
        (found,) = (p for p in made.code(text, 6, 3).predictions if p.code == "J45.901")
        assert [text[span.start : span.end] for span in found.evidence] == ["asthma"]
        assert found.evidence[0].weight > 0.9


def test_an_export_with_fewer_thresholds_is_refused(tmp_path):
    icd_files.export(tmp_path)
    about = json.loads((tmp_path / saved.ABOUT).read_text())
    assert saved.load(tmp_path).threshold_C.tolist() == about["threshold"]
    (tmp_path / saved.ABOUT).write_text(json.dumps(about | {"threshold": about["threshold"][1:]}))
    with pytest.raises(ValueError, match="its weights are not those of its icd"):
        saved.load(tmp_path)


def test_attention_of_a_code_adds_up_to_no_more_than_one(predictor, read):
    for text in [note.text for note in read.corpus.splits["test"]][:4]:
        for p in predictor.code(text, 24, 100).predictions:
            assert 0.2 < sum(span.weight for span in p.evidence) <= 1 + 1e-5


def test_a_note_of_2_mb_takes_seconds_and_the_page_says_what_was_not_read(predict, predictor, tmp_path):
    predictor.code("warm", 5, 3)
    clock = time.process_time()
    output = predict("long.txt", long_txt="Fever and pain in the left knee.\n" * 62_000)
    assert time.process_time() - clock < 60
    cut = re.search(r"long.txt: 2,046,000 characters, of which the first ([0-9,]+) were read", output)
    page = (tmp_path / "long.html").read_text()
    told = re.search(r"The model has read the first ([0-9,]+) characters; the rest of the note is grey", page)
    tokens = 158 + 3 * 79  # of the preset's four chunks; each is a character or more
    assert tokens <= int(told[1].replace(",", "")) < 5000 and cut[1] == told[1]


def test_markup_in_a_note_stands_as_text(predict, tmp_path):
    predict("note.txt", note_txt=SCRIPT)
    page = (tmp_path / "note.html").read_text()
    assert "<img" not in page and page.count("<script") == 1
    shown = html.unescape(re.sub(r"<[^>]*>", "", page.split('id="note"')[1]))
    assert "<script>document.title = 'run'</script> <img src=x onerror" in shown


@pytest.mark.skipif(browser.CHROMIUM is None, reason="there is no Chromium here")
def test_a_page_of_markup_runs_none_of_it_and_marks_passages(predict, tmp_path):
    predict("note.txt", note_txt=SCRIPT)
    with browser.Page() as page:
        page.open((tmp_path / "note.html").as_uri(), 1200, 800, dark=False)
        assert page.evaluate("document.title") != "run"
        assert page.evaluate("document.querySelectorAll('#note mark').length") > 0
        assert page.evaluate("document.querySelectorAll('#note img, #note script').length") == 0


def test_the_workdir_names_its_export_and_pages_go_where_they_are_asked(predict, finished, tmp_path):
    output = predict(f"--model={finished.workdir}", "--out=pages/here", "note.txt", note_txt="The patient has fever.\n")
    assert "note.txt: 23 characters\n" in output
    assert "has read the first" not in (tmp_path / "pages" / "here" / "note.html").read_text()
    assert (tmp_path / "pages" / "here" / "note.html").stat().st_size > 1000
    assert not (tmp_path / "note.html").exists()
