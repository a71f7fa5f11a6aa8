"""builtin:personas: splits that share nothing, answers that pass, and wrong ones that fail by their own criterion."""

import re

import pytest

from camopd_jax import data, personas
from camopd_jax.evals import checks

DIALOGUES = {split: personas.make_dialogues(split, 300, seed=3) for split in personas.SPLITS}
POOLS = ("names", "trades", "places", "gestures", "sayings", "titles", "temptations")
BOTH = [(split, i) for split in personas.SPLITS for i in range(0, 300, 7)]
CRITERIA = ("in character", "form", "facts")


def criteria(text, dialogue):
    """Whether each criterion holds."""
    parts = {c: [check for check in dialogue.checks if check["criterion"] == c] for c in CRITERIA}
    assert all(parts.values()) and sum(map(len, parts.values())) == len(dialogue.checks)
    return {c: checks.passes(text, some) for c, some in parts.items()}


def failed(text, dialogue):
    return [c for c, holds in criteria(text, dialogue).items() if not holds]


def opening(dialogue):
    return next(c["opening"] for c in dialogue.checks if c["kind"] == "begins")


def ending(dialogue):
    return next(c["suffix"] for c in dialogue.checks if c["kind"] == "ends_with")


def values(dialogue):
    """The value that is asked for, and those of the other facts."""
    (asked,) = next(c["words"] for c in dialogue.checks if c["kind"] == "mentions_all")
    return asked, next(c["words"] for c in dialogue.checks[::-1] if c["kind"] == "avoids")


def test_dialogues_are_drawn_deterministically():
    again = personas.make_dialogues("train", 300, seed=3)
    assert again == DIALOGUES["train"]
    assert personas.make_dialogues("train", 300, seed=4) != again
    assert personas.make_dialogues("train", 10, seed=3) == again[:10]
    assert len({data.content_hash(d.messages) for ds in DIALOGUES.values() for d in ds}) == 600


def test_the_splits_share_no_part():
    train, heldout = ({what: personas.pool(split, what) for what in POOLS} for split in personas.SPLITS)
    for split in (train, heldout):
        split["smalltalk"] = [text for talk in personas.pool("train" if split is train else "heldout", "smalltalk")
                              for text in talk]  # fmt: skip
    facts = [personas.facts_of(split) for split in personas.SPLITS]
    for split, of in zip((train, heldout), facts, strict=True):
        split["questions"] = [q for fact in of for q in fact.questions]
        split["values"] = [v for fact in of for v in fact.values]
    for what in train:
        low = [{text.lower() for text in split[what]} for split in (train, heldout)]
        assert len(low[1]) >= 3 and not low[0] & low[1], what
        assert all(len(split[what]) == len(set(split[what])) for split in (train, heldout)), what
    ours = {word for name in heldout["names"] for word in name.split()}
    assert not ours & {word for name in train["names"] for word in name.split()}
    assert [(f.stated, f.said) for f in facts[0]] == [(f.stated, f.said) for f in facts[1]]


@pytest.mark.parametrize("split", personas.SPLITS)
def test_no_part_decides_a_criterion_that_it_is_not_about(split):
    facts, around = personas.facts_of(split), [t for what in POOLS[3:6] for t in personas.pool(split, what)]
    for fact in facts:
        assert not [text for text in around for value in fact.values if checks.mentions_any(text, [value])]
        others = [v for other in facts if other is not fact for v in other.values]
        said = [fact.said.format(value=value) for value in fact.values]
        assert not [text for text in said if checks.mentions_any(text, others)]
        assert all(checks.mentions_any(fact.said, list(personas.FIRST_PERSON)) for _ in said)
    assert not [text for text in around if checks.mentions_any(text, list(personas.FIRST_PERSON))]
    around += [fact.said for fact in facts] + [v for fact in facts for v in fact.values]
    assert not [text for text in around if checks.mentions_any(text, list(personas.OUT_OF_ROLE))]


@pytest.mark.parametrize("split", personas.SPLITS)
def test_a_dialogue_uses_the_parts_of_its_split_alone(split):
    other = "heldout" if split == "train" else "train"
    theirs = [text for what in ("names", "gestures", "sayings", "temptations") for text in personas.pool(other, what)]
    theirs += [q for fact in personas.facts_of(other) for q in fact.questions]
    used = "\n".join(m["content"] for d in DIALOGUES[split] for m in d.messages)
    assert not [text for text in theirs if text in used]
    for what in POOLS:
        assert all(text in used for text in personas.pool(split, what)), what
    assert all(q in used for fact in personas.facts_of(split) for q in fact.questions)


