"""What a row of each published dataset becomes, and how many of them a recipe takes (CaMOPD, arXiv 2605.27115).

The schemas are those that the datasets' cards and other public code describe; docs/prepare.md says which were checked.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from camopd_jax import medical

NEMOTRON_NAME = "hf:nvidia/Nemotron-Post-Training-Dataset-v1"
PLACEHOLDER = "-"  # stands for a question that may not be given away
ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
LAST_SPEAKER = "<END CHAT>"  # ends a conversation of CoSER in which a model says who speaks next
LETTERED = re.compile(r"^[ \t]*\(?A[.):].*^[ \t]*\(?B[.):]", re.MULTILINE | re.DOTALL)
# What Qwen's chat templates tell a model of its tools, which the rows of a prompt file have no place for.
TOOLS = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""

Messages = list[dict]


class Unusable(ValueError):
    """Why a row is left out, in words that are counted."""


@dataclass(frozen=True)
class Stream:
    """A source of a recipe."""

    name: str
    source: str  # where it is published
    weight: int  # its part of the prompts, beside the weights of the others
    columns: tuple[str, ...]
    messages: Callable[[dict], Messages]  # of a row; raises Unusable
    rows: int | None = None  # as its card has it, for the progress bar


def question(row: dict) -> Messages:
    """A system message, if there is one, and the first user message: nothing that an assistant wrote."""
    messages = row["messages"]
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise Unusable("messages is no list of messages")
    first = next((m for m in messages if m.get("role") == "user"), None)
    if first is None:
        raise Unusable("no user message")
    text = _text(first.get("content"))
    if text.strip() == PLACEHOLDER:
        raise Unusable(f"the question is only {PLACEHOLDER!r}, as it may not be given away there")
    system = messages[0].get("content") if messages[0].get("role") == "system" else None
    before = [{"role": "system", "content": _text(system)}] if isinstance(system, str) and system.strip() else []
    return [*before, {"role": "user", "content": text}]


def tool_question(row: dict) -> Messages:
    """The same, with the signatures of the row's tools at the end of the system message."""
    *before, user = question(row)
    metadata = _parsed(row["metadata"])
    tools = _parsed(metadata.get("tools")) if isinstance(metadata, dict) else None
    if not isinstance(tools, list) or not tools:
        raise Unusable("no list of tools in metadata")
    told = TOOLS.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))
    return [{"role": "system", "content": "\n\n".join([*(m["content"] for m in before), told])}, user]


def conversation(row: dict) -> Messages:
    """A conversation up to its assistant's last turn: a system message or none, then user and assistant by turns."""
    turns = row["conversations"]
    if not isinstance(turns, list) or not all(isinstance(t, dict) for t in turns):
        raise Unusable("conversations is no list of turns")
    messages = [{"role": ROLES.get(t.get("from")), "content": t.get("value")} for t in turns]
    while messages and messages[-1]["role"] == "user":
        messages.pop()
    if any(m["role"] is None for m in messages):
        raise Unusable("a turn of an unknown speaker")
    first = bool(messages) and messages[0]["role"] == "system"
    roles = [m["role"] for m in messages[first:]]
    if len(roles) < 2 or roles != ["user", "assistant"] * (len(roles) // 2):
        raise Unusable("user and assistant do not take turns")
    return [{"role": m["role"], "content": _text(m["content"], "a turn")} for m in messages]


def names_next_speaker(messages: Messages) -> bool:
    """Whether a model says in it who speaks next, and plays no role."""
    return messages[-1]["content"].strip() == LAST_SPEAKER


def four_options(row: dict) -> Messages:
    """A question with its options opa to opd."""
    return _medical(_text(row["question"]), _lines({letter: row[f"op{letter.lower()}"] for letter in "ABCD"}))


def listed_options(row: dict) -> Messages:
    """A question with options as a list or an object, in JSON or not, or as a text; or without."""
    options = row["options"]
    options = _parsed(options, options)
    if isinstance(options, list):
        options = dict(zip("ABCDEFGHIJ", options, strict=False))
    told = _lines(options) if isinstance(options, dict) else options.strip() if isinstance(options, str) else ""
    return _medical(_text(row["question"]), told)


def open_question(row: dict) -> Messages:
    """A question without options."""
    return _medical(_text(row["question"]), "")


def whole_prompt(row: dict) -> Messages:
    """A question whose text has its options, or has none."""
    return _medical(_text(row["prompt"]), "")


def _medical(text: str, options: str) -> Messages:
    ask = medical.ASK_LETTER if LETTERED.search(options or text) else medical.ASK_OPEN
    return medical.messages(text, options, ask)


def _lines(options: Mapping[str, object]) -> str:
    """A line for each option that has a text."""
    return medical.lines({letter: str(text) for letter, text in options.items() if text is not None})


def _parsed(value: object, otherwise: object = None) -> object:
    """What a text of JSON holds; another value as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return otherwise


def _text(value: object, what: str = "the question") -> str:
    if not isinstance(value, str) or not value.strip():
        raise Unusable(f"{what} is empty")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise Unusable(f"{what} has half a surrogate pair") from None
    return value


def category(source: str, name: str) -> str:
    """The source of a category of Nemotron, of hf:NAME[@REVISION] or of a directory with the files of the hub."""
    if source.startswith("path:"):
        return f"{source}/**/{'tool' if name == 'tool_calling' else name}-*"
    return f"{source}:{name}"


_CHAT = ("messages",)
NEMOTRON = (
    Stream("chat", f"{NEMOTRON_NAME}:chat", 746_622, _CHAT, question, 746_622),
    Stream("code", f"{NEMOTRON_NAME}:code", 1_896_395, _CHAT, question, 1_896_395),
    Stream("math", f"{NEMOTRON_NAME}:math", 2_044_407, _CHAT, question, 2_044_407),
    Stream("stem", f"{NEMOTRON_NAME}:stem", 20_662_167, _CHAT, question, 20_662_167),
    Stream("tool_calling", f"{NEMOTRON_NAME}:tool_calling", 310_051, ("messages", "metadata"), tool_question, 310_051),
)
COSER = (
    Stream("coser", "hf:Neph0s/CoSER:train/sft_conversations_sharegpt.json", 1, ("conversations",), conversation),
)  # fmt: skip
MEDICAL = (
    Stream(
        "medmcqa", "hf:openlifescienceai/medmcqa:train", 4, ("question", "opa", "opb", "opc", "opd"), four_options
    ),
    Stream("medreason", "hf:UCSC-VLAA/MedReason:train", 3, ("question", "options"), listed_options),
    Stream("medical_r1", "hf:FreedomIntelligence/Medical-R1-Distill-Data:en:train", 2, ("question",), open_question),
    Stream("m23k", "hf:UCSC-VLAA/m23k-tokenized:train", 1, ("prompt",), whole_prompt),
)  # fmt: skip
RECIPES: Mapping[str, tuple[Stream, ...]] = {"nemotron": NEMOTRON, "coser": COSER, "medical": MEDICAL}
