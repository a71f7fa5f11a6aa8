"""Role-play: give a model its general ability back after it learned to play personas (CaMOPD, arXiv 2605.27115).

    python bin/train.py --config=configs/roleplay.py           small: SmolLM2-135M, on 2 CPU cores
    python bin/train.py --config=configs/roleplay.py:tiny      random weights, about a minute: does it run here?
    ...                --config=configs/roleplay.py:paper      the paper's scale: Qwen3-4B-Instruct-2507, CoSER

small: the run itself makes the domain teacher from SmolLM2-135M-Instruct, by supervised fine-tuning on made dialogues
with invented people, and caches it. What the dialogues are, how a reply is judged, what came out: docs/roleplay.md.
paper needs the model hub (HF_TOKEN) and an accelerator; it has not been run yet, only planned (--dry_run). It reads
three files that you make (their form: docs/your-own.md): data/paper/general.jsonl, data/paper/roleplay.jsonl and, for
the domain teacher, data/paper/roleplay_sft.jsonl. What is not below is as in configs/medical.py.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

MEDICAL = Path(__file__).with_name("medical.py")


def get_config(preset: str = "small") -> ConfigDict:
    presets = {"small": _small, "tiny": _tiny, "paper": _paper}
    if preset not in presets:
        raise ValueError(f"configs/roleplay.py:{preset}: allowed presets are {', '.join(presets)}")
    c = runpy.run_path(str(MEDICAL))["get_config"](preset).unlock()
    c.name = "roleplay"
    c.data.domain.source = "builtin:personas"
    presets[preset](c)
    return c.lock()


def _small(c: ConfigDict) -> None:
    c.specialise.steps = 24
    c.specialise.batch_size = 8
    c.specialise.optim.learning_rate = 1e-4
    c.specialise.checkpoint_every = 12
    c.rollout.max_prompt_tokens = 168
    c.eval.general_prompts = 40
    c.eval.instructions = 80
    c.eval.domain_prompts = 80
    c.eval.max_domain_tokens = 32


def _tiny(c: ConfigDict) -> None:
    c.rollout.max_prompt_tokens = 896  # a token is a byte
    c.micro.width = 1024


def _paper(c: ConfigDict) -> None:
    c.teachers.general = "hf:Qwen/Qwen3-4B-Instruct-2507"
    c.teachers.domain = "specialise"
    c.data.domain.source = "path:data/paper/roleplay.jsonl"  # the 10K conversations of CoSER with the most turns
    c.specialise.source = "path:data/paper/roleplay_sft.jsonl"  # the others
    # The paper's values of this stage are not known to us: these are our choice, one look at each of 256,000 replies
    c.specialise.count = 256_000
    c.specialise.steps = 2000
    c.specialise.batch_size = 128
    c.specialise.optim.learning_rate = 1e-5
    c.specialise.optim.warmup_steps = 60
    c.specialise.checkpoint_every = 200
