"""bin/evaluate.py --tasks=medqa_letters|medxpertqa_letters: the share of medical questions whose letter is right.

MedQA-USMLE with four options (arXiv 2009.13081) and MedXpertQA Text with ten (arXiv 2501.18362), scored as in CaMOPD
(arXiv 2605.27115): exact match on the final letter of an answer that reasons first.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from absl import flags

from camopd_jax import lock, medical, metrics
from camopd_jax.endpoint import Endpoint
from camopd_jax.evals import answering, asking, choices, rows, suite

FLAGS = ("data",)
TOKENS = 4096  # of an answer; the paper allows 32,768
CHOICES = "\nAnswer Choices:"  # begins the options that a question of MedXpertQA repeats at its end


@dataclass(frozen=True)
class Item:
    """A question with its options, by letter."""

    id: str
    question: str
    options: Mapping[str, str]
    right: str

    @property
    def messages(self) -> list[dict]:
        return medical.messages(self.question, medical.lines(self.options), medical.ASK_LETTER)


@dataclass(frozen=True)
class Task:
    """A published test set."""

    name: str
    label: str
    source: str
    count: int  # of its test split
    letters: str
    columns: tuple[str, ...]  # question, options, letter

    def item(self, where: str, row: dict, number: int) -> Item:
        """A row as an item.

        Raises:
          ValueError: one line: a column holds something else than was published.
        """
        question, options, right = (row[name] for name in self.columns)
        options = _options(options)
        if not isinstance(question, str) or not question.strip():
            raise ValueError(f"{where}: {self.columns[0]} is no text; allowed is the text of the question")
        if options is None or "".join(sorted(options)) != self.letters[: len(options)] or len(options) < 2:
            raise ValueError(
                f"{where}: {self.columns[1]} is {str(row[self.columns[1]])[:80]}; allowed is an object with a text for "
                f"each of the letters {self.letters[0]} to {self.letters[-1]}"
            )
        if right not in options:
            raise ValueError(f"{where}: {self.columns[2]} is {right!r}; allowed are {', '.join(sorted(options))}")
        return Item(str(row.get("id", number)), question.partition(CHOICES)[0], options, right)


TASKS = {
    task.name: task
    for task in (
        Task("medqa_letters", "MedQA-USMLE", "hf:GBaker/MedQA-USMLE-4-options:test", 1273, "ABCD",
             ("question", "options", "answer_idx")),
        Task("medxpertqa_letters", "MedXpertQA Text", "hf:TsinghuaC3I/MedXpertQA:Text:test", 2450, "ABCDEFGHIJ",
             ("question", "options", "label")),
    )
}  # fmt: skip


def define(values: flags.FlagValues) -> None:
    """Define `FLAGS`; "limit", "max_new_tokens", "temperature" and "think_end_token" are the caller's."""
    flags.DEFINE_string("data", None, "The test set, a file of it (path:FILE) or of the hub.", flag_values=values)


def items(task: Task, source: str, limit: int | None) -> list[Item]:
    """The questions of a test set, in its order: the first `limit`, if that is a number.

    Raises:
      ValueError: one line: the source cannot be read, or a row is not as published.
    """
    found = rows.read(source, task.columns, "data")
    every = [task.item(where, row, number) for number, (where, row) in enumerate(found, 1)]
    if len({item.id for item in every}) < len(every):
        raise ValueError(f"--data={source}: an id comes twice; allowed is each once")
    return every[:limit]


def judged(task: Task) -> Callable[[Item, str], dict]:
    """What makes the row of an answer: its letter, or None, and whether that is the right one."""

    def row(item: Item, answer: str) -> dict:
        said = choices.letter(answer, "".join(sorted(item.options)))
        return {"id": item.id, "right": item.right, "said": said, "passed": said == item.right, "answer": answer}

    return row


def run(values: flags.FlagValues, out: Path, model: str | Endpoint, withheld: str) -> None:
    """Ask what is not answered yet, then write and print the accuracy.

    Args:
      model: a model source, or the model of a server.
      withheld: why the text of answers is not written, or "".

    Raises:
      ValueError: if a flag has a value that is not allowed, the data are not as published, or `out` holds another
        evaluation.
    """
    task = TASKS[values.tasks[0]]
    how = answering.how(values, TOKENS)
    source = values.data or task.source
    asked = items(task, source, values.limit)
    if values.limit is None and len(asked) != task.count:
        print(f"note: {source} has {len(asked):,} questions; the published test set has {task.count:,}")
    answer, names = answering.who(values, model, asked, how)
    setting = {"task": task.name, "data": source, "questions": digest(asked), **dataclasses.asdict(how), **names}
    held = lock.take(out / "lock", f"--out={out} is in use")
    try:
        asking.prepare(out, setting)
        found = results(setting, asking.ask(asked, answer, judged(task), out, not withheld))
        metrics.write_json(out / "results.json", found, indent=2)
    finally:
        held.release()
    print(summary(task, found))
    print(f"answers and results.json are in {out}" + (f"; {withheld}" if withheld else ""))


def digest(asked: Sequence[Item]) -> str:
    """Sixteen hex digits of what is asked, and of the letters that are right."""
    text = json.dumps([[item.id, item.messages, item.right] for item in asked])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def results(setting: Mapping, judged_rows: Sequence[Mapping]) -> dict:
    """What results.json holds: shares of all questions, each with its standard error over questions."""
    measures = {
        "accuracy": [row["passed"] for row in judged_rows],
        "no_letter": [row["said"] is None for row in judged_rows],
        "cut": [row["cut"] for row in judged_rows],
    }
    figures = {name: suite.figure(x) for name, x in measures.items()}
    return {"setting": dict(setting), "task": setting["task"], "figures": figures}


def summary(task: Task, found: Mapping) -> str:
    """The figures in words."""

    def share(name: str) -> str:
        of = found["figures"][name]
        return f"{of['value']:.2%}" + (f" ± {100 * of['stderr']:.2f}" if of["stderr"] is not None else "")

    count = found["figures"]["accuracy"]["n"]
    return (
        f"{task.label}, {count:,} questions: accuracy {share('accuracy')} (± one standard error); without a letter "
        f"{share('no_letter')}, cut at the limit of tokens {share('cut')}"
    )


def _options(options: object) -> dict[str, str] | None:
    """Options by letter, from an object or a list of {letter or key, content or value}; None: they are neither."""
    if isinstance(options, list) and all(isinstance(x, dict) for x in options):
        options = {x.get("letter", x.get("key")): x.get("content", x.get("value")) for x in options}
    if not isinstance(options, dict):
        return None
    options = {letter: text for letter, text in options.items() if text is not None}
    plain = all(isinstance(x, str) and x.strip() for pair in options.items() for x in pair)
    return options if plain else None
