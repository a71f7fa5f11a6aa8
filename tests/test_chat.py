"""Conversations as tokens: the template and its options, prompts that are too long, answers and their end."""

import dataclasses
from dataclasses import replace

import numpy as np
import pytest

from camopd_jax import chat, data
from camopd_jax.models import load

PLAIN = chat.Chat(system="", thinking="template", date="2026-01-01")
END = "<|im_end|>\n"
HEAD, TAIL = "<|im_start|>user\n", f"{END}<|im_start|>assistant\n"
AROUND = 1 + len("user\n") + 2 + 1 + len("assistant\n")  # tokens of the template: a byte, or a special token, each


@pytest.fixture
def tokenizer():
    return load.load("random:llama").tokenizer  # a byte is a token


def ask(name, *contents, **fields):
    roles = ("user", "assistant")
    return data.Prompt(name, [{"role": roles[i % 2], "content": c} for i, c in enumerate(contents)], **fields)


def encode(tokenizer, prompts, limit=10_000, long_prompts="error", form=PLAIN, **counts):
    counts = {"rows": len(prompts), "duplicates": 0, "available": len(prompts)} | counts
    loaded = data.Loaded("path:x.jsonl", "train", prompts=prompts, **counts)
    return chat.encode_prompts(tokenizer, loaded, form, limit=limit, long_prompts=long_prompts)


def test_prompts_are_encoded_up_to_where_the_answer_begins(tokenizer):
    prompts = [ask("p", "Hé 7?"), ask("q", "a", "b", "c")]
    found = encode(tokenizer, prompts)
    assert [tokenizer.decode(ids) for ids in found.tokens] == [
        f"{HEAD}Hé 7?{TAIL}",
        f"{HEAD}a{END}<|im_start|>assistant\nb{END}{HEAD}c{TAIL}",
    ]
    assert len(found.tokens[0]) == AROUND + 6 and found.tokens[0].dtype == np.int32
    assert found.prompts == prompts
    for prompt, ids in zip(prompts, found.tokens, strict=True):
        whole = tokenizer.apply_chat_template(prompt.messages, add_generation_prompt=True)["input_ids"]
        assert ids.tolist() == whole


def test_answers_end_in_the_given_token(tokenizer):
    answers = chat.encode_answers(tokenizer, [ask("p", "a", answer="Yes."), ask("q", "a", answer="No")], 77)
    assert [tokenizer.decode(a[:-1]) for a in answers] == ["Yes.", "No"]
    assert [a[-1] for a in answers] == [77, 77] and answers[0].dtype == np.int32


def test_many_prompts_keep_their_order(tokenizer):
    prompts = [ask(str(i), str(i)) for i in range(2500)]
    assert [tokenizer.decode(ids) for ids in encode(tokenizer, prompts).tokens] == [
        f"{HEAD}{i}{TAIL}" for i in range(2500)
    ]


def test_a_system_text_is_put_in_front_of_conversations_without_one(tokenizer):
    own = data.Prompt("q", [{"role": "system", "content": "own"}, {"role": "user", "content": "a"}])
    found = encode(tokenizer, [ask("p", "a"), own], form=replace(PLAIN, system="given"))
    assert [tokenizer.decode(ids) for ids in found.tokens] == [
        f"<|im_start|>system\n{text}{END}{HEAD}a{TAIL}" for text in ("given", "own")
    ]
    assert found.prompts == [ask("p", "a"), own]


@pytest.mark.parametrize("thinking, expected", [("template", "unset"), ("on", "True"), ("off", "False")])
def test_thinking_is_passed_to_the_template(tokenizer, thinking, expected):
    tokenizer.chat_template = "{{ enable_thinking if enable_thinking is defined else 'unset' }}"
    (ids,) = encode(tokenizer, [ask("p", "a")], form=replace(PLAIN, thinking=thinking)).tokens
    assert tokenizer.decode(ids) == expected


