"""Tests of measures and their intervals: hand-worked numbers, closed forms and a plain bootstrap."""

import numpy as np
import pytest

from camopd_jax.data import Prompt
from camopd_jax.engine import Policy
from camopd_jax.evals import suite
from camopd_jax.evals.suite import Measure, mean_of, ratio_interval
from camopd_jax.types import Rollout


def test_measure_by_hand():
    # 6 / 5; residuals -1.4, 0.8, 0.6 with squares 2.96; sqrt(3/2 * 2.96) / 5.
    measure = Measure(np.array([1.0, 2.0, 3.0]), np.array([2.0, 1.0, 2.0]))
    assert measure.value() == pytest.approx(1.2)
    assert measure.stderr() == pytest.approx(0.4214262)


def test_the_error_of_a_mean_is_the_textbook_one():
    measure = mean_of([True, False, True, True])
    assert measure.value() == 0.75
    assert measure.stderr() == pytest.approx(np.std([1, 0, 1, 1], ddof=1) / 2)


def test_stderr_agrees_with_a_bootstrap():
    rng = np.random.default_rng(0)
    tokens = rng.integers(20, 80, size=300).astype(float)
    measure = Measure(tokens * rng.normal(2.0, 1.0, size=300), tokens)
    values = []
    for _ in range(3000):
        items = rng.integers(300, size=300)
        values.append(sum(measure.numerator[items]) / sum(measure.denominator[items]))
    assert measure.stderr() == pytest.approx(np.std(values), rel=0.06)


def test_resampled_by_hand():
    measure = Measure(np.array([1.0, 2.0, 3.0]), np.array([2.0, 1.0, 2.0]))
    np.testing.assert_allclose(measure.resampled(np.array([[0, 0, 0], [1, 1, 2]])), [0.5, 7 / 4])


def _models(n=60):
    rng = np.random.default_rng(2)
    tokens = rng.integers(5, 40, size=n).astype(float)
    start = rng.normal(2.0, 3.0, size=n) * tokens
    return tokens, start, start + rng.normal(-1.0, 0.5, size=n) * tokens


def test_items_are_resampled_jointly():
    # Each item recovers exactly a quarter of its own distance: so does every resampling, however noisy the items.
    tokens, start, teacher = _models()
    after = start + 0.25 * (teacher - start)
    got = ratio_interval(*(Measure(x, tokens) for x in (after, start, teacher)))
    np.testing.assert_allclose(got, [0.25, 0.25, 0.25], rtol=1e-9)
    got = ratio_interval(Measure(3 * tokens, tokens), Measure(2 * tokens, tokens), None)
    np.testing.assert_allclose(got, [1.5, 1.5, 1.5], rtol=1e-9)


def test_interval_of_a_proportion():
    # 50 of 100 against a constant 1: the resampled sum is binomial, whose 2.5 % and 97.5 % points are 40 and 60.
    value, low, high = ratio_interval(mean_of([1.0, 0.0] * 50), mean_of([1.0] * 100), None)
    assert value == 0.5
    assert low == pytest.approx(0.40, abs=0.011)
    assert high == pytest.approx(0.60, abs=0.011)


def test_recovery_interval_agrees_with_a_plain_bootstrap():
    tokens, start, teacher = _models()
    after = start + np.random.default_rng(3).normal(0.5, 0.4, size=60) * (teacher - start)
    value, low, high = ratio_interval(*(Measure(x, tokens) for x in (after, start, teacher)))
    assert value == pytest.approx((after.sum() - start.sum()) / (teacher.sum() - start.sum()))
    rng, ratios = np.random.default_rng(4), []
    for _ in range(2000):
        i = rng.integers(60, size=60)
        a, s, t = (x[i].sum() / tokens[i].sum() for x in (after, start, teacher))
        ratios.append((a - s) / (t - s))
    assert low == pytest.approx(np.quantile(ratios, 0.025), abs=0.02)
    assert high == pytest.approx(np.quantile(ratios, 0.975), abs=0.02)
    assert low < value < high


def test_no_recovery_is_zero_and_full_recovery_is_one():
    tokens, start, teacher = _models()
    start, teacher = Measure(start, tokens), Measure(teacher, tokens)
    assert ratio_interval(start, start, teacher) == (0.0, 0.0, 0.0)
    assert ratio_interval(teacher, start, teacher) == (1.0, 1.0, 1.0)


