"""The client against a server of the test's: what is sent, kept, tried again and said, and where the key is not."""

import json
import logging
import threading
import time

import pytest
from fake_server import Answer, serving

from camopd_jax import endpoint, shown
from camopd_jax.endpoint import Prices, Tokens

ASKED = [{"role": "user", "content": "one two three"}]
KEY = "not-in-any-common-form-0123456789"


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def of(fake, slept=None, **more):
    return endpoint.Endpoint(fake.url, "m", sleep=(slept if slept is not None else []).append, **more)


def chat(client, messages=ASKED, **more):
    return client.chat(messages, temperature=0.0, max_tokens=7, **more)


def test_what_is_sent_and_what_is_answered(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving([Answer("four five"), Answer("six", finish="length")]) as fake:
        client = of(fake, options={"seed": 3})
        assert chat(client) == endpoint.Reply("four five", 3, 2, cut=False)
        assert chat(client).cut
        assert client.spent == Tokens(6, 3)
    path, headers, body = fake.requests[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == f"Bearer {KEY}"
    assert body == {"model": "m", "messages": ASKED, "temperature": 0.0, "max_tokens": 7, "seed": 3}


def test_without_a_key_none_is_sent(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving([Answer("a")]) as fake:
        chat(of(fake, key_variable=""))
    assert "Authorization" not in fake.requests[0][1]


@pytest.mark.parametrize(
    "answer, least",
    [
        (Answer(status=429, headers={"Retry-After": "17"}), 17),
        (Answer(status=503, headers={"Retry-After": "0"}), 0.5),
        (Answer(status=500, body=b"oops"), 0.5),
        (Answer(status=200, body=b'{"error": {"code": 502, "message": "bad gateway"}}'), 0.5),
        (Answer(status=200, body=b'{"choi', headers={"Content-Length": "99"}), 0.5),
    ],
)
def test_what_may_pass_is_asked_again_after_as_long_as_the_server_says(answer, least):
    slept = []
    with serving([answer, Answer("a")]) as fake:
        assert chat(of(fake, slept)).text == "a"
    assert len(fake.requests) == 2 and len(slept) == 1 and least - 0.1 <= slept[0] <= least + 1


def test_a_server_that_does_not_answer_in_time_is_asked_again():
    with serving([Answer("late", delay=1.0), Answer("a")]) as fake:
        assert chat(of(fake, timeout=0.2)).text == "a"


def test_pauses_grow_and_come_to_an_end():
    slept = []
    with serving(lambda body: Answer(status=500, body=b'{"error": {"message": "no memory"}}')) as fake:
        with pytest.raises(ConnectionError, match=r"/v1: HTTP 500 \(no memory\) \(4 times\)$"):
            chat(of(fake, slept, attempts=4))
    assert len(fake.requests) == 4
    assert all(0.5 * 2**i <= pause <= 2**i for i, pause in enumerate(slept)) and len(slept) == 3


def test_after_429_all_threads_wait():
    """A second thread asks after the first has been told to come again in 0.4 s."""
    told = threading.Event()

    def script(body):
        if not told.is_set():
            told.set()
            return Answer(status=429, headers={"Retry-After": "0.4"})
        return Answer("a")

    with serving(script) as fake:
        client = endpoint.Endpoint(fake.url, "m")
        first = threading.Thread(target=chat, args=(client,))
        first.start()
        told.wait()
        time.sleep(0.1)
        clock = time.monotonic()
        chat(client, [{"role": "user", "content": "another"}])
        assert time.monotonic() - clock > 0.2
        first.join()


@pytest.mark.parametrize(
    "answer, named",
    [
        (Answer(status=401, body=b'{"error": {"message": "bad key"}}'), r"HTTP 401 \(bad key\); no key was sent \(OPE"),
        (Answer(status=404, body=b'{"detail": "Not Found"}'), r"HTTP 404 \(Not Found\); an address mostly ends in /v1"),
        (Answer(status=400, body=b'{"message": "too long"}'), r"HTTP 400 \(too long\)$"),
        (Answer(status=429, body=b'{"error": {"message": "pay", "code": "insufficient_quota"}}'), r"HTTP 429 \(pay\)$"),
        (
            Answer(status=302, headers={"Location": "http://127.0.0.1:9/v1"}),
            "HTTP 302 .*redirects to http://127.0.0.1:9/v1",
        ),
        (Answer(body=b"<html>\n<b>hi</b>"), r"HTTP 200 \(<html> <b>hi</b>\); that is no answer of an OpenAI-comp"),
        (Answer(body=b"{}"), r"answered without choices\[0\].message.content"),
        (Answer(body=b'{"choices": [{"message": {"content": [1]}}]}'), "something else than a text"),
    ],
)
def test_what_will_not_pass_is_one_line_at_once(answer, named):
    with serving([answer]) as fake, pytest.raises(ValueError, match=named) as error:
        chat(of(fake))
    assert str(error.value).startswith(fake.url) and "\n" not in str(error.value)


def test_a_pause_beyond_patience_and_a_server_that_is_not_there():
    with serving([Answer(status=429, headers={"Retry-After": "86400"})]) as fake:
        with pytest.raises(ConnectionError, match=r"HTTP 429 .* not again for 86,400 s"):
            chat(of(fake))
    with pytest.raises(ConnectionError, match=r"no server can be reached there \(Connection refused\)"):
        chat(of(fake))


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://x/v1", "http://", "http://x/v1?a=b", "http://x:port/v1", "http://x/v1/chat/completions"]
)  # fmt: skip
def test_an_address_that_is_none(url):
    with pytest.raises(ValueError, match="allowed is the base of the API"):
        endpoint.Endpoint(url, "m")


def test_other_mistakes(monkeypatch):
    with pytest.raises(ValueError, match="the key goes in the environment") as error:
        endpoint.Endpoint("https://me:hunter22@x/v1", "m")
    assert "hunter22" not in str(error.value)
    with pytest.raises(ValueError, match="without the prices"):
        endpoint.Endpoint("http://x/v1", "m", limit=1.0)
    with pytest.raises(ValueError, match="options: stream cannot be set"):
        endpoint.Endpoint("http://x/v1", "m", options={"stream": True})
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n{KEY}")
    with pytest.raises(ValueError, match="OPENAI_API_KEY holds characters that no key has") as error:
        endpoint.Endpoint("http://x/v1", "m")
    assert KEY not in str(error.value)


def test_what_was_answered_is_not_asked_again_not_even_by_another_process(tmp_path):
    with serving(lambda body: Answer(body["messages"][0]["content"])) as fake:
        first = of(fake, cache=tmp_path)
        assert chat(first) == chat(of(fake, cache=tmp_path)) == chat(first)
        assert len(fake.requests) == 1 and first.spent == Tokens(3, 3)
        for change in ({"temperature": 1.0}, {"max_tokens": 8}, {"schema": {"type": "object"}}):
            first.chat(ASKED, **{"temperature": 0.0, "max_tokens": 7} | change)
        of(fake, cache=tmp_path, options={"seed": 1}).chat(ASKED, temperature=0.0, max_tokens=7)
        assert len(fake.requests) == 5
        for file in tmp_path.iterdir():
            file.write_bytes(file.read_bytes()[:9])
        assert chat(first).text == "one two three" and len(fake.requests) == 6


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    """The server dies at the fifth of nine; the second run asks the other five, and each was asked once."""
    asked = [[{"role": "user", "content": f"n {i}"}] for i in range(9)]
    answered = []

    def script(body):
        if len(answered) == 4 and alive:
            return Answer(status=400, body=b"{}")
        answered.append(body["messages"][0]["content"])
        return Answer("a b")

    alive = [True]
    with serving(script) as fake:
        client = of(fake, cache=tmp_path)
        with pytest.raises(ValueError, match="HTTP 400"):
            list(endpoint.each(lambda m: chat(client, m), asked, 1))
        alive.clear()
        client = of(fake, cache=tmp_path)
        assert client.estimate(asked, temperature=0.0, max_tokens=7).completion == 5 * 7
        assert len(list(endpoint.each(lambda m: chat(client, m), asked, 3))) == 9
    assert sorted(answered) == [f"n {i}" for i in range(9)]


def test_several_are_asked_at_a_time_and_answers_keep_their_order():
    with serving(lambda body: Answer(body["messages"][0]["content"])) as fake:
        meet = threading.Barrier(3, timeout=20)
        client = of(fake)

        def ask(i):
            meet.wait()
            return chat(client, [{"role": "user", "content": str(i)}]).text

        assert list(endpoint.each(ask, range(6), 3)) == list("012345")


def test_money_by_hand_and_its_limit():
    """3 and 2 tokens at 10 and 100 a million: 0.00023. One more may cost (13 + 1) * 10 + 7 * 100 millionths."""
    with serving(lambda body: Answer("four five")) as fake:
        most = endpoint.rough(ASKED, None)
        assert most == 8 + 5
        per_request = (most * 10 + 7 * 100) / 1e6
        client = of(fake, prices=Prices(10, 100), limit=0.00023 + per_request)
        chat(client)
        assert client.priced(client.spent) == "3 tokens in, 2 out, 0.0002 in money"
        chat(client, [{"role": "user", "content": "one two thre!"}])
        with pytest.raises(ValueError, match=r"spent 6 tokens in, 4 out, .* may pass the limit"):
            chat(client, [{"role": "user", "content": "another"}])
        assert len(fake.requests) == 2
        with pytest.raises(ValueError, match="may pass the limit"):
            of(fake, prices=Prices(10, 100), limit=per_request * 2.9).check(
                client.estimate([ASKED] * 3, temperature=0.0, max_tokens=7)
            )


def test_what_is_being_asked_counts_towards_the_limit():
    with serving(lambda body: Answer("a", delay=0.3)) as fake:
        client = of(fake, prices=Prices(10, 100), limit=0.0012)  # of 0.00083 each
        refused = []

        def ask(i):
            try:
                chat(client, [{"role": "user", "content": f"one two {i:05d}"}])
            except ValueError as error:
                refused.append(str(error))

        list(endpoint.each(ask, range(4), 4))
        assert len(fake.requests) == 1 and len(refused) == 3


def test_a_server_that_does_not_count_is_counted_for():
    with serving([Answer("12345678", usage=False)]) as fake:
        assert chat(of(fake)) == endpoint.Reply("12345678", 13, 3, cut=False)


def test_a_schema_is_sent_and_put_in_words_where_the_server_does_not_know_it():
    schema = {"type": "object", "properties": {}}

    def script(body):
        return Answer(status=400, body=b'{"error": "what?"}') if "response_format" in body and old else Answer("{}")

    old = []
    with serving(script) as fake:
        client = of(fake)
        chat(client, schema=schema)
        form = fake.bodies[0]["response_format"]
        assert form == {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}
        assert "schema" not in fake.bodies[0] and fake.bodies[0]["messages"] == ASKED
        old.append(True)
        for _ in range(2):
            chat(client, schema=schema)
        assert ["response_format" in body for body in fake.bodies] == [True, True, False, False]
        said = fake.bodies[-1]["messages"][0]["content"]
        assert said.startswith("one two three\n") and said.endswith(json.dumps(schema))


def test_the_other_name_of_max_tokens():
    refusal = b'{"error": {"message": "Unsupported parameter: use max_completion_tokens instead"}}'
    with serving(
        lambda body: Answer("a") if "max_completion_tokens" in body else Answer(status=400, body=refusal)
    ) as f:
        client = of(f)
        chat(client)
        chat(client)
    assert [body.get("max_completion_tokens") for body in f.bodies] == [None, 7, 7]


def test_the_key_is_in_one_header_and_nowhere_else(tmp_path, monkeypatch, caplog, capsys):
    """A server that says the key back, under a name by which `shown.masked` does not know it."""
    monkeypatch.setenv("MY_SERVER", KEY)
    assert KEY in shown.masked(KEY)
    caplog.set_level(logging.DEBUG)
    told = json.dumps({"error": {"message": f"no such key: {KEY}"}}).encode()
    answers = [Answer("a"), Answer(status=500, body=told), Answer(status=401, body=told)]
    with serving(answers) as fake:
        client = of(fake, cache=tmp_path, key_variable="MY_SERVER")
        chat(client)
        with pytest.raises(ValueError, match=r"no such key: \*\*\*\); the key in MY_SERVER was sent") as error:
            chat(client, [{"role": "user", "content": "another"}])
    assert KEY not in repr(error.value) + caplog.text + "".join(capsys.readouterr()) + repr(vars(client))
    assert not any(KEY in file.read_text() for file in tmp_path.rglob("*"))
    assert all(headers["Authorization"] == f"Bearer {KEY}" for _, headers, _ in fake.requests)
    assert not any(KEY in json.dumps(body) for body in fake.bodies)
