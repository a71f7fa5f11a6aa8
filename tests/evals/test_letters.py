"""--tasks=medqa_letters, medxpertqa_letters: published rows, what is asked, what is right, and nothing asked twice."""

import importlib.util
import json
from pathlib import Path

import pyarrow
import pytest
from fake_server import Answer, serving
from pyarrow import parquet

from camopd_jax import medical
from camopd_jax.evals import asking, letters, rows
from camopd_jax.evals.letters import TASKS

ROOT = Path(__file__).parents[2]
MEDQA, EXPERT = TASKS["medqa_letters"], TASKS["medxpertqa_letters"]
TEN = {letter: f"Drug {letter}" for letter in "ABCDEFGHIJ"}


def medqa(n):
    """A row as published; "D" is right of the first, "A" of the second, ..."""
    return {
        "question": f"Case {n}: what now?", "answer": "x", "options": {x: f"{x.lower()}-{n}" for x in "ABCD"},
        "meta_info": "step1", "answer_idx": "DABC"[n % 4], "metamap_phrases": ["case"],
    }  # fmt: skip


def expert(n):
    told = " ".join(f"({letter}) {text}" for letter, text in TEN.items())
    return {
        "id": f"Text-{n}", "question": f"Case {n}.\nAnswer Choices: {told}", "options": TEN, "label": "J",
        "medical_task": "Treatment", "body_system": "Skin", "question_type": "Reasoning",
    }  # fmt: skip


def write(path, made):
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return f"path:{path}"


