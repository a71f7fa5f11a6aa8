"""Prompts: which a step sees, how they are laid out, and what the built-in sources promise."""

import json
import re
from collections import Counter
from importlib import resources

import numpy as np
import pytest
import simple_icd_10_cm as icd

from camopd_jax import data, icd10
from camopd_jax.models import load

GENERAL = [
    json.loads(line)
    for line in (resources.files("camopd_jax") / "assets" / "general.jsonl").read_text(encoding="utf-8").splitlines()
]
QUESTIONS = {split: icd10.make_questions(split, 250, 4, seed=3) for split in ("train", "heldout")}
TEMPLATES = {"train": icd10.TRAIN_TEMPLATES, "heldout": icd10.HELDOUT_TEMPLATES}


def chapter(code):
    return icd.get_ancestors(code)[-1]


def taken_apart(question):
    """(term, [(code, title), ...], template) of a question, read back from its text."""
    term = re.match(r'"(.+)" matches ', question.answer).group(1)
    text = question.messages[-1]["content"]
    lines = [found for line in text.split("\n") if (found := re.fullmatch(r"(.+): ([A-Z]\d\w(\.\w+)?)", line))]
    template = text.replace("\n".join(line.group() for line in lines), "{lines}").replace(term, "{term}")
    return term, [(line.group(2), line.group(1)) for line in lines], template


