"""What an answer is worth, and what a user's own reward may give."""

import math

import numpy as np
import pytest

from camopd_jax.distraction import benchmark, rewards
from camopd_jax.distraction.instance import obeying
from camopd_jax.distraction.questions import Question

X = benchmark.make("dev", 1, seed=3, level="short")[0]


@pytest.mark.parametrize(
    "control, answer, conjunctive, mean",
    [
        ("distracted", X.gold, 1, 1),
        ("distracted", obeying(X, [1]), 0, 4 / 5),
        ("distracted", X.bad, 0, 2 / 5),
        ("distracted", "", 0, 0),
        ("clean", X.gold, 1, 1),
        ("clean", X.bad, 1, 1),  # nobody asked for it there, and nobody forbade it
        ("legitimate-1", obeying(X, [0]), 1, 1),
        ("legitimate-1", X.gold, 0, 1 / 2),
    ],
)
def test_each_control_has_its_own_worth(control, answer, conjunctive, mean):
    question = Question(X, "multi", control)
    assert rewards.conjunctive(question, answer) == conjunctive
    assert rewards.mean(question, answer) == pytest.approx(mean)


def test_a_function_of_the_users_own(tmp_path):
    (tmp_path / "own.py").write_text(
        "def short(question, answer):\n    return float('nan') if answer == '?' else -len(answer)\n"
    )
    reward = rewards.load(f"{tmp_path}/own.py:short")
    question = Question(X, "single", "distracted")
    np.testing.assert_array_equal(rewards.of(reward, [question] * 3, ["a", "?", "abc"]), [-1, math.nan, -3])


@pytest.mark.parametrize("value", [math.inf, None, "much", [1, 2]])
def test_what_is_no_number_names_the_question(value):
    with pytest.raises(ValueError, match=rf"an answer to {X.id}/single/clean is .*: allowed are numbers"):
        rewards.of(lambda question, answer: value, [Question(X, "single", "clean")], ["a"])


@pytest.mark.parametrize(
    "body, name, says",
    [
        ("", "own.py:short", "has no function short"),
        ("raise RuntimeError('odd')", "own.py:short", r"cannot be run \(RuntimeError: odd\)"),
        (None, "own.py:short", "there is no file"),
        ("", "own.py", "allowed is 'conjunctive' or 'mean', or 'FILE.py:FUNCTION'"),
        ("", "best", "allowed is 'conjunctive'"),
    ],
)
def test_a_reward_that_cannot_be_had_is_one_line(body, name, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if body is not None:
        (tmp_path / "own.py").write_text(body)
    with pytest.raises(ValueError, match=f"^config.grpo.reward = '{name}': .*{says}") as error:
        rewards.load(name)
    assert "\n" not in str(error.value)
