"""Every row of docs/errors.md is made here: exit code 2, one line, nothing computed, nothing left behind."""

import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import jax
import mistakes
import pytest

from camopd_jax import metrics, recover, sources, workdirs
from camopd_jax.models import load

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs" / "errors.md"
BASE = "python bin/train.py --config=configs/medical.py:tiny"
VARIABLE = re.compile(r"([A-Z_]+)=(.*)")
ON_IMPORT = {"HF_HUB_OFFLINE", "JAX_PLATFORMS"}  # are read when a library is imported: a process of its own is needed


@dataclass(frozen=True)
class Row:
    """A mistake of the table."""

    section: str
    arguments: str  # as the table has them
    says: str

    @property
    def environment(self) -> dict[str, str]:
        return dict(VARIABLE.fullmatch(word).groups() for word in self._words if VARIABLE.fullmatch(word))

    @property
    def program(self) -> str:
        return self._command[1]

    @property
    def flags(self) -> list[str]:
        return self._command[2:]

    @property
    def _words(self) -> list[str]:
        return shlex.split(self.arguments)

    @property
    def _command(self) -> list[str]:
        words = [word for word in self._words if not VARIABLE.fullmatch(word)]
        return words if words[:1] == ["python"] else shlex.split(BASE) + words


def table() -> list[Row]:
    rows, section = [], ""
    for line in DOCS.read_text().splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        elif section and line.startswith("| ") and not line.startswith("| mistake "):
            _, arguments, says, _ = (cell.strip() for cell in line.strip("| ").split(" | "))
            rows.append(Row(section, arguments.strip("`"), says))
    return rows


ROWS = table()
HERE = [row for row in ROWS if not row.environment.keys() & ON_IMPORT]
APART = [row for row in ROWS if row.environment.keys() & ON_IMPORT] + HERE[:1]


def names(rows: list[Row]) -> list[str]:
    return [f"{row.section}: {row.arguments}" for row in rows]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A user's directory, with all that the table names."""
    home = tmp_path_factory.mktemp("home")
    mistakes.build(home)
    with precision("highest"):
        load.load("random:llama")  # what this model is made with compiles once in a process
    return home


@contextmanager
def precision(name: str):
    """JAX's default precision of products, which a run sets and which is a part of what is compiled."""
    before = jax.config.jax_default_matmul_precision
    jax.config.update("jax_default_matmul_precision", name)
    yield
    jax.config.update("jax_default_matmul_precision", before)


@pytest.fixture
def setting(home, tmp_path, monkeypatch):
    """That directory as the working directory, a cache, and JAX's settings back in place afterwards."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("CAMOPD_CACHE", str(tmp_path / "cache"))
    with precision(jax.config.jax_default_matmul_precision):
        yield home, tmp_path / "cache"
    sys.modules.pop("config_config", None)  # the next config would be run in the namespace of this one


def contents(*directories: Path) -> dict[str, str]:
    """Everything below some directories: SHA-256 of each file, and what else there is."""
    found = {}
    for directory in directories:
        for path in sorted(directory.rglob("*")):
            if "__pycache__" not in path.parts:  # Python's own, beside a config
                found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "directory"
    return found


def program(name: str):
    spec = importlib.util.spec_from_file_location(Path(name).stem + "_program", ROOT / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_one_line(code: int, output: str, errors: str, row: Row) -> None:
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert code == 2, output + errors
    assert "Traceback" not in output + errors
    assert len(lines) == 1, errors
    assert row.says in lines[0]


@pytest.mark.parametrize("row", HERE, ids=names(HERE))
def test_a_mistake(row, setting, monkeypatch, capsys):
    home, cache = setting
    if row.section == "Evaluation":
        monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)  # as where it is not installed
    if row.section == "Evaluation, with lm_eval installed":
        pytest.importorskip("lm_eval", reason="lm_eval is not installed: pip install lm_eval")
    for name, value in row.environment.items():
        monkeypatch.setenv(name, value)
    main = program(row.program).main
    before, compiled = contents(home, cache), metrics.compilations()
    code = main([row.program, *row.flags])
    output, errors = capsys.readouterr()
    assert_one_line(code, output, errors, row)
    assert metrics.compilations() == compiled, "something was computed"
    assert contents(home, cache) == before


@pytest.mark.parametrize("row", APART, ids=names(APART))
def test_a_mistake_in_a_process_of_its_own(row, setting):
    home, cache = setting
    env = os.environ | row.environment | {"PYTHONPATH": str(ROOT)}
    before = contents(home, cache)
    command = [sys.executable, str(ROOT / row.program), *row.flags]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert_one_line(done.returncode, done.stdout, done.stderr, row)
    assert contents(home, cache) == before


def test_without_a_mistake_there_is_no_error(setting):
    """So that the rows fail for the reason that they name."""
    home, _ = setting
    workdirs.check_workdir(mistakes.tiny(home), Path("earlier"), ())
    for source in ("path:model", "path:odd_rows"):
        load.load(source)
    assert len(sources.read("path:prompts.jsonl")) == 12


def test_a_checkpoint_that_lost_its_data_is_named_in_one_line(setting, tmp_path):
    home, _ = setting
    workdir = Path(shutil.copytree("earlier", tmp_path / "run"))
    for file in workdir.glob("checkpoints/4/default/**/d/*"):
        file.unlink()
    with recover.checkpoints_of(mistakes.tiny(home), workdir) as checkpoints:
        checkpoints.restore(mistakes.state(), 2)
        with pytest.raises(
            ValueError, match=r"checkpoints/4 cannot be read .*move it away, and the run goes on from step 2$"
        ) as error:
            checkpoints.restore(mistakes.state())
    assert "\n" not in str(error.value)


def test_the_table_is_long_and_says_nothing_twice():
    assert len(ROWS) >= 60
    assert len({row.arguments for row in ROWS}) == len(ROWS)
    told = [row for row in ROWS if len(row.says) < 8 or row.says in row.arguments]
    assert not told, "a line that says back what was given, and no more, would pass"
    text = DOCS.read_text()
    assert all(f"| {code} |" in text for code in ("exit code", "0", "1", "2", "128 + n"))
