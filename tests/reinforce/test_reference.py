"""The reference of the KL: the base without its adapter, or a frozen copy, and never the policy that trains."""

import jax
import numpy as np
import pytest
from test_rules import config

from camopd_jax import data
from camopd_jax.reinforce import inputs, run
from camopd_jax.student import Student


@pytest.mark.parametrize("rank", [0, 4])
def test_the_reference_is_the_start_whatever_the_student_has_become(rank, tmp_path, monkeypatch):
    monkeypatch.setenv("CAMOPD_CACHE", str(tmp_path / "cache"))
    read = inputs.read(config(lora__rank=rank))
    engine, student = read.engine, Student(read.engine, read.base)
    prompts, answers = read.pairs.asked.prompts[:4], read.pairs.bad[:4]
    rollout = data.given_responses(prompts, answers, engine.tokenizer.pad_token_id)

    start = student.fresh(0)
    expected = engine.score(student.whole(start), rollout, shared=True)
    rng = np.random.default_rng(0)
    trained = jax.tree.map(lambda x: x + 0.3 * rng.normal(size=x.shape).astype(x.dtype), start)
    theirs = engine.score(student.whole(trained), rollout, shared=True)
    assert np.abs(theirs - expected).max() > 0.1, "the student has moved"

    reference = run._reference(read, student)
    for _ in range(2):
        np.testing.assert_allclose(reference(rollout), expected, atol=1e-5)
    leaves = jax.tree.leaves(start)
    assert len(leaves) < len(jax.tree.leaves(student.whole(start))) if rank else student.whole(start) is start
