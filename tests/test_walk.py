"""The commands of docs/reproduce.md, in its order, on the tiny preset: one that is renamed or broken there fails here.

What a machine of its own would need is put in its place by SUBSTITUTIONS: the tiny preset for the paper's, random
models for the hub's, files of the same form for data sets, one device for eight. What only sets a machine
up is not run.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import published
import pytest
import stage
from fake_server import serving

ROOT = Path(__file__).parent.parent
DOC = ROOT / "docs" / "reproduce.md"
SET_UP = ("python3 -m venv", ".venv/bin/pip install", ". .venv/bin/activate", "export ")  # not run: the machine's own
RANDOM = "--config.teachers.domain=random:llama:1"
SHORT = "--config.steps=2 --config.eval.every=0 --config.diagnostics.every=0 --config.eval.interpolation='()'"
FILES = "--config.data.general.source=path:data/paper/general.jsonl"
# (what stands in a command, what is run instead), one after the other. Plans stay those of the paper's preset.
SUBSTITUTIONS = (
    (
        r"(bin/train.py --config=configs/medical.py):paper(?! --dry_run)",
        rf"\1:tiny {SHORT} {RANDOM} {FILES} --config.data.domain.source=path:data/paper/medical.jsonl "
        "--config.data.domain.count=0",
    ),
    (
        r"(bin/train.py --config=configs/roleplay.py):paper(?! --dry_run)",
        rf"\1:tiny {SHORT} {FILES} --config.data.domain.source=path:data/paper/roleplay.jsonl "
        "--config.data.domain.count=0 --config.specialise.source=path:data/paper/roleplay_sft.jsonl",
    ),
    (r" --tensor=8", " --tensor=1"),
    (r"(bin/simulate.py --config=configs/medical.py:paper --devices=\S+)", r"\1 --steps=1"),
    (r"bin/simulate.py --config=configs/medical.py:paper --steps=6 --stops=1,2,4,6",
     "bin/simulate.py --config=configs/medical.py:tiny --steps=4 --stops=1,2,4"),
    (r"(bin/simulate.py --config=configs/medical.py:tiny) --stops=1,2,3,4,5,6,7,8", r"\1 --steps=3 --stops=2,3"),
    (r"=medical-110 --step=110", "=medical-110 --step=2"),
)  # fmt: skip
# Files in the place of data sets, and the rows of the prompts that are made of them.
SOURCES = {
    "bin/prepare.py nemotron": ("--count=60", [f"--{name}=path:in/{name}.jsonl" for name in published.CATEGORIES]),
    "bin/prepare.py medical": ("--count=40", [f"--{name}=path:in/{name}.jsonl" for name in published.medical(0)]),
    "bin/prepare.py coser": ("--count=24", ["--coser=path:in/coser.jsonl"]),
    "--tasks=medqa_letters": ("--limit=2 --max_new_tokens=4", ["--data=path:in/medqa.jsonl"]),
    "--tasks=medxpertqa_letters": ("--limit=2 --max_new_tokens=4", ["--data=path:in/medxpertqa.jsonl"]),
    "bin/act.py": ("--limit=1 --rounds=2 --max_new_tokens=4", ["--data=path:in/scenes.json"]),
}


def commands(text: str) -> list[str]:
    """The commands of a document in their order: indented lines, and `python bin/...` in its text."""
    found = re.findall(r"^    (\S.*)$|`(python bin/[^`]*)`", text, re.MULTILINE)
    return [(line or quoted).partition("  #")[0].strip() for line, quoted in found]


def instead(command: str) -> str:
    """What is run in the place of a command."""
    for pattern, replacement in SUBSTITUTIONS:
        command = re.sub(pattern, replacement, command)
    for word, (fewer, sources) in SOURCES.items():
        if word in command:
            command = " ".join((command.replace("--max_new_tokens=32768 ", ""), fewer, *sources))
    return command


WALK = [c for c in commands(DOC.read_text()) if not c.startswith(SET_UP)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A user's checkout without runs, and files in the schemas of the data sets."""
    home = tmp_path_factory.mktemp("walk")
    for name in ("bin", "configs"):
        (home / name).symlink_to(ROOT / name)
    data = home / "in"
    data.mkdir()
    files = {name: published.category(name, 60) for name in published.CATEGORIES} | published.medical(40)
    files["coser"] = [published.scene(f"Scene {i}", 1 + (i < 30)) for i in range(60)]
    four, ten = {x: f"drug {x}" for x in "ABCD"}, {x: f"drug {x}" for x in "ABCDEFGHIJ"}
    files["medqa"] = [{"question": f"Case {i}?", "options": four, "answer_idx": "B"} for i in range(3)]
    files["medxpertqa"] = [{"question": f"Case {i}?", "options": ten, "label": "J"} for i in range(3)]
    for name, rows in files.items():
        published.write(data / f"{name}.jsonl", rows)
    stage.write(data / "scenes.json")
    return home


@pytest.fixture(scope="module")
def judge():
    with serving(stage.script) as server:
        yield server.url


def run(command: str, home: Path) -> subprocess.CompletedProcess:
    words = shlex.split(command)
    assert words[0] == "python", command
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    env |= {"CAMOPD_CACHE": str(home / "cache"), "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *words[1:]], cwd=home, env=env, text=True, capture_output=True, timeout=900)


@pytest.mark.parametrize("number", range(len(WALK)), ids=lambda n: f"{n}-{'-'.join(WALK[n].split()[1:3])}"[:60])
def test_a_command_of_the_walk(home, judge, number):
    command = instead(WALK[number]).replace("=URL ", f"={judge} ")
    done = run(command, home)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


def test_the_walk_leaves_what_it_says(home):
    if not (home / "runs").exists():
        pytest.skip("the commands before were not run")
    made = home / "runs" / "medical-paper"
    assert (made / "report.html").stat().st_size and (made / "export" / "config.json").is_file()
    assert (home / "medical-110" / "model.safetensors").is_file()
    assert "| CaMOPD |" in (home / "table-medical.md").read_text()
    assert len((home / "data" / "paper" / "general.jsonl").read_text().splitlines()) == 60
    assert [json.loads(line)["step"] for line in (made / "metrics.jsonl").read_text().splitlines()] == [1, 2]


def test_every_line_that_looks_like_a_command_is_one():
    assert len(WALK) >= 15
    assert not [c for c in WALK if not c.startswith("python bin/")]
    text = DOC.read_text()
    assert len(re.findall(r"python bin/", text)) == len(WALK), "one stands where it is not seen"


def test_each_substitution_is_of_a_command_that_is_there():
    lost = [pattern for pattern, _ in SUBSTITUTIONS if not any(re.search(pattern, c) for c in WALK)]
    assert not lost
    assert not [word for word in SOURCES if not any(word in c for c in WALK)]
    assert not [c for c in map(instead, WALK) if ":paper" in c and "--dry_run" not in c and "--steps=1" not in c]


@pytest.mark.parametrize(
    "text",
    ["    python bin/trane.py --config=configs/medical.py:tiny --check", "run `python bin/report.py runs/no`"],
)
def test_a_command_that_is_wrong_is_seen(home, text):
    (command,) = commands(text)
    assert run(instead(command), home).returncode != 0
