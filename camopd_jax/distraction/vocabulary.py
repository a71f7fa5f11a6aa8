"""What a rubric can hold, as a JSON schema and in words, both read off the checks: for models that write one.

A schema of closed objects cannot have a mapping with keys of its own choice, so the two that a rubric has are lists
here: of {"key", "task"} in `keyed`, of {"word", "instead"} in `swap`.
"""

import inspect
import json
from collections.abc import Callable, Sequence

from camopd_jax.distraction import actions, forms, tasks
from camopd_jax.evals import checks

TEXT, NUMBER, TRUTH = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
_BY_TYPE = {str: TEXT, int: NUMBER, bool: TRUTH}
_OF_OTHERS = tuple(kind for kind, task in tasks.TASKS.items() if "tasks" in task.__annotations__)
# Checks of content, which is the task's; and json_keys is is_json without regard to case.
_LEFT_OUT = ("icd10_code", "is_json", "number", "answer", "one_word", "yes_no")
# Of parameters that the checks call lists.
_ITEMS = {
    ("values", "slots"): {"type": "array", "items": TEXT},
    ("number", "also"): NUMBER,
    ("number", "refuse"): NUMBER,
}
# The parameters of each kind of action; its change to an answer, which the words about it show.
ACTIONS: dict[str, dict] = {
    "append": {"text": "Checked", "sep": " "},
    "prepend": {"text": "Update:", "sep": " "},
    "each": {"prefix": "", "suffix": " ;"},
    "tally": {},
    "repeat": {},
    "surround": {"left": "**", "right": "**"},
    "json": {"key": "answer"},
    "fence": {},
    "bullet": {},
    "numbered": {},
    "upper": {},
    "lower": {},
    "spaced": {},
    "underscore": {},
    "words": {},
    "roman": {},
    "surname": {"names": ["Ada Fell"]},
    "swap": {"to": {"yes": "oui", "no": "non"}},
}
_SHOWN = {"words": "12 boats", "roman": "12 boats", "swap": "no"}
_ANSWER = "Ada Fell"
_PARAMETERS = {"names": {"type": "array", "items": TEXT}}


def thing(properties: dict[str, dict]) -> dict:
    """A closed object, all of whose properties are needed."""
    return {
        "type": "object", "properties": properties, "required": list(properties), "additionalProperties": False,
    }  # fmt: skip


def several(items: dict, n: int | None = None) -> dict:
    """A list of so many, or of any number."""
    return {"type": "array", "items": items} | ({} if n is None else {"minItems": n, "maxItems": n})


def task_schema() -> dict:
    """Of rubric.task: one of `tasks.TASKS`."""
    single = [_task(kind, None) for kind in tasks.TASKS if kind not in (*_OF_OTHERS, "focused")]
    single.append(_task("focused", {"anyOf": list(single)}))
    return {"anyOf": [*single, *(_task(kind, {"anyOf": single}) for kind in _OF_OTHERS)]}


def form_schema() -> dict:
    """Of an item of rubric.form: one of `forms.FORMS` or of the checks for all answers."""
    return {
        "anyOf": [_kind(kind, {n: _of(t, TEXT) for n, t in takes.items()}) for kind, (_, takes) in _forms().items()]
    }


def action_schema() -> dict:
    """Of an item of rubric.actions: one of `actions.KINDS`."""
    swapped = several(thing({"word": TEXT, "instead": TEXT}))
    parameters = _PARAMETERS | {"to": swapped}
    return {
        "anyOf": [
            _kind(kind, {name: parameters.get(name, TEXT) for name in found.takes})
            for kind, found in actions.KINDS.items()
        ]
    }


def in_words() -> str:
    """Each kind with its parameters and what it means."""
    of_tasks = [_line(kind, _takes(task), task) for kind, task in tasks.TASKS.items()]
    of_forms = [_line(kind, takes, form) for kind, (form, takes) in _forms().items()]
    of_actions = []
    for kind in actions.KINDS:
        action, answer = {"kind": kind, **ACTIONS[kind]}, _SHOWN.get(kind, _ANSWER)
        change = f"{json.dumps(answer)} becomes {json.dumps(actions.obey(action, answer), ensure_ascii=False)}"
        of_actions.append(f"- {json.dumps(listed(action), ensure_ascii=False)}: {change}")
    return "\n".join(
        ["Kinds of task:", *of_tasks, "Kinds of form:", *of_forms, "Kinds of action, each by an example:", *of_actions]
    )


def mapped(check: dict) -> dict:
    """A task, form or action as the rubric has it, from what a model wrote in the form of the schemas."""
    kind, found = check["kind"], dict(check)
    if kind == "swap":
        found["to"] = {pair["word"].casefold(): pair["instead"] for pair in check["to"]}
    elif kind == "label":  # labels are compared as words in lower case
        found |= {name: [word.casefold() for word in check[name]] for name in ("accept", "refuse")}
    elif kind == "keyed":
        found["tasks"] = {entry["key"]: mapped(entry["task"]) for entry in check["tasks"]}
    elif kind == "focused":
        found["task"] = mapped(check["task"])
    elif kind in _OF_OTHERS:
        found["tasks"] = [mapped(task) for task in check["tasks"]]
    elif kind in forms.FORMS and "keys" in check:
        found["keys"] = [key.casefold() for key in check["keys"]]
    return found


def listed(check: dict) -> dict:
    """The inverse of `mapped`, for rubrics that are shown as an example."""
    kind, found = check["kind"], dict(check)
    if kind == "swap":
        found["to"] = [{"word": word, "instead": other} for word, other in check["to"].items()]
    elif kind == "keyed":
        found["tasks"] = [{"key": key, "task": task} for key, task in check["tasks"].items()]
    return found


def _task(kind: str, single: dict | None) -> dict:
    takes = _takes(tasks.TASKS[kind])
    inner = thing({"key": TEXT, "task": single}) if takes.get("tasks") is dict else single
    lists = _ITEMS | {(kind, "tasks"): inner}
    parameters = {name: _of(list if t is dict else t, lists.get((kind, name), TEXT)) for name, t in takes.items()}
    return _kind(kind, parameters | ({"task": single} if kind == "focused" else {}))


def _of(annotation: type, items: dict) -> dict:
    return several(items) if annotation is list else _BY_TYPE[annotation]


def _kind(kind: str, parameters: dict[str, dict]) -> dict:
    return thing({"kind": {"type": "string", "enum": [kind]}, **parameters})


def _forms() -> dict[str, tuple[Callable, dict[str, type]]]:
    """Each form with its parameters."""
    every = {**{k: v for k, v in checks.CHECKS.items() if k not in _LEFT_OUT}, **forms.FORMS}
    return {kind: (form, _takes(form)) for kind, form in every.items()}


def _takes(check: Callable) -> dict[str, type]:
    """Its parameters but the first, which is the answer."""
    return dict([(name, t) for name, t in check.__annotations__.items() if name != "return"][1:])


def _line(kind: str, takes: Sequence[str], check: Callable) -> str:
    return f"- {kind}({', '.join(takes)}): {' '.join((inspect.getdoc(check) or '').split())}"