@pytest.mark.parametrize("size, batch", [(10, 4), (12, 4), (3, 7), (5, 5), (1, 3)])
def test_every_prompt_comes_once_before_any_comes_twice(size, batch):
    seen = np.concatenate([data.batch_at(size, batch, visit, seed=7) for visit in range(3 * size)])
    assert len(seen) == 3 * size * batch
    for epoch in seen[: len(seen) // size * size].reshape(-1, size):
        assert sorted(epoch) == list(range(size))


def test_a_batch_depends_on_its_arguments_alone():
    batches = [data.batch_at(50, 8, visit, seed=1).tolist() for visit in range(12)]
    backwards = [data.batch_at(50, 8, visit, seed=1).tolist() for visit in reversed(range(12))]
    assert batches == backwards[::-1]
    assert batches != [data.batch_at(50, 8, visit, seed=2).tolist() for visit in range(12)]
    epochs = np.concatenate([data.batch_at(50, 50, visit, seed=1) for visit in range(2)]).reshape(2, 50)
    assert epochs[0].tolist() != epochs[1].tolist() != list(range(50))


def test_left_pad_by_hand():
    tokens, mask = data.left_pad([np.array([5, 6]), np.array([7, 8, 9]), np.array([4, 4, 4, 4])], width=4, pad_id=2)
    assert tokens.tolist() == [[2, 2, 5, 6], [2, 7, 8, 9], [4, 4, 4, 4]]
    assert mask.tolist() == [[False, False, True, True], [False, True, True, True], [True] * 4]
    assert tokens.dtype == np.int32


def test_given_responses_by_hand():
    """The EOS (9), which also pads, is in the mask where it ends an answer."""
    prompts, answers = [np.array([1, 2, 3]), np.array([4])], [np.array([5, 9]), np.array([6, 7, 8, 9])]
    rollout = data.given_responses(prompts, answers, pad_id=9)
    assert rollout.tokens_BL.tolist() == [[1, 2, 3, 5, 9, 9, 9], [9, 9, 4, 6, 7, 8, 9]]
    assert rollout.prompt_mask_BP.tolist() == [[True] * 3, [False, False, True]]
    assert rollout.response_mask_BT.tolist() == [[True, True, False, False], [True] * 4]
    assert rollout.sampler_logp_BT.shape == (2, 4) and not rollout.sampler_logp_BT.any()


def test_prompts_are_encoded_up_to_where_the_answer_begins_and_answers_end_their_turn():
    tokenizer = load.load("random:llama").tokenizer
    prompt = data.Prompt("p", [{"role": "user", "content": "Hé 7?"}], answer="Yes.")
    (ids,) = data.encode_prompts(tokenizer, [prompt], limit=100)
    assert tokenizer.decode(ids) == "<|im_start|>user\nHé 7?<|im_end|>\n<|im_start|>assistant\n"
    (answer,) = data.encode_answers(tokenizer, [prompt])
    assert tokenizer.decode(answer) == "Yes.<|im_end|>"
    assert answer[-1] == tokenizer.eos_token_id and len(answer) == 5
    assert len(data.encode_prompts(tokenizer, [prompt], limit=len(ids))) == 1
    with pytest.raises(
        ValueError, match=rf"prompt p has {len(ids)} tokens, rollout\.max_prompt_tokens .* {len(ids) - 1}"
    ):
        data.encode_prompts(tokenizer, [prompt], limit=len(ids) - 1)


@pytest.mark.parametrize(
    "source, split, count, candidates, message",
    [
        ("builtin:nothing", "train", 1, 3, "data source 'builtin:nothing': allowed are builtin:general"),
        ("builtin:general", "train", 99_999, 3, "builtin:general: 99999 prompts asked for, the train split has"),
        ("builtin:icd10", "test", 1, 3, "split 'test': allowed are 'train', 'heldout'"),
        ("builtin:icd10", "train", 1, 1, "candidates = 1: allowed is 2 to 10"),
        ("builtin:icd10", "train", 1, 11, "candidates = 11: allowed is 2 to 10"),
    ],
)
def test_a_source_that_cannot_be_had_is_named(source, split, count, candidates, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        data.load_prompts(source, split, count=count, candidates=candidates, seed=0)


def test_load_prompts_gives_what_its_source_holds():
    def general(split, count):
        return data.load_prompts("builtin:general", split, count=count, candidates=3, seed=0)

    rows = {r["id"]: r for r in GENERAL}
    for split in ("train", "heldout"):
        prompts = general(split, 0)
        assert [p.id for p in prompts] == [r["id"] for r in GENERAL if r["split"] == split]
        assert all(p.messages == rows[p.id]["messages"] for p in prompts)
        some = [p.id for p in general(split, 9)]
        assert len(some) == len(set(some)) == 9 and set(some) < {p.id for p in prompts}
        assert some == [p.id for p in general(split, 9)]
    coding = data.load_prompts("builtin:icd10", "train", count=5, candidates=3, seed=0)
    assert len({p.id for p in coding}) == 5
    assert all(icd10.exact_match(p.answer, p.code) for p in coding)
    instructions = data.load_prompts("builtin:instructions", "heldout", count=0, candidates=3, seed=0)
    assert all(p.checks for p in instructions)


def test_the_general_prompts_are_many_and_no_text_is_in_both_splits():
    assert len(GENERAL) >= 400
    assert len({r["id"] for r in GENERAL}) == len(GENERAL)
    texts = {split: set() for split in ("train", "heldout")}
    for row in GENERAL:
        assert row["messages"][-1]["role"] == "user"
        texts[row["split"]].add(" ".join(re.findall(r"\w+", row["messages"][-1]["content"].lower())))
    assert len(texts["train"]) > len(texts["heldout"]) >= 50
    assert not texts["train"] & texts["heldout"]
    assert all(texts["train"] | texts["heldout"])


def test_coding_questions_of_the_splits_share_neither_category_nor_template():
    categories = {split: {q.code[:3] for q in questions} for split, questions in QUESTIONS.items()}
    offered = {s: {code[:3] for q in qs for code, _ in taken_apart(q)[1]} for s, qs in QUESTIONS.items()}
    used = {split: {taken_apart(q)[2] for q in questions} for split, questions in QUESTIONS.items()}
    assert min(map(len, categories.values())) > 50
    assert not offered["train"] & offered["heldout"]  # wrong lines come from the own split, too
    assert used == {split: set(templates) for split, templates in TEMPLATES.items()}
    assert not used["train"] & used["heldout"]


@pytest.mark.parametrize("split", QUESTIONS)
def test_each_coding_question_has_one_right_line(split):
    for question in QUESTIONS[split]:
        term, candidates, _ = taken_apart(question)
        assert len({code[0] for code, _ in candidates}) == 4
        assert [c for c, _ in candidates if term in icd.get_inclusion_term(c)] == [question.code]
        assert all(icd.get_description(code) == title for code, title in candidates)
        assert question.answer == f'"{term}" matches {dict(candidates)[question.code]}: {question.code}.'


def test_the_right_line_is_at_every_place_equally():
    places = Counter(
        [code for code, _ in taken_apart(q)[1]].index(q.code) for questions in QUESTIONS.values() for q in questions
    )
    assert set(places) == set(range(4))
    assert all(abs(n - 125) < 5 * np.sqrt(125 * 0.75) for n in places.values())


def test_questions_are_drawn_deterministically():
    assert icd10.make_questions("train", 30, 3, seed=5) == icd10.make_questions("train", 30, 3, seed=5)
    assert icd10.make_questions("train", 30, 3, seed=5) != icd10.make_questions("train", 30, 3, seed=6)
    assert icd10.make_questions("train", 30, 3, seed=5)[:10] == icd10.make_questions("train", 10, 3, seed=5)


@pytest.mark.parametrize(
    "response, matches",
    [
        ('"a" matches b: E11.9.', True),
        ('"a" matches b: E11.9', True),
        ('"a" matches b: c: E11.9. \n', True),
        ('"a" matches b: E11.', False),
        ('"a" matches b: E11.90.', False),
        ('"a" matches b: E11.8.', False),
        ('"a" matches b: E11.9. "a" matches c: E11.8.', False),
        ('"a" matches b: E11.9 or so.', False),
        ("b: E11.9.", False),
        ("E11.9", False),
        ("", False),
    ],
)
def test_exact_match(response, matches):
    assert icd10.exact_match(response, "E11.9") is matches


@pytest.mark.parametrize("split", QUESTIONS)
def test_the_reference_answers_match(split):
    for question in QUESTIONS[split]:
        assert icd10.exact_match(question.answer, question.code)
        others = [code for code, _ in taken_apart(question)[1] if code != question.code]
        assert not any(icd10.exact_match(question.answer, code) for code in others)
