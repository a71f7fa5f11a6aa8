"""Small files in the schemas of the published datasets, with texts of our own."""

import io
import json
import random
import runpy
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

PROGRAM = Path(__file__).parent.parent / "bin" / "prepare.py"
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"city": "string"}}}
ANSWER = "An answer that no prompt may hold."
CATEGORIES = ("chat", "code", "math", "stem", "tool_calling")


def asked(text, **more):
    """A row of Nemotron."""
    answer = {"role": "assistant", "content": ANSWER, "tool_calls": None}
    return {"uuid": "u", "messages": [{"role": "user", "content": text}, answer], **more}


def category(name, n):
    """Rows of a category: n different questions, every fifth of them twice, with other answers."""
    more = {"metadata": json.dumps({"tools": [TOOL]})} if name == "tool_calling" else {"metadata": None}
    rows = [asked(f"{name}: was ist {i} × π? 🧮", **more) for i in range(n)]
    return rows + [row | {"uuid": "another"} for row in rows[::5]]


def medical(n):
    """Rows of each medical source, by name."""
    options = {"opa": "Aspirin", "opb": "Ibuprofen", "opc": "None", "opd": "Both"}
    return {
        "medmcqa": [{"question": f"Which drug, {i}?", **options, "cop": 1, "exp": ANSWER} for i in range(n)],
        "medreason": [{"question": f"Which organ, {i}?", "options": "A. Liver\nB. Lung", "answer": ANSWER}
                      for i in range(n)],
        "medical_r1": [{"question": f"What is likely, {i}?", "response (content)": ANSWER} for i in range(n)],
        "m23k": [{"prompt": f"What next, {i}?\nA. Wait\nB. Operate", "answer_string": ANSWER} for i in range(n)],
    }  # fmt: skip


def scene(name, turns, system="You are Anna.", thoughts=True, speaker="Anna", start=0):
    """A conversation of CoSER: `turns` of the speaker, each after one of Ben's, on lines that `name` makes its own."""
    said = []
    for i in range(start, start + turns):
        thought = "[Was nun?] " if thoughts else ""
        said += [("human", f"Ben: {name}, line {i}.\n\n"), ("assistant", f"{speaker}: {thought}{name}, reply {i}.\n\n")]
    return {"conversations": [{"from": "system", "value": system}, *({"from": f, "value": v} for f, v in said)]}


def write(path, rows, seed=None):
    """Write rows as .jsonl or as one array in .json; in another order where a seed is given."""
    rows = list(rows)
    if seed is not None:
        random.Random(seed).shuffle(rows)
    if path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=2, ensure_ascii=False), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return f"path:{path}"


def read(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def prepare(*arguments):
    """Exit code, output and errors of bin/prepare.py."""
    out, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(errors):
        code = runpy.run_path(str(PROGRAM))["main"](["bin/prepare.py", *arguments])
    return code, out.getvalue(), errors.getvalue()


def done(*arguments):
    code, out, errors = prepare(*arguments)
    assert code == 0, errors
    return out


def refused(*arguments):
    """The one line of a mistake."""
    code, _, errors = prepare(*arguments)
    found = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(found) == 1 and "Traceback" not in errors, errors
    return found[0].removeprefix("error: ")