def test_the_generation_prompt_holds_what_the_template_puts_there(tokenizer):
    tokenizer.chat_template += "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
    (ids,) = encode(tokenizer, [ask("p", "a")], form=replace(PLAIN, thinking="off")).tokens
    assert tokenizer.decode(ids) == f"{HEAD}a{TAIL}<think>\n\n</think>\n\n"


def test_today_is_the_date_of_the_config(tokenizer):
    """As Llama 3.2's template asks: the prompts of tomorrow would be others, and a run could not go on."""
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y %H:%M') }}"
    for day, text in (("2026-01-01", "01 Jan 2026 00:00"), ("2024-02-29", "29 Feb 2024 00:00")):
        (ids,) = encode(tokenizer, [ask("p", "a")], form=replace(PLAIN, date=day)).tokens
        assert tokenizer.decode(ids) == text


def test_an_unknown_option_is_named():
    with pytest.raises(ValueError, match=r"chat\.thinking = 'maybe': allowed are template, on, off"):
        replace(PLAIN, thinking="maybe")


@pytest.mark.parametrize(
    "template, message",
    [
        (None, "the tokenizer has no chat template"),
        (
            "{{ raise_exception('System role not\\n supported') }}",
            r"the chat template refuses it \(System role not supported\)",
        ),
        ("{{ messages[0].content + 1 }}", "the chat template refuses it"),
        ("{{ messages[0].nothing.more }}", "the chat template refuses it"),
        ("{% if %}", "the chat template refuses it"),
    ],
)
def test_a_template_that_cannot_be_used_is_one_line(tokenizer, template, message):
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match=f"^prompt p: {message}") as error:
        encode(tokenizer, [ask("p", "a")])
    assert "\n" not in str(error.value)


def test_a_prompt_that_is_too_long_is_refused(tokenizer):
    assert len(encode(tokenizer, [ask("p", "abc")], limit=AROUND + 3).tokens) == 1
    with pytest.raises(
        ValueError, match=rf"prompt p has {AROUND + 3} .* rollout\.max_prompt_tokens allows {AROUND + 2}"
    ):
        encode(tokenizer, [ask("p", "abc")], limit=AROUND + 2)
    with pytest.raises(ValueError, match=r"rollout\.long_prompts = 'crop': allowed are error, drop, cut"):
        encode(tokenizer, [ask("p", "abc")], long_prompts="crop")


def test_a_prompt_that_is_too_long_is_dropped(tokenizer):
    found = encode(tokenizer, [ask("p", "abc"), ask("q", "abcd"), ask("r", "ab")], AROUND + 3, "drop")
    assert [p.id for p in found.prompts] == ["p", "r"]
    assert [tokenizer.decode(ids) for ids in found.tokens] == [f"{HEAD}abc{TAIL}", f"{HEAD}ab{TAIL}"]
    with pytest.raises(ValueError, match=r"path:x.jsonl: all 2 prompts are longer than rollout.max_prompt_tokens = 19"):
        encode(tokenizer, [ask("p", "a"), ask("q", "b")], AROUND, "drop")


def test_the_longest_message_loses_its_end_and_the_template_stays_whole(tokenizer):
    turns = 2 * AROUND + 2  # two user turns, each before an assistant head, and the end of the first answer
    limit = turns + len("abc" + "de" + "ij")
    found = encode(tokenizer, [ask("p", "abc", "defgh", "ij"), ask("q", "k", answer="l")], limit, "cut")
    assert [tokenizer.decode(ids) for ids in found.tokens] == [
        f"{HEAD}abc{END}<|im_start|>assistant\nde{END}{HEAD}ij{TAIL}",
        f"{HEAD}k{TAIL}",
    ]
    assert len(found.tokens[0]) == limit
    assert found.prompts == [ask("p", "abc", "de", "ij"), ask("q", "k", answer="l")]
    assert (found.statistics.cut, found.statistics.dropped) == (1, 0)


