"""The prompts of a run: what is held out trains nowhere, and what cannot be used is said in one line."""

import json
import runpy
from pathlib import Path

import jax
import pytest

from camopd_jax import data, inputs, prompts, rules

CONFIG = Path(__file__).parents[1] / "configs" / "medical.py"


def write(path, texts):
    path.write_text("".join(json.dumps({"prompt": t, "answer": f"about {t}"}) + "\n" for t in texts))
    return f"path:{path}"


def config(**changes):
    """The tiny preset with some values changed; __ stands for a dot."""
    c = runpy.run_path(str(CONFIG))["get_config"]("tiny")
    c.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    c.rollout.batch_size = c.rollout.rows_at_once = 8
    return c


def contents(loaded):
    return {data.content_hash(p.messages) for p in loaded.prompts}


def assert_nothing_leaks(loaded):
    held = set()
    for part in (*loaded.heldout.values(), loaded.general, loaded.instructions, *loaded.domains.values()):
        held |= contents(part)
    for part in (*loaded.train.values(), *([loaded.examples] if loaded.examples else [])):
        assert part.prompts and not contents(part) & held
    return held


def test_no_prompt_that_is_evaluated_trains_whatever_the_sources(tmp_path):
    a = write(tmp_path / "a.jsonl", [f"question {i}" for i in range(40)])
    other = write(tmp_path / "b.jsonl", [f"question {i}" for i in range(20, 60)])
    same = {"data__domain__source": a, "data__domain__count": 0}
    for changes, kept_out in [
        (same, False),
        (same | {"specialise__source": a}, True),  # named, it is no less the same file
        (same | {"specialise__source": other}, True),
        (same | {"data__domain__heldout": other}, True),
        ({"data__general__source": a, "data__domain__source": other, "data__domain__count": 0}, True),
        ({"data__general__heldout": "builtin:icd10"}, False),
    ]:
        c = config(**changes)
        rules.check_config(c)
        loaded = prompts.load(c, rules.branches(c))
        assert_nothing_leaks(loaded)
        left_out = [*(x.kept_out for x in loaded.train.values()), loaded.examples.kept_out]
        assert (max(left_out) > 0) == kept_out, changes


def test_a_held_out_source_gives_its_held_out_split():
    c = config(data__general__heldout="builtin:icd10")
    assert {p.id[:13] for p in prompts.load(c, rules.branches(c)).general.prompts} == {"icd10-heldout"}


def test_what_was_left_out_is_told(tmp_path):
    a = write(tmp_path / "a.jsonl", [f"question {i}" for i in range(40)])
    c = config(data__domain__source=a, data__domain__count=0, specialise__source=a, mesh__replica=8)
    assert jax.device_count() == 8
    read = inputs.read(c)
    (line,) = [s.describe(key) for key, s in read.statistics if key == "specialise"]
    assert "8 left out, as they are held-out prompts elsewhere" in line
    assert len(read.examples.prompts) == 32


@pytest.mark.parametrize(
    "changes, says",
    [
        (
            lambda d: {"data__domain__heldout": write(d / "x.jsonl", ["a"])},
            "1 held-out prompts; 2 or more are needed",
        ),
        (
            lambda d: {"data__domain__source": write(d / "x.jsonl", "abcdefgh"), "data__domain__count": 7},
            "config.data.domain.count = 7",
        ),
        (lambda d: {"chat__thinking": "off"}, "no enable_thinking"),
        (lambda d: {"data__domain__heldout": "builtin:icd10"}, "the source of its training prompts too"),
        (lambda d: {"teachers__domain": "random:llama:1", "specialise__source": "path:x"}, "no teacher is made"),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path, changes, says):
    c = config(**changes(tmp_path))
    with pytest.raises(ValueError, match=says) as error:
        rules.check_config(c)
        inputs.read(c)
    assert "\n" not in str(error.value)


def test_digests_follow_the_tokens_of_the_training_prompts(tmp_path):
    a = write(tmp_path / "a.jsonl", [f"question {i}" for i in range(40)])

    def digests(**changes):
        return inputs.read(config(data__domain__source=a, data__domain__count=0, **changes)).digests()

    before = digests()
    assert digests() == before
    other = digests(chat__system="Be brief.")
    assert other["general"] != before["general"] and other["domain"] != before["domain"]
    write(tmp_path / "a.jsonl", [f"question {i}" for i in range(41)])
    after = digests()
    assert after["general"] == before["general"] and after["domain"] != before["domain"]
    assert set(before) == {"general", "domain"}
