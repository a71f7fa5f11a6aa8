"""What a row of each published dataset becomes, and why one is left out."""

import json

import published
import pytest

from camopd_jax.medical import ASK_LETTER, ASK_OPEN, CAREFUL
from camopd_jax.prepare import recipes
from camopd_jax.prepare.recipes import Unusable

USER = {"role": "user", "content": "Wie spät? ⏰"}
ANSWER = {"role": "assistant", "content": published.ANSWER}


def chat(*messages, **more):
    return {"messages": list(messages), **more}


def test_a_general_prompt_is_the_system_message_and_the_first_question():
    system = {"role": "system", "content": "Be brief."}
    assert recipes.question(chat(USER, ANSWER)) == [USER]
    assert recipes.question(chat(system, USER, ANSWER, {"role": "user", "content": "And now?"})) == [system, USER]
    assert recipes.question(chat(system | {"content": ""}, USER)) == [USER]


def test_tools_stand_in_the_system_message_as_qwen_s_template_has_them():
    tools = [published.TOOL, {"type": "function", "function": {"name": "zähle"}}]
    row = chat({"role": "system", "content": "Be brief."}, USER, ANSWER, metadata=json.dumps({"tools": tools}))
    system, user = recipes.tool_question(row)
    assert user == USER and system["role"] == "system"
    assert system["content"].startswith("Be brief.\n\n# Tools\n\nYou may call one or more functions")
    shown = system["content"].partition("<tools>\n")[2].partition("\n</tools>")[0]
    assert [json.loads(line) for line in shown.split("\n")] == tools and "zähle" in shown
    assert system["content"].endswith('{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>')
    assert recipes.tool_question(row | {"metadata": {"tools": json.dumps(tools)}}) == [system, user]


@pytest.mark.parametrize("metadata", [None, "", "{", '{"tools": []}', '{"tool": [1]}', "[1]"])
def test_a_tool_row_without_tools_is_left_out(metadata):
    with pytest.raises(Unusable, match="no list of tools in metadata"):
        recipes.tool_question(chat(USER, metadata=metadata))


@pytest.mark.parametrize(
    "messages, why",
    [
        (None, "messages is no list of messages"),
        (["a"], "messages is no list of messages"),
        ([ANSWER], "no user message"),
        ([USER | {"content": " \n"}], "the question is empty"),
        ([USER | {"content": None}], "the question is empty"),
        ([USER | {"content": "-"}], "the question is only '-'"),
        ([USER | {"content": "a\ud83d"}], "the question has half a surrogate pair"),
    ],
)
def test_a_general_row_without_a_question_is_left_out(messages, why):
    with pytest.raises(Unusable, match=why):
        recipes.question({"messages": messages})


def turns(*pairs):
    return {"conversations": [{"from": f, "value": v} for f, v in pairs]}


def test_a_conversation_ends_with_its_assistant():
    found = recipes.conversation(turns(("system", "s"), ("human", "a"), ("gpt", "b"), ("user", "c")))
    assert found == [
        {"role": "system", "content": "s"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    "pairs, why",
    [
        ([("human", "a")], "do not take turns"),
        ([("system", "s"), ("assistant", "b")], "do not take turns"),
        ([("human", "a"), ("human", "a"), ("assistant", "b")], "do not take turns"),
        ([("human", "a"), ("assistant", "b"), ("system", "s"), ("assistant", "c")], "do not take turns"),
        ([("human", "a"), ("Anna", "b"), ("assistant", "c")], "a turn of an unknown speaker"),
        ([("human", ""), ("assistant", "b")], "a turn is empty"),
        ([], "do not take turns"),
    ],
)
def test_a_conversation_that_is_none_is_left_out(pairs, why):
    with pytest.raises(Unusable, match=why):
        recipes.conversation(turns(*pairs))
    with pytest.raises(Unusable, match="conversations is no list of turns"):
        recipes.conversation({"conversations": None})


def medical(text, ask):
    return [{"role": "system", "content": CAREFUL}, {"role": "user", "content": f"{text}\n\n{ask}"}]


LETTER, OPEN = ASK_LETTER, ASK_OPEN


@pytest.mark.parametrize(
    "make, row, text, ask",
    [
        (recipes.four_options, {"question": " Wo? ", "opa": "Herz", "opb": "Niere", "opc": "Leber", "opd": "Haut"},
         "Wo?\n\nA. Herz\nB. Niere\nC. Leber\nD. Haut", LETTER),
        (recipes.four_options, {"question": "Wo?", "opa": "Herz", "opb": " ", "opc": "Leber", "opd": None},
         "Wo?\n\nA. Herz\nC. Leber", OPEN),
        (recipes.listed_options, {"question": "Wo?", "options": "Answer Choices:\nA. Herz\nB. Niere"},
         "Wo?\n\nAnswer Choices:\nA. Herz\nB. Niere", LETTER),
        (recipes.listed_options, {"question": "Wo?", "options": '{"B": "Niere", "A": "Herz"}'},
         "Wo?\n\nA. Herz\nB. Niere", LETTER),
        (recipes.listed_options, {"question": "Wo?", "options": ["Herz", "Niere"]}, "Wo?\n\nA. Herz\nB. Niere", LETTER),
        (recipes.listed_options, {"question": "Wo?", "options": ""}, "Wo?", OPEN),
        (recipes.listed_options, {"question": "Wo?", "options": None}, "Wo?", OPEN),
        (recipes.open_question, {"question": "Warum?"}, "Warum?", OPEN),
        (recipes.whole_prompt, {"prompt": "Wo?\nA. Herz\nB. Niere"}, "Wo?\nA. Herz\nB. Niere", LETTER),
        (recipes.whole_prompt, {"prompt": "Was hat Vitamin A. mit Plan B. zu tun?"},
         "Was hat Vitamin A. mit Plan B. zu tun?", OPEN),
    ],
)  # fmt: skip
def test_medical_questions_in_their_template(make, row, text, ask):
    assert make(row) == medical(text, ask)


@pytest.mark.parametrize("name", [s.name for s in recipes.MEDICAL])
def test_a_medical_row_with_an_empty_question_is_left_out(name):
    stream = next(s for s in recipes.MEDICAL if s.name == name)
    with pytest.raises(Unusable, match="the question is empty"):
        stream.messages(dict.fromkeys(stream.columns, ""))
