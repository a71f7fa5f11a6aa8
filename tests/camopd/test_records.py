"""Responses of a step as rows for people."""

from types import SimpleNamespace

import numpy as np
from plain import a_rollout, noise

from camopd_jax.camopd import records, system
from camopd_jax.licensed import Licence

OPEN = Licence(frozenset(), frozenset())


def test_a_row_holds_the_answer_token_by_token():
    rollout = a_rollout(prompt_lengths=(4, 2), response_lengths=(3, 5))
    student, teacher = noise(rollout, 1, 1.0, -3.0), noise(rollout, 2, 1.0, -3.0)
    sampler = student - np.log(np.array([[1, 2, 9, 1, 1], [0.1, 1, 1, 1, 1]], np.float32))
    rollout = rollout.replace(sampler_logp_BT=sampler)
    tokenizer = SimpleNamespace(decode=lambda ids, **_: "".join(f"<{i}>" for i in ids))
    engine = SimpleNamespace(tokenizer=tokenizer, ended=lambda r: np.array([False, True]))
    branch = system.Branch("law", 0, [], [], [], "absolute", 0.8, 1.0)
    answers = system.Answers(branch, ["a", "b"], rollout, student, teacher, teacher - student, np.array([0.5, 2.0]))

    first, second = records.recorder(engine, (0.5, 5.0), tokens=9, licence=OPEN)(answers, np.array([1]), 9)
    tokens = rollout.tokens_BL
    assert first["prompt"] == "".join(f"<{i}>" for i in tokens[0, :4])
    assert second["prompt"] == "".join(f"<{i}>" for i in tokens[1, 2:4])
    assert first["tokens"] == [f"<{i}>" for i in tokens[0, 4:7]]
    assert (len(first["student_logp"]), len(second["teacher_logp"])) == (3, 5)
    np.testing.assert_allclose(second["teacher_logp"], teacher[1], atol=1e-4)
    np.testing.assert_allclose(first["weight"], [1, 2, 0], rtol=1e-3)  # 9 is outside the band
    np.testing.assert_allclose(second["weight"], [0, 1, 1, 1, 1], rtol=1e-3)
    assert [(r["id"], r["branch"], r["score"], r["selected"], r["ended"]) for r in (first, second)] == [
        ("a", "law", 0.5, False, False),
        ("b", "law", 2.0, True, True),
    ]
    assert len(records.recorder(engine, (0.5, 5.0), tokens=9, licence=OPEN)(answers, np.array([1]), 1)) == 1
    short = records.recorder(engine, None, tokens=2, licence=OPEN)(answers, np.array([1]), 9)
    assert [r["tokens"] for r in short] == [first["tokens"][:2], second["tokens"][:2]]
    assert [r["weight"] for r in short] == [[1.0, 1.0]] * 2  # a method without importance weights


def test_quotas_spread_what_is_kept_over_steps_and_branches():
    assert [records.quotas(10, 4, step, 1) for step in range(4)] == [[2], [3], [2], [3]]
    assert [records.quotas(5, 2, step, 2) for step in range(2)] == [[1, 1], [2, 1]]
    assert sum(sum(records.quotas(500, 120, step, 2)) for step in range(120)) == 500
    assert records.quotas(0, 4, 2, 2) == [0, 0]
