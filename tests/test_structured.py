"""JSON that a model wrote: found, held against a schema, asked for again."""

import pytest
from fake_server import Answer, serving

from camopd_jax import structured
from camopd_jax.endpoint import Endpoint


def thing(**properties):
    return {
        "type": "object", "properties": properties, "required": list(properties), "additionalProperties": False,
    }  # fmt: skip


SCHEMA = thing(n={"type": "integer"})
ONE, TWO = (
    thing(kind={"type": "string", "enum": [k]}, **more) for k, more in (("one", {}), ("two", SCHEMA["properties"]))
)


@pytest.mark.parametrize(
    "text",
    [
        '{"n": 1}',
        'Sure!\n```json\n{"n": 1}\n```\nHere {it} is.',
        '<think>{"n": 2} fits too</think>{"n": 1}',
        '{"m": 2} or rather {"n": 1}',
        '{"broken": } {"n": 1}',
    ],
)
def test_an_object_is_found_in_what_stands_around_it(text):
    assert structured.parse(text, SCHEMA) == {"n": 1}


@pytest.mark.parametrize(
    "text, fault",
    [
        ("", "there is no JSON object in it"),
        ("[1, 2]", "there is no JSON object in it"),
        ('{"n": 1', "there is no JSON object in it"),
        ("{" * 9000, "there is no JSON object in it"),
        ('{"n": "1"}', 'the answer.n is "1"; it must be of type integer'),
        ('{"n": true}', "the answer.n is true; it must be of type integer"),
        ('{"n": 1, "m": 1}', "the answer has 'm', which it must not"),
        ("{}", "the answer lacks 'n'"),
    ],
)
def test_what_does_not_fit_is_named(text, fault):
    with pytest.raises(structured.Unfit) as error:
        structured.parse(text, SCHEMA)
    assert error.value.faults == [fault]


@pytest.mark.parametrize(
    "value, schema, faults",
    [
        (["a"], {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2},
         ["the answer has 1 items; allowed are 2"]),
        (["a", 1], {"type": "array", "items": {"type": "string"}}, ["the answer[1] is 1; it must be of type string"]),
        ("c", {"type": "string", "enum": ["a", "b"]}, ['the answer is "c"; allowed: "a", "b"']),
        (1, {"type": "number"}, []),
        ({"kind": "two", "n": "x"}, {"anyOf": [ONE, TWO]}, ['the answer.n is "x"; it must be of type integer']),
        ({"kind": "six"}, {"anyOf": [ONE, TWO]}, ['the answer.kind is "six"; allowed: one, two']),
        ({"kind": "one"}, {"anyOf": [ONE, TWO]}, []),
    ],
)  # fmt: skip
def test_schemas(value, schema, faults):
    assert structured.mismatches(value, schema) == faults


def test_it_is_asked_for_again_with_the_reasons():
    with serving([Answer("no"), Answer('{"n": 5}'), Answer('{"n": 7}')]) as fake:
        found = structured.ask(
            Endpoint(fake.url, "m"), [{"role": "user", "content": "a number"}], SCHEMA,
            lambda value: [] if value["n"] > 6 else ["n is too small"], temperature=0.0, max_tokens=9, attempts=3,
        )  # fmt: skip
    assert found == structured.Found({"n": 7}, (("there is no JSON object in it",), ("n is too small",)))
    last = fake.bodies[-1]["messages"]
    assert [m["role"] for m in last] == ["user", "assistant", "user", "assistant", "user"]
    assert last[1]["content"] == "no" and "no JSON object" in last[2]["content"] and "too small" in last[4]["content"]


def test_it_is_not_asked_for_forever_and_what_was_cut_is_told_so():
    with serving(lambda body: Answer('{"n": ', finish="length")) as fake:
        found = structured.ask(
            Endpoint(fake.url, "m"), [{"role": "user", "content": "a"}], SCHEMA, lambda value: [],
            temperature=0.0, max_tokens=9, attempts=2,
        )  # fmt: skip
    assert len(fake.requests) == 2 and found.value is None
    assert found.faults[0] == ("it was cut at 9 tokens; be brief", "there is no JSON object in it")