@pytest.mark.parametrize("room, content", [(0, ""), (1, ""), (2, "é"), (3, "é"), (4, "éé"), (5, "éé"), (6, "ééé")])
def test_a_cut_leaves_whole_characters(tokenizer, room, content):
    """An é has two tokens."""
    (ids,) = encode(tokenizer, [ask("p", "ééé")], AROUND + room, "cut").tokens
    assert tokenizer.decode(ids) == f"{HEAD}{content}{TAIL}"


def test_what_does_not_fit_even_empty_is_refused(tokenizer):
    with pytest.raises(ValueError, match=rf"prompt p has {AROUND} tokens even with its longest message empty"):
        encode(tokenizer, [ask("p", "abc")], AROUND - 1, "cut")
    with pytest.raises(ValueError, match="even with its longest message empty"):  # the config's text is not cut
        encode(tokenizer, [ask("p", "abc")], AROUND + 5, "cut", form=replace(PLAIN, system="x" * 50))


def test_a_cut_prompt_fits_whatever_the_tokens(tmp_path):
    """Merges make the tokens of a cut text others than the first tokens of the whole."""
    tokenizer = merging_tokenizer()
    rng = np.random.default_rng(0)
    for n in range(50):
        prompt = ask("p", "".join(rng.choice(list("ab "), 30)))
        long = len(encode(tokenizer, [prompt]).tokens[0])
        for limit in range(long - 5, long):
            found = encode(tokenizer, [prompt], limit, "cut")
            kept = found.prompts[0].messages[0]["content"]
            assert len(found.tokens[0]) <= limit and prompt.messages[0]["content"].startswith(kept), n
            assert len(found.tokens[0]) >= limit - 1
            assert found.tokens[0].tolist() == encode(tokenizer, found.prompts).tokens[0].tolist()


def merging_tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("a", "b"), ("b", "a"), ("ab", "ab"), ("ba", "a"), ("a", "a"), ("Ġ", "a")]
    vocab = {token: i for i, token in enumerate([*letters, *("".join(m) for m in merges)])}
    fast = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fast.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=fast, chat_template="U: {{ messages[0].content }}aba\nA:")


def test_what_fits_is_tokenised_once(tokenizer, monkeypatch):
    texts = []
    called = type(tokenizer).__call__

    def counted(self, some, **options):
        texts.extend(some)
        return called(self, some, **options)

    monkeypatch.setattr(type(tokenizer), "__call__", counted)
    encode(tokenizer, [ask("p", "abc"), ask("q", "abcd"), ask("r", "ab")], AROUND + 3, "cut")
    assert [sum(t.startswith(f"{HEAD}{x}{END}") for t in texts) for x in ("abc", "abcd", "ab")] == [2, 1, 1]


def test_statistics_by_hand(tokenizer):
    prompts = [ask("p", "abc"), ask("q", "abcd"), ask("r", "a")]
    cut = encode(tokenizer, prompts, AROUND + 3, "cut", rows=1000, duplicates=12, available=988).statistics
    assert dataclasses.asdict(cut) == {
        "source": "path:x.jsonl",
        "split": "train",
        "rows": 1000,
        "duplicates": 12,
        "available": 988,
        "kept_out": 0,
        "dropped": 0,
        "cut": 1,
        "limit": AROUND + 3,
        "used": 3,
        "tokens": 3 * AROUND + 7,
        "longest": AROUND + 3,
    }
    assert cut.describe("data.general") == (
        "data.general path:x.jsonl: 1,000 rows, 12 duplicates removed, 1 cut to 22 tokens; "
        "3 prompts of 21 tokens on average, the longest 22"
    )
    dropped = encode(tokenizer, prompts, AROUND + 3, "drop", rows=1000, duplicates=0, available=800).statistics
    assert dropped.describe("data.domain") == (
        "data.domain path:x.jsonl: 1,000 rows, 800 to train on, 1 longer than 22 tokens left out; "
        "2 prompts of 21 tokens on average, the longest 22"
    )
