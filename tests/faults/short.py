"""The config of the fault tests: configs/medical.py:tiny, as short as a run with every stage of a recovery can be.

Both teachers are given, so nothing is specialised; their evaluations are in the cache after the first run.
"""

import json
import os
import runpy
from pathlib import Path

from ml_collections import ConfigDict

MEDICAL = Path(__file__).parent.parent.parent / "configs" / "medical.py"
CHECK = {"kind": "mentions_any", "words": ["e", "a"]}


def write_prompts(path: Path) -> None:
    """A file of short prompts, read in no time, for both branches."""
    rows = [{"prompt": f"Say the number {i}.", "answer": str(i), "checks": [CHECK]} for i in range(30)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def get_config(preset: str = "") -> ConfigDict:
    del preset
    c = runpy.run_path(str(MEDICAL))["get_config"]("tiny").unlock()
    c.preset = "short"
    c.teachers.domain = "random:llama:1"
    c.data.general.source = c.data.domain.source = f"path:{os.environ['PROMPTS']}"
    c.data.domain.count = 0
    c.camopd.cycle = ("general", "domain")
    c.steps = 4
    c.optim.warmup_steps = 2
    c.rollout.batch_size = 4
    c.rollout.rows_at_once = 4
    c.rollout.max_new_tokens = 6
    c.checkpoint.every = 2
    c.eval.every = 2
    c.eval.prompts = 4
    c.eval.general_prompts = 4
    c.eval.instructions = 4
    c.eval.domain_prompts = 4
    c.eval.batch_size = 4
    c.eval.max_new_tokens = 8
    c.eval.max_instruction_tokens = 8
    c.eval.max_domain_tokens = 8
    c.eval.interpolation = ()
    c.diagnostics.every = 2
    c.diagnostics.prompts = 1
    return c.lock()
