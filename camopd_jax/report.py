"""report.html of a run: whether it worked, what it cost, examples and curves; one file that needs nothing else.

Its sections are said by the kind of the run (recovery_sections, reinforce.sections), and drawn by assets/report.
"""

import base64
import hashlib
import html
import json
import re
from pathlib import Path

from camopd_jax import metrics, recovery_sections, sections, workdirs
from camopd_jax.reinforce import sections as reinforcement

ASSETS = Path(__file__).parent / "assets" / "report"
SCRIPTS = (
    "dom.js", "prompts.js", "filters.js", "chart.js", "heat.js", "scatter.js", "overview.js", "curves.js",
    "reward_curves.js", "diagnostics.js", "rollouts.js", "groups.js", "answers.js", "main.js",
)  # fmt: skip


def write(workdir: Path) -> Path:
    """Make report.html from the files of a workdir, also of a run that is going on; whole or not at all.

    Raises:
      ValueError: if the workdir is none, or a file of it is not what a run of this version writes.
    """
    if not (workdir / "config.json").exists():
        raise ValueError(f"{workdir} is not the workdir of a run: there is no config.json")
    path = workdir / "report.html"
    if path.is_dir():
        raise ValueError(f"{path} is a directory; move it away")
    metrics.put(path, page(content(workdir)))
    return path


def content(workdir: Path) -> dict:
    """All that the page shows, as JSON has it."""
    record = workdirs.read_record(workdir)
    if "protocol" in record["config"]:
        raise ValueError(f"{workdir} is a run of ICD coding, which has summary.md and plots; allowed is another kind")
    kind = reinforcement if "grpo" in record["config"] else recovery_sections
    found = kind.content(workdir, record)
    return found | {"workdir": workdir.absolute().name, "record": list(sections.flat(record, ""))}


def embedded(data) -> str:
    """JSON that can stand inside a script element: ASCII alone, and nothing that HTML reads as markup."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return re.sub("[<>&]", lambda m: f"\\u{ord(m[0]):04x}", text)


def page(data: dict) -> str:
    """The page that shows `content`."""
    style = (ASSETS / "report.css").read_text(encoding="utf-8")
    script = "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in SCRIPTS)
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:; " \
             "base-uri 'none'; form-action 'none'"  # fmt: skip
    parts = {"title": html.escape(data["title"]), "policy": policy,
             "style": style, "script": script, "data": embedded(data)}  # fmt: skip
    template = (ASSETS / "report.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda m: parts[m[1]], template)


def _hash(text: str) -> str:
    """The source expression of a Content Security Policy that allows exactly this inline text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