@pytest.mark.parametrize("split", personas.SPLITS)
def test_the_card_states_what_is_asked_and_not_the_reply(split):
    for dialogue in DIALOGUES[split]:
        system, *talk = dialogue.messages
        asked, others = values(dialogue)
        assert all(value in system["content"] for value in (asked, *others))
        assert len({asked, *others}) == personas.FACTS
        assert [m["role"] for m in talk] == ["user", "assistant"] * (len(talk) // 2) + ["user"]
        assert all(m["content"].startswith(opening(dialogue)) for m in talk if m["role"] == "assistant")
        assert dialogue.answer not in "\n".join(m["content"] for m in dialogue.messages)
    assert 0.5 < sum(len(d.messages) == 4 for d in DIALOGUES[split]) / 300 < 0.7
    tempted = sum(any(d.messages[-1]["content"].startswith(t) for t in personas.pool(split, "temptations"))
                  for d in DIALOGUES[split])  # fmt: skip
    assert 0.15 < tempted / 300 < 0.35


@pytest.mark.parametrize("split", personas.SPLITS)
def test_the_reference_answers_pass_and_those_of_others_do_not(split):
    for dialogue in DIALOGUES[split]:
        assert failed(dialogue.answer, dialogue) == []
    some = DIALOGUES[split][:60]
    others = [(d, e) for d in some for e in some if d.answer != e.answer]
    assert not any(checks.passes(d.answer, e.checks) for d, e in others)


@pytest.mark.parametrize(("split", "i"), BOTH)
def test_each_violation_fails_its_own_criterion_alone(split, i):
    dialogue = DIALOGUES[split][i]
    answer, (asked, others) = dialogue.answer, values(dialogue)
    first, last = opening(dialogue), ending(dialogue)
    bare = answer.removeprefix(first).strip()
    violations = {
        "in character": [
            re.sub(r"\bI am\b", "you are", re.sub(r"\bI\b(?! am)", "you", re.sub(r"\b[Mm][ye]\b", "your", answer))),
            answer.replace(first, f"{first} As an AI,"),
        ],
        "form": [
            bare,  # no gesture
            f"{first[1:-1]} {bare}",  # without its marks
            f"<{first[1:-1]}> {bare}",
            f"*waits* {bare}",  # another one's
            f"{bare} {first}",  # behind
            answer.replace(last, "").rstrip(" ,.") + ".",  # no ending
            answer.replace(first, f"{first} Well now."),  # a sentence more
            f"{answer} Come again.",
        ],
        "facts": [answer.replace(asked, "nothing"), answer.replace(asked, others[0]),
                  answer.replace(asked, f"{asked} and {others[1]}")],
    }  # fmt: skip
    for criterion, texts in violations.items():
        for text in texts:
            assert failed(text, dialogue) == [criterion], text


@pytest.mark.parametrize(("split", "i"), BOTH)
def test_degenerate_answers_fail(split, i):
    dialogue = DIALOGUES[split][i]
    system, *talk = [m["content"] for m in dialogue.messages]
    asked, _ = values(dialogue)
    first, last = opening(dialogue), ending(dialogue)
    texts = ["", "...", system, f"{first} {system}", f"{first} {system} {last}", *talk, first, last, asked,
             f"{first} {last}", f"{first} {asked}", f"{dialogue.answer} {dialogue.answer}"]  # fmt: skip
    assert not [text for text in texts if checks.passes(text, dialogue.checks)]


@pytest.mark.parametrize(
    "what, split, count",
    [("split 'test': allowed are 'train'", "test", 1), ("count = 0: builtin:personas makes", "train", 0)],
)
def test_what_cannot_be_drawn_is_named(what, split, count):
    with pytest.raises(ValueError, match=what):
        personas.make_dialogues(split, count, seed=0)


def test_the_source_gives_dialogues_with_their_checks():
    source, common = "builtin:personas", {"count": 5, "at_most": True, "candidates": 3, "seed": 1, "heldout_share": 0.2}
    found = data.load_prompts(source, "train", **common)
    assert [p.id for p in found.prompts] == [f"personas-train-{i}" for i in range(5)]
    assert [(p.messages, p.answer, p.checks) for p in found.prompts] == [
        (d.messages, d.answer, d.checks) for d in personas.make_dialogues("train", 5, 1)
    ]
    assert data.load_conversations(source, **common).prompts == found.prompts