def test_undefined_where_the_denominator_may_be_zero():
    start, after = mean_of([0.0, 1.0] * 20), mean_of([1.0] * 40)
    assert ratio_interval(after, start, start) is None  # teacher and start are equal
    assert ratio_interval(after, start, mean_of([1.0, 0.0] * 20)) is None  # equal on average
    assert ratio_interval(after, mean_of([0.0] * 40), None) is None
    assert ratio_interval(after, mean_of([0.0] * 39 + [1.0]), None) is None  # one item carries it all
    assert ratio_interval(after, start, mean_of([1.0] * 40)) is not None


class FakeEngine:
    """Answers everything with one text of two tokens, whose log-probabilities are the parameters."""

    def sample(self, params, encoded, key, **shape):
        n = len(encoded)
        return Rollout(np.ones((n, 3), int), np.ones((n, 1), bool), np.ones((n, 2), bool), np.zeros((n, 2)))

    def score(self, params, rollout):
        return np.full(rollout.response_mask_BT.shape, params)

    def texts(self, rollout):
        return ['"a" matches b: E11.9.'] * len(rollout.tokens_BL)

    def ended(self, rollout):
        return np.ones(len(rollout.tokens_BL), bool)


def test_checked_domains_are_scored_by_their_checks_and_others_by_the_distance_to_their_teacher():
    def task(*prompts, source="path:x.jsonl"):
        return suite.Task(source, list(prompts), [np.ones(1, np.int32) for _ in prompts], 1)

    code, short = {"kind": "icd10_code", "code": "E11.9"}, {"kind": "max_words", "n": 2}
    form, other, wrong = {"criterion": "form"}, {"criterion": "other"}, code | {"code": "E12"}
    found = suite.Suite(
        general=task(Prompt("g", []), Prompt("h", [])),
        instructions=task(Prompt("i", [], checks=[short]), Prompt("j", [], checks=[{"kind": "quoted"}])),
        domains={
            "codes": task(
                Prompt("c", [], checks=[code]),
                Prompt("d", [], checks=[code | {"code": "E12"}]),
                source="builtin:icd10",
            ),
            "roles": task(
                Prompt("k", [], checks=[code | {"criterion": "facts"}, {"kind": "min_words", "n": 9} | form]),
                Prompt("l", [], checks=[form | {"kind": "quoted"}, wrong | {"criterion": "facts"}, short | other]),
            ),
            "law": task(Prompt("e", []), Prompt("f", [], checks=[short])),
        },
        batch_size=1,
        seed=0,
        temperature=1.0,
    )
    teachers = {name: Policy(FakeEngine(), lambda x=x: x) for name, x in [("general", -3.0), ("law", -1.5)]}
    reference = found.reference(teachers["general"])
    measures, answers = found.run(Policy(FakeEngine(), lambda: -1.0), teachers, reference, is_general=False)
    assert {task: len(texts) for task, texts in answers.items()} == {"instructions": 2, "codes": 2, "roles": 2}
    assert measures["instructions"].numerator.tolist() == [0.0, 1.0]
    assert measures["codes"].numerator.tolist() == [1.0, 0.0]
    by_criterion = {name: m.numerator.tolist() for name, m in measures.items() if name.startswith("roles")}
    assert by_criterion == {"roles": [0.0, 0.0], "roles facts": [1.0, 0.0], "roles form": [0.0, 1.0]}
    assert {k: measures[k].value() for k in ("reverse_kl", "forward_kl", "law", "length", "eos_rate")} == {
        "reverse_kl": 2.0,
        "forward_kl": -2.0,
        "law": 0.5,
        "length": 2.0,
        "eos_rate": 1.0,
    }
    assert {line.measure for line in found.lines()} == set(measures)
    shown = {line.measure: (line.task, line.metric) for line in found.lines()}
    assert (shown["codes"], shown["law"]) == (("codes", "exact_match"), ("law", "reverse_kl"))
    assert (shown["roles"], shown["roles form"]) == (("roles", "pass_rate"), ("roles", "form_pass_rate"))
    labels = {line.measure: line.label for line in found.lines()}
    assert (labels["codes"], labels["roles form"]) == (
        "codes: ICD-10 coding, exact match", "roles: prompts, form, pass rate"
    )  # fmt: skip


def test_a_row_of_the_log():
    row = mean_of([1.0, 0.0, 1.0, 1.0]).row("student", 24, "icd10", "exact_match")
    assert row == {
        "step": 24,
        "model": "student",
        "task": "icd10",
        "metric": "exact_match",
        "value": 0.75,
        "n": 4,
        "stderr": 0.25,
    }
