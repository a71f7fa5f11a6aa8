"""What the documents say of tests is true of the tests there are."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NAMED = re.compile(r"\b(tests/[\w/]+\.py)(?:::(\w+))?")
DOCS = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]


def functions(file: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("doc", DOCS, ids=lambda doc: doc.name)
def test_tests_that_a_document_names_exist(doc):
    for file, name in NAMED.findall(doc.read_text()):
        assert (ROOT / file).is_file(), file
        assert not name or name in functions(ROOT / file), f"{file}::{name}"


def test_reliability_names_a_test_for_each_of_the_thirteen_points():
    text = (ROOT / "docs" / "reliability.md").read_text()
    rows = dict(re.findall(r"^\| (\d+)\. (.*)$", text, re.MULTILINE))
    assert sorted(map(int, rows)) == list(range(1, 14))
    built = {number for number, row in rows.items() if "not built yet" not in row}
    assert all(NAMED.search(rows[number]) for number in built)
