"""CaMOPD meets DistractionIF: robust to distractors, and still the model that it was.

    python bin/train.py --config=configs/distraction.py                    first: the robust model, by GRPO
    python bin/train.py --config=configs/robust.py                         then this
    python bin/evaluate.py --tasks=distractionif --model=runs/robust-small
    ... and the same two with :tiny: do they run here?

The robust model, exported by the first run, is the domain teacher and the student's start; the original model is the
general teacher. What reinforcement took from the original comes back, and the robustness stays: its prompts are those
that the first run trained on, the held-out ones those that it was tested on. All other values are those of
configs/medical.py.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

MEDICAL = Path(__file__).with_name("medical.py")


def get_config(preset: str = "small") -> ConfigDict:
    if preset not in ("small", "tiny"):
        raise ValueError(f"configs/robust.py:{preset}: allowed presets are small, tiny")
    c = runpy.run_path(str(MEDICAL))["get_config"](preset).unlock()
    run = f"runs/distraction-{preset}"
    c.name = "robust"
    c.teachers.domain = f"path:{run}/export"
    c.data.domain.source = f"path:{run}/train_prompts.jsonl"
    c.data.domain.heldout = f"path:{run}/heldout_prompts.jsonl"
    c.data.domain.count = 0
    if preset == "tiny":
        c.rollout.max_prompt_tokens = 1024
        c.micro.width = 1280
    else:
        c.rollout.max_prompt_tokens = 192
        c.micro.width = 336
    return c.lock()
