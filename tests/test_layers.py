"""Who may import whom, and how long a file may be, read from the source."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "camopd_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
MAX_LINES = 300

# A part imports from its own level and from those before it; the parts of SYSTEMS not from each other.
LEVELS = (
    ("types", "shown", "templates"),
    (
        "losses",
        "policy",
        "sharding",
        "hosts",
        "lock",
        "models",
        "icd10",
        "medical",
        "personas",
        "sources",
        "wire",
        "endpoint",
        "structured",
        "comparison",
        "figures",
    ),
    (
        "sampling",
        "batching",
        "scoring",
        "packing",
        "step",
        "data",
        "chat",
        "licensed",
        "engine",
        "metrics",
        "finite",
        "guards",
        "sums",
        "checkpoint",
    ),
    ("sft", "evals"),
    ("camopd", "distraction", "probias"),
)
SYSTEMS = LEVELS[-1]
# These stand above all, the loop included.
TOP = (
    "recover",
    "inputs",
    "prompts",
    "student",
    "keys",
    "rules",
    "page",
    "preflight",
    "checked",
    "renderings",
    "room",
    "selftest",
    "agreement",
    "judged",
    "stops",
    "outcome",
    "workdirs",
    "resume",
    "saved",
    "summary",
    "verdict",
    "report",
    "sections",
    "recovery_sections",
    "plan",
    "bench",
    "dry_run",
    "advice",
    "compiled",
    "scaling",
    "simulated",
    "simulated_page",
    "simulation",
    "exchanged",
    "footprint",
    "phases",
    "reinforce",
    "coding",
    "forecast",
    "chips",
    "cli",
    "experiment",
    "remote",
    "prepare",
    "acting",
    "published",
)
LEVEL = {part: number for number, parts in enumerate(LEVELS) for part in parts}


def part_of(file):
    """The part that a file of the package belongs to: its folder, or its own name."""
    return Path(file).relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(source):
    """Dotted names of all that a source imports, wherever the import stands; `from a import b` gives a.b."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {"." * node.level + f"{node.module or ''}.{alias.name}" for alias in node.names}
    return names


def parts(names):
    """The parts of this package among imported names."""
    return {name.split(".")[1] for name in names if name.startswith("camopd_jax.")}


def forbidden(part, names):
    """What a file of `part` imports and may not."""
    wanted = parts(names) - {part}
    if part in TOP:
        return set()
    if part == "loop":  # sees the pieces of a run, and no method
        return {p for p in wanted if LEVEL.get(p, 99) >= LEVEL["sft"]}
    allowed = {p for p, level in LEVEL.items() if level <= LEVEL[part]} - set(SYSTEMS)
    return wanted - allowed


@pytest.mark.parametrize(
    "part, source, expected",
    [
        ("losses", "from camopd_jax import engine, types", {"engine"}),
        ("types", "def f():\n    import camopd_jax.losses", {"losses"}),
        ("models", "from camopd_jax.sampling import score", {"sampling"}),
        ("engine", "from camopd_jax.evals.suite import Measure", {"evals"}),
        ("engine", "from camopd_jax import sampling, models", set()),
        ("evals", "from camopd_jax.loop import train", {"loop"}),
        ("probias", "from camopd_jax.camopd import select\nfrom camopd_jax import data", {"camopd"}),
        ("camopd", "from camopd_jax import loop, rules, losses", {"loop", "rules"}),
        ("loop", "from camopd_jax import camopd, sft, recover, step", {"camopd", "sft", "recover"}),
        ("recover", "from camopd_jax import loop, camopd", set()),
    ],
)
def test_the_rule_itself_by_examples(part, source, expected):
    assert forbidden(part, imported(source)) == expected


def test_every_part_has_a_place():
    found = {part_of(file) for file in FILES} - {"__init__"}
    assert found <= {*LEVEL, *TOP, "loop"}
    assert {"losses", "models", "engine", "camopd", "loop"} <= found


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_follow_the_layers(file):
    names = imported(file.read_text(encoding="utf-8"))
    assert not [n for n in names if n.startswith(".")], "imports are absolute"
    assert not [n for n in names if n.split(".")[0] in ("bin", "tests", "configs")]
    if file != PACKAGE / "__init__.py":
        assert not forbidden(part_of(file), names)
    else:
        assert not parts(names)


@pytest.mark.parametrize("file", CONFIGS, ids=lambda f: f.name)
def test_configs_import_ml_collections_and_what_python_has(file):
    names = {n.split(".")[0] for n in imported(file.read_text(encoding="utf-8"))}
    assert names - sys.stdlib_module_names == {"ml_collections"}


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_files_are_short(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= MAX_LINES
