"""Prompts: which a step sees, how they are laid out, and what the built-in sources promise."""

import hashlib
import itertools
import json
import re
from collections import Counter
from importlib import resources

import numpy as np
import pytest
import simple_icd_10_cm as icd

from camopd_jax import data, icd10
from camopd_jax.evals import checks

GENERAL = [
    json.loads(line)
    for line in (resources.files("camopd_jax") / "assets" / "general.jsonl").read_text(encoding="utf-8").splitlines()
]
QUESTIONS = {split: icd10.make_questions(split, 250, 4, seed=3) for split in ("train", "heldout")}
TEMPLATES = {"train": icd10.TRAIN_TEMPLATES, "heldout": icd10.HELDOUT_TEMPLATES}


def loaded(source, split, count=0, candidates=3, share=0.2, at_most=False):
    return data.load_prompts(
        source, split, count=count, at_most=at_most, candidates=candidates, seed=0, heldout_share=share
    )


def prompts(*args, **options):
    return loaded(*args, **options).prompts


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


@pytest.mark.parametrize(
    "source, split, count, candidates, message",
    [
        ("builtin:nothing", "train", 1, 3, "data source 'builtin:nothing': allowed are builtin:general, "),
        ("builtin:general", "train", -1, 3, "builtin:general: -1 prompts asked for, the train split has"),
        ("builtin:icd10", "train", 0, 3, "data.NAME.count = 0: builtin:icd10 makes as many"),
        ("builtin:personas", "train", 0, 3, "data.NAME.count = 0: builtin:personas makes as many"),
        ("builtin:general", "train", 99_999, 3, "builtin:general: 99999 prompts asked for, the train split has"),
        ("builtin:icd10", "test", 1, 3, "split 'test': allowed are 'train', 'heldout'"),
        ("builtin:icd10", "train", 1, 1, "icd10.candidates = 1: allowed is 2 to 10"),
        ("builtin:icd10", "train", 1, 11, "candidates = 11: allowed is 2 to 10"),
    ],
)
def test_a_source_that_cannot_be_had_is_named(source, split, count, candidates, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        prompts(source, split, count, candidates=candidates)


def test_load_prompts_gives_what_its_source_holds():
    rows = {r["id"]: r for r in GENERAL}
    for split in ("train", "heldout"):
        found = prompts("builtin:general", split, 0)
        assert [p.id for p in found] == [r["id"] for r in GENERAL if r["split"] == split]
        assert all(p.messages == rows[p.id]["messages"] for p in found)
        some = [p.id for p in prompts("builtin:general", split, 9)]
        assert len(some) == len(set(some)) == 9 and set(some) < {p.id for p in found}
        assert some == [p.id for p in prompts("builtin:general", split, 9)]
    coding = prompts("builtin:icd10", "train", 5)
    assert len({p.id for p in coding}) == 5
    assert all(checks.passes(p.answer, p.checks) and p.checks[0]["kind"] == "icd10_code" for p in coding)
    assert not any(checks.passes(p.answer, q.checks) for p in coding for q in coding if p.answer != q.answer)
    assert all(p.checks for p in prompts("builtin:instructions", "heldout", 0))


def write(tmp_path, rows, name="x.jsonl"):
    (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return f"path:{tmp_path / name}"


def talk(*contents):
    return [{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(contents)]


def test_a_conversation_becomes_a_prompt_that_ends_with_the_user(tmp_path):
    check = [{"kind": "max_words", "n": 2}]
    source = write(
        tmp_path,
        [
            {"messages": talk("a", "b", "c", "d"), "checks": check},
            {"messages": talk("e", "f"), "answer": "given", "id": 7},
            {"prompt": "g", "answer": "h"},
            {"prompt": "i"},
        ],
    )
    found = prompts(source, "train", 0, share=0)
    assert [p.messages for p in found] == [talk("a", "b", "c"), talk("e"), talk("g"), talk("i")]
    assert [p.answer for p in found] == ["d", "given", "h", ""]
    assert [p.id for p in found] == ["x.jsonl:1", "7", "x.jsonl:3", "x.jsonl:4"]
    equals = [[{"kind": "answer", "text": text}] for text in ("given", "h")]
    assert [p.checks for p in found] == [check, *equals, []]


def test_the_held_out_share_is_the_smallest_hashes_and_what_is_equal_comes_once(tmp_path):
    """n = 20 - 3: round(0.2 * 17) = 3 are held out, those whose content has the smallest SHA-256."""
    texts = [f"question {i % 17}" for i in range(20)]
    source = write(tmp_path, [{"prompt": t, "answer": str(i)} for i, t in enumerate(texts)])
    by_hash = sorted(texts[:17], key=lambda t: hashlib.sha256(f'[["user", "{t}"]]'.encode()).hexdigest())
    train, held = loaded(source, "train"), loaded(source, "heldout")
    assert {p.messages[0]["content"] for p in held.prompts} == set(by_hash[:3])
    assert [p.messages[0]["content"] for p in train.prompts] == [t for t in texts[:17] if t not in by_hash[:3]]
    assert all(p.messages[0]["content"] == texts[int(p.answer)] and int(p.answer) < 17 for p in train.prompts)
    assert (train.rows, train.duplicates, train.available) == (20, 3, 14)
    assert (held.rows, held.duplicates, held.available) == (20, 3, 3)
    everything = [loaded(source, split, share=0) for split in ("train", "heldout")]
    assert [len(e.prompts) for e in everything] == [17, 17]


def test_an_appended_row_moves_at_most_one_other(tmp_path):
    splits = []
    for n in range(4, 40):
        source = write(tmp_path, [{"prompt": f"question {i}"} for i in range(n)])
        held, train = ({p.messages[0]["content"] for p in prompts(source, s, 0)} for s in ("heldout", "train"))
        assert not held & train and len(held | train) == n
        assert len(held) == max(2, round(0.2 * n))
        splits.append((held, train))
    for (held, train), (held_next, train_next) in itertools.pairwise(splits):
        assert len(held & train_next) + len(train & held_next) <= 1


@pytest.mark.parametrize(
    "n, share, message",
    [
        (3, 0.2, "3 different prompts are too few to hold some out"),
        (8, 1.0, "heldout_share = 1.0: allowed is 0 to below 1"),
        (8, -0.1, "heldout_share = -0.1: allowed is 0 to below 1"),
    ],
)
def test_a_share_that_cannot_be_held_out(tmp_path, n, share, message):
    source = write(tmp_path, [{"prompt": f"question {i}"} for i in range(n)] * 2)
    with pytest.raises(ValueError, match=re.escape(message)):
        loaded(source, "train", share=share)


@pytest.mark.parametrize("share, held", [(0.01, 2), (0.5, 3), (0.99, 4)])
def test_both_splits_of_a_small_file_have_prompts(tmp_path, share, held):
    source = write(tmp_path, [{"prompt": f"question {i}"} for i in range(5 if share != 0.5 else 6)])
    assert len(prompts(source, "heldout", 0, share=share)) == held


def test_count_is_exact_or_at_most(tmp_path):
    source = write(tmp_path, [{"prompt": f"question {i}"} for i in range(10)])
    order = [int(p.id.split(":")[1]) for p in prompts(source, "train", 5, share=0)]
    assert order == sorted(order) and len(set(order)) == 5 and order != [1, 2, 3, 4, 5]
    assert len(prompts(source, "train", 11, share=0, at_most=True)) == 10
    assert len(prompts("builtin:general", "heldout", 99_999, at_most=True)) == 112
    with pytest.raises(ValueError, match=r"x\.jsonl: 11 prompts asked for, the train split has 10"):
        prompts(source, "train", 11, share=0)


def conversations(source, count=0, share=0.0, at_most=False):
    return data.load_conversations(source, count=count, at_most=at_most, candidates=3, seed=0, heldout_share=share)


def test_every_assistant_turn_is_an_example(tmp_path):
    system = {"role": "system", "content": "Be kind."}
    source = write(
        tmp_path,
        [
            {"messages": [system, *talk("a", "b", "c", "d")]},
            {"prompt": "e", "answer": "f"},
            {"messages": talk("g", "h", "i"), "answer": "j"},
            {"messages": talk("k", "l"), "answer": "scored by this, taught by l"},
            {"prompt": "e", "answer": "another"},
            {"prompt": "e", "answer": "f"},
        ],
    )
    found = conversations(source)
    assert [(p.id, p.messages, p.answer) for p in found.prompts] == [
        ("x.jsonl:1/1", [system, *talk("a")], "b"),
        ("x.jsonl:1/2", [system, *talk("a", "b", "c")], "d"),
        ("x.jsonl:2", talk("e"), "f"),
        ("x.jsonl:3/1", talk("g"), "h"),
        ("x.jsonl:3/2", talk("g", "h", "i"), "j"),
        ("x.jsonl:4", talk("k"), "l"),
        ("x.jsonl:5", talk("e"), "another"),
    ]
    assert (found.rows, found.duplicates, found.available) == (6, 1, 7)
    assert len(conversations(source, count=3).prompts) == 3
    assert len(conversations(source, count=99, at_most=True).prompts) == 7


def test_what_is_held_out_is_not_imitated(tmp_path):
    """A conversation whose first turn is another's whole prompt gives no example of it when that is held out."""
    rows = [{"messages": talk(f"question {i}", "yes", f"and {i}?", "no")} for i in range(20)]
    rows += [{"prompt": f"question {i}", "answer": "perhaps"} for i in range(20)]
    source = write(tmp_path, rows)
    held = [p.messages for p in prompts(source, "heldout", 0, share=0.4)]
    taught = [p.messages for p in conversations(source, share=0.4).prompts]
    assert len(held) == 16 and {len(m) for m in held} == {1, 3}
    assert not [m for m in held if m in taught]
    opening = [m[:1] for m in held if len(m) == 3]  # nor are the earlier turns of a held-out conversation
    assert opening and not [
        p for p in conversations(source, share=0.4).prompts if p.messages in opening and p.answer == "yes"
    ]
    assert all(p.messages in taught for p in prompts(source, "train", 0, share=0.4))


def test_conversations_of_the_builtin_sources():
    coding = conversations("builtin:icd10", count=5)
    assert coding.prompts == prompts("builtin:icd10", "train", 5)
    with pytest.raises(ValueError, match="it has no answers to imitate; allowed are builtin:icd10, builtin:personas,"):
        conversations("builtin:general")


def test_a_row_with_nothing_to_imitate_is_named(tmp_path):
    source = write(tmp_path, [{"prompt": "a", "answer": "b"}, {"prompt": "c"}])
    with pytest.raises(ValueError, match=r"x\.jsonl:2: no assistant message and no answer"):
        conversations(source)


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
