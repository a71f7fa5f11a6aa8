"""Tests of measures and their intervals: hand-worked numbers, closed forms and a plain bootstrap."""

from types import SimpleNamespace

import numpy as np
import pytest

from camopd_jax.data import Prompt
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


def test_prompts_without_checks_are_scored_by_their_answer():
    short = [{"kind": "max_words", "n": 2}]
    ask = [{"role": "user", "content": "Capital?"}]
    prompts = [Prompt("a", ask, "Paris.", short), Prompt("b", ask, "Paris."), Prompt("c", ask, "", short)]
    scored = suite.with_checks(prompts)
    assert [p.checks for p in scored] == [short, [{"kind": "answer", "text": "Paris."}], short]
    assert [(p.id, p.messages, p.answer) for p in scored] == [(p.id, p.messages, p.answer) for p in prompts]
    with pytest.raises(ValueError, match="prompt d: neither answer nor checks"):
        suite.with_checks([Prompt("d", ask)])
    with pytest.raises(ValueError, match="prompt e: check kind 'rhymes' is unknown"):
        suite.with_checks([Prompt("e", ask, checks=[{"kind": "rhymes"}])])


def test_instructions_and_domain_are_scored_by_each_prompts_own_checks():
    def task(*prompts):
        return suite.Task(list(prompts), [np.array([len(p.id)], np.int32) for p in prompts], 1, 1)

    def sample(params, encoded, key, **shape):
        n = len(encoded)
        return Rollout(np.ones((n, 2), int), np.ones((n, 1), bool), np.ones((n, 1), bool), np.zeros((n, 1)))

    code, short = {"kind": "icd10_code", "code": "E11.9"}, {"kind": "max_words", "n": 2}
    says = '"a" matches b: E11.9.'
    engine = SimpleNamespace(
        sample=sample,
        texts=lambda rollout: [says] * len(rollout.tokens_BL),
        ended=lambda rollout: np.ones(len(rollout.tokens_BL), bool),
        numerics=SimpleNamespace(temperature=1.0),
    )
    found = suite.Suite(
        engine,
        general=task(Prompt("g", [])),
        instructions=task(Prompt("i", [], checks=[short]), Prompt("j", [], checks=[{"kind": "quoted"}])),
        domain=task(*suite.with_checks([Prompt("c", [], checks=[code]), Prompt("d", [], says), Prompt("e", [], "no")])),
        batch_size=1,
        seed=0,
    )
    reference = sample(None, [0], None), np.zeros((1, 1))
    measures = found.run(dict, dict, reference, is_general=True)
    assert measures["instructions"].numerator.tolist() == [0.0, 1.0]
    assert measures["domain"].numerator.tolist() == [1.0, 1.0, 0.0]


def test_rows_of_the_log():
    rows = suite.rows("student", 24, {"domain": mean_of([1.0, 0.0, 1.0, 1.0])})
    assert rows == [
        {
            "step": 24,
            "model": "student",
            "task": "icd10",
            "metric": "exact_match",
            "value": 0.75,
            "n": 4,
            "stderr": 0.25,
        }
    ]
