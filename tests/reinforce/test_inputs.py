"""The instances of a reinforcement run: wanted operations alone, nothing that trains held out, answers that fit."""

import dataclasses

import pytest
from test_rules import config

from camopd_jax.distraction import benchmark, files
from camopd_jax.reinforce import inputs


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    monkeypatch.setenv("CAMOPD_CACHE", str(tmp_path / "cache"))


def test_parts_have_the_wanted_instances_and_all_their_questions():
    read = inputs.read(config())
    assert {inputs.operation_of(q.instance) for q in read.train.questions} <= {"fact", "mentioned"}
    assert {q.instance.split for q in read.train.questions} == {"dev"}
    assert {q.instance.split for q in read.heldout.questions} == {"test"}
    assert len(read.train.questions) == 8 * 3 and len(read.heldout.questions) == 4 * 3 * 2
    assert [q.control for q in read.pairs.asked.questions] == ["distracted"] * 12
    assert len(read.short.gold) == len(read.short.bad) == len(read.short.asked.prompts) == 2 * 3
    decode = read.engine.tokenizer.decode
    for q, gold, bad in zip(read.pairs.asked.questions, read.pairs.gold, read.pairs.bad, strict=True):
        assert decode(gold[:-1]) == q.instance.gold and gold[-1] in read.engine.stop_ids
        assert decode(bad[:-1]) == q.instance.bad
    more = inputs.read(config(data__train__count=12))
    assert more.train.questions[:24] == read.train.questions
    assert more.digests() != read.digests()
    assert inputs.read(config(seed=1)).train.questions != read.train.questions


def test_a_file_of_instances_is_read_and_must_have_enough(tmp_path):
    files.write(tmp_path / "own.jsonl", benchmark.make("dev", 4, seed=5, level="short"))
    own = f"path:{tmp_path}/own.jsonl"
    read = inputs.read(config(data__train__source=own, data__train__count=4))
    assert len({q.instance.id for q in read.train.questions}) == 4
    with pytest.raises(ValueError, match=r"config.data.train.count = 5: path:.* has 4 instances"):
        inputs.read(config(data__train__source=own, data__train__count=5))


@pytest.mark.parametrize("name", ["patterns", "template", "genre"])
def test_what_trains_is_not_held_out(name):
    train, heldout = (benchmark.make(split, 1, seed=0, level="short") for split in ("dev", "test"))
    inputs.check_apart(train, heldout)
    both = dataclasses.replace(heldout[0], **{name: getattr(train[0], name)})
    with pytest.raises(ValueError, match=f"config.data.heldout.source: shares {name} with data.train.source"):
        inputs.check_apart(train, [both])


def test_a_bad_answer_that_fits_no_packed_row_is_named():
    with pytest.raises(ValueError, match=r"question test-.* has \d+ prompt tokens and up to \d+ of a given answer"):
        inputs.read(config(micro__slots=12))