def program():
    spec = importlib.util.spec_from_file_location("evaluate_program", ROOT / "bin" / "evaluate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rows_are_read_from_each_kind_of_file(tmp_path):
    made = [medqa(n) for n in range(3)]
    sources = [write(tmp_path / "a.jsonl", made), f"path:{tmp_path / 'a.json'}", f"path:{tmp_path / 'a.parquet'}"]
    (tmp_path / "a.json").write_text(json.dumps(made))
    parquet.write_table(pyarrow.Table.from_pylist(made), tmp_path / "a.parquet")
    for source in sources:
        found = letters.items(MEDQA, source, None)
        assert [item.right for item in found] == ["D", "A", "B"]
        assert found[1].options == {"A": "a-1", "B": "b-1", "C": "c-1", "D": "d-1"} and found[1].id == "2"
    assert len(letters.items(MEDQA, sources[0], 2)) == 2


def test_what_is_asked():
    system, user = MEDQA.item("", medqa(0), 1).messages
    assert system == {"role": "system", "content": medical.CAREFUL}
    assert user["content"] == f"Case 0: what now?\n\nA. a-0\nB. b-0\nC. c-0\nD. d-0\n\n{medical.ASK_LETTER}"
    (_, user) = EXPERT.item("", expert(1), 1).messages
    assert user["content"].startswith("Case 1.\n\nA. Drug A\n") and "J. Drug J\n\nReason" in user["content"]
    assert "Answer Choices" not in user["content"]


@pytest.mark.parametrize("form", [("letter", "content"), ("key", "value")])
def test_options_may_be_a_list(form):
    listed = [dict(zip(form, pair, strict=True)) for pair in TEN.items()]
    assert EXPERT.item("", {**expert(1), "options": listed}, 1).options == TEN


@pytest.mark.parametrize(
    "change, says",
    [
        ({"answer_idx": None}, "there is no column 'answer_idx', or it is null; the columns are question, answer"),
        ({"answer_idx": "E"}, "answer_idx is 'E'; allowed are A, B, C, D"),
        ({"question": " "}, "question is no text"),
        ({"options": "A or B"}, "allowed is an object with a text for each of the letters A to D"),
        ({"options": {"A": "x", "C": "y"}}, "allowed is an object with a text for each"),
        ({"options": {"A": "x"}}, "allowed is an object with a text for each"),
        ({"options": {**medqa(0)["options"], "E": "x"}}, "allowed is an object with a text for each"),
    ],
)
def test_a_row_that_is_not_as_published_is_named(tmp_path, change, says):
    source = write(tmp_path / "a.jsonl", [medqa(0), {**medqa(1), **change}])
    with pytest.raises(ValueError) as error:
        letters.items(MEDQA, source, None)
    assert f"{tmp_path / 'a.jsonl'}:2: " in str(error.value) and says in str(error.value)


@pytest.mark.parametrize(
    "name, text, says",
    [
        ("a.csv", "", "allowed are files that end in .jsonl, .json, .parquet"),
        ("none.jsonl", None, "it cannot be read"),
        ("a.jsonl", "", "it has no rows"),
        ("a.jsonl", "[1]\n", "a.jsonl:1: no JSON object"),
        ("a.jsonl", "{\n", "a.jsonl:1: not JSON"),
        ("a.json", "{}", "no array"),
        ("a.parquet", "x", "it cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, name, text, says):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError) as error:
        rows.read(f"path:{tmp_path / name}", ("question",), "data")
    assert says in str(error.value) and "\n" not in str(error.value)


def test_an_id_that_comes_twice_is_refused(tmp_path):
    with pytest.raises(ValueError, match="an id comes twice"):
        letters.items(EXPERT, write(tmp_path / "a.jsonl", [expert(1), expert(1)]), None)


def test_right_wrong_and_no_letter():
    item = MEDQA.item("", medqa(0), 1)
    judge = letters.judged(MEDQA)
    assert judge(item, "Answer: D") == {"id": "1", "right": "D", "said": "D", "passed": True, "answer": "Answer: D"}
    assert judge(item, "Answer: A")["passed"] is False and judge(item, "Answer: A")["said"] == "A"
    assert judge(item, "d-0 it is")["said"] is None and judge(item, "d-0 it is")["passed"] is False


def test_figures_by_hand():
    made = [{"passed": p, "said": s, "cut": False} for p, s in ((1, "A"), (1, "B"), (0, None), (0, "A"))]
    found = letters.results({"task": "medqa_letters"}, made)["figures"]
    assert found["accuracy"] == {"value": 0.5, "n": 4, "stderr": pytest.approx((0.25 / 3) ** 0.5)}
    assert found["no_letter"]["value"] == 0.25 and found["cut"]["value"] == 0
    assert letters.results({"task": "x"}, made[:1])["figures"]["accuracy"] == {"value": 1, "n": 1, "stderr": None}


def run(capsys, *arguments):
    code = program().main(["evaluate", *arguments])
    said = capsys.readouterr()
    return code, said.out + said.err


def test_a_server_is_asked_once_and_its_thoughts_are_no_answer(tmp_path, capsys):
    made = [medqa(n) for n in range(8)]
    data = write(tmp_path / "a.jsonl", made)

    def script(body):
        assert (body["temperature"], body["max_tokens"]) == (0.5, 99)
        if len(server.requests) == 5:
            return Answer(status=401)
        n = int(body["messages"][1]["content"].split(":")[0].removeprefix("Case "))
        end = "I cannot say." if n == 3 else f"Answer: {'A' if n == 2 else made[n]['answer_idx']}"
        return Answer(f"<think>The answer is C.</think>\n{end}", finish="length" if n == 7 else "stop")

    with serving(script) as server:
        flags = ["--tasks=medqa_letters", f"--server={server.url}", "--model=m", f"--data={data}", "--temperature=0.5",
                 "--max_new_tokens=99", f"--out={tmp_path / 'out'}", "--concurrency=1"]  # fmt: skip
        code, said = run(capsys, *flags)
        assert code == 2 and "401" in said
        code, said = run(capsys, *flags)
        assert code == 0 and len(server.requests) == 9, "each once, and again what was refused"
        assert (
            "MedQA-USMLE, 8 questions: accuracy 75.00% ± 16.37" in said and "the published test set has 1,273" in said
        )
        assert run(capsys, *flags)[0] == 0 and len(server.requests) == 9
        code, said = run(capsys, *flags, "--temperature=0")
        assert code == 2 and "temperature was 0.5 and is 0.0" in said
    kept = [json.loads(line) for line in (tmp_path / "out" / asking.ANSWERS).read_text().splitlines()]
    assert [row["said"] for row in kept] == ["D", "A", "A", None, "D", "A", "B", "C"]
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["task"] == "medqa_letters" and found["figures"]["no_letter"]["value"] == 0.125
    assert found["figures"]["cut"]["value"] == 0.125


def test_a_model_of_this_machine(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CAMOPD_CACHE", str(tmp_path / "cache"))
    data = write(tmp_path / "a.jsonl", [expert(n) for n in range(3)])
    flags = ["--tasks=medxpertqa_letters", "--model=random:llama", f"--data={data}", "--max_new_tokens=4", "--limit=2"]
    code, said = run(capsys, *flags, f"--out={tmp_path / 'out'}")
    assert code == 0 and "MedXpertQA Text, 2 questions: accuracy " in said
    code, said = run(capsys, *flags, f"--out={tmp_path / 'out'}")
    assert code == 0 and "2 questions, 2 of them answered already" in said


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--tasks=medqa_letters,ifeval"], "medqa_letters is run by itself"),
        (["--tasks=medqa_letters", "--level=short"], "--level has no meaning with --tasks=medqa_letters"),
        (["--tasks=distractionif", "--data=path:x"], "--data has no meaning with --tasks=distractionif"),
        (["--tasks=ifeval", "--max_new_tokens=4"], "--max_new_tokens has no meaning with --tasks=ifeval"),
        (["--tasks=medqa_letters", "--num_fewshot=1"], "--num_fewshot has no meaning with --tasks=medqa_letters"),
        (["--tasks=medqa_letters", "--batch_size=0"], "--batch_size=0: allowed is a whole number"),
        (["--tasks=medqa_letters"], "--out is missing"),
        (["--tasks=medqa_letters", "--out=x", "--data=medqa"], "--data=medqa: allowed are path:FILE.jsonl"),
        (["--tasks=medqa_letters", "--out=x", "--temperature=-1"], "--temperature=-1.0: allowed is 0 (greedy) or more"),
        (["--tasks=medqa_letters", "--out=x", "--max_new_tokens=0"], "--max_new_tokens=0: allowed is a whole number"),
    ],
)
def test_mistakes(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, said = run(capsys, "--model=random:llama", *arguments)
    assert code == 2 and says in said
