"""Our backend of lm_eval against its own for PyTorch, request by request, on four tasks made from open data.

    python tests/evals/against_hf.py MODEL_DIR DATA_DIR [--apply_chat_template]

needs jax, lm_eval[hf] and torch in one environment. MODEL_DIR is what bin/export.py writes; DATA_DIR has
arc_easy_dev.jsonl, self_instruct_seed_tasks.jsonl and mts_dialog_valid.csv.
"""

import csv
import json
import runpy
import sys
import tempfile
from pathlib import Path

import lm_eval
from lm_eval.tasks import TaskManager

ROOT = Path(__file__).parents[2]
LENGTH = 256  # short, so that prompts are cut and texts have several windows
TASKS = {
    "ours_choice": """
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "ours_letter": """
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\n{% for c in choices %}{{'ABCDE'[loop.index0]}}. {{c}}\\n{% endfor %}Answer:"
doc_to_choice: ["A", "B", "C", "D"]
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}]
""",
    "ours_answer": """
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n\\n", "Question:", "3."], do_sample: false, max_gen_toks: 64}
metric_list: [{metric: exact_match}]
""",
    "ours_rolling": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}]
""",
}


def rows(data: Path) -> dict[str, list[dict]]:
    choice, answer = [], []
    for line in (data / "arc_easy_dev.jsonl").read_text().splitlines()[:40]:
        question = json.loads(line)
        choices = question["question"]["choices"]
        right = "ABCDE".index(question["answerKey"])  # some label their choices 1, 2, 3, 4
        choice.append(
            {"question": question["question"]["stem"], "choices": [c["text"] for c in choices], "answer": right}
        )
    for line in (data / "self_instruct_seed_tasks.jsonl").read_text().splitlines()[:20]:
        task = json.loads(line)
        first = task["instances"][0]
        answer.append({"prompt": f"{task['instruction']}\n{first['input']}", "answer": first["output"]})
    with (data / "mts_dialog_valid.csv").open() as file:
        texts = sorted((row["dialogue"] for row in csv.DictReader(file)), key=len)
    return {
        "ours_choice": choice,
        "ours_letter": choice,
        "ours_answer": answer,
        "ours_rolling": [{"text": t} for t in texts[9::10]],
    }


def write_tasks(directory: Path, data: Path) -> None:
    for name, items in rows(data).items():
        file = directory / f"{name}.jsonl"
        file.write_text("".join(json.dumps(item) + "\n" for item in items))
        head = (
            f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: '{file}'}}}}\ntest_split: test\n"
        )
        (directory / f"{name}.yaml").write_text(head + TASKS[name])


def main(model: Path, data: Path, flags: list[str]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        tasks, out = Path(scratch) / "tasks", Path(scratch) / "out"
        tasks.mkdir()
        write_tasks(tasks, data)
        names = f"--tasks={','.join(TASKS)}"
        arguments = [
            f"--model=path:{model}",
            names,
            f"--include_path={tasks}",
            f"--out={out}",
            f"--max_length={LENGTH}",
        ]
        assert not runpy.run_path(str(ROOT / "bin" / "evaluate.py"))["main"](["evaluate.py", *arguments, *flags])
        # On CPU PyTorch's log-softmax in float32 is off by 1e-5 nats a token: take it in float64, of float32 logits.
        theirs = lm_eval.simple_evaluate(
            model="hf",
            model_args={
                "pretrained": str(model), "dtype": "float32", "softmax_dtype": "float64", "max_length": LENGTH,
            },
            tasks=list(TASKS),
            batch_size=8,
            device="cpu",
            apply_chat_template=bool(flags),
            task_manager=TaskManager(include_path=str(tasks)),
        )  # fmt: skip
        for name in TASKS:
            ours = [json.loads(line) for line in (out / f"samples_{name}.jsonl").read_text().splitlines()]
            compare(name, ours, theirs["samples"][name])


def compare(name: str, ours: list[dict], theirs: list[dict]) -> None:
    pairs = [
        (a[0], b[0])
        for one, other in zip(ours, theirs, strict=True)
        for a, b in zip(one["resps"], other["resps"], strict=True)
    ]
    if name == "ours_answer":
        print(f"{name}: {sum(a == b for a, b in pairs)} of {len(pairs)} answers are the same")
        return
    rolling = name == "ours_rolling"
    logp = [pair if rolling else (pair[0][0], pair[1][0]) for pair in pairs]
    print(f"{name}: {len(pairs)} log-likelihoods, down to {min(b for _, b in logp):.0f} nats, ", end="")
    print(f"differ by at most {max(abs(a - b) for a, b in logp):.1e} nats", end="\n" if rolling else "; ")
    if not rolling:
        same = sum(a[1] == b[1] for a, b in pairs)
        print(f"{same} greedy flags are the same, {sum(b[1] for _, b in pairs)} of them true")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
