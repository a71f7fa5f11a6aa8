"""Temperature and reliability: a known answer, SciPy's minimum, and bins filled by hand."""

import numpy as np
import pytest
from scipy import optimize

from camopd_jax.probias import calibration, scores


def drawn(seed, temperature, documents=4000, codes=5):
    """Logits that are `temperature` times too large for the truth drawn from them."""
    rng = np.random.default_rng(seed)
    logit_NC = rng.normal(-1, 2, (documents, codes))
    truth_NC = rng.uniform(size=logit_NC.shape) < 1 / (1 + np.exp(-logit_NC))
    return (logit_NC * temperature).astype(np.float32), scores.truth_csr(truth_NC)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_was_planted(temperature, monkeypatch):
    logit_NC, truth_NC = drawn(0, temperature)
    found = calibration.temperature(logit_NC, truth_NC)
    assert found == pytest.approx(temperature, rel=0.04)
    by_scipy = optimize.minimize_scalar(
        lambda t: calibration.loss(logit_NC, truth_NC, t), bounds=(0.1, 10), method="bounded", options={"xatol": 1e-9}
    )
    assert found == pytest.approx(by_scipy.x, rel=1e-5)
    monkeypatch.setattr(calibration, "BLOCK", 1000)
    assert calibration.temperature(logit_NC, truth_NC) == pytest.approx(found, rel=1e-9)


def test_the_loss_by_hand():
    """Logits 2 and 0 at temperature 2: -log sigmoid(1) for a true one, log 2 for a false one."""
    found = calibration.loss(np.array([[2.0, 0.0]]), scores.truth_csr([[1, 0]]), 2.0)
    assert found == pytest.approx((np.log(1 + np.exp(-1)) + np.log(2)) / 2)


@pytest.mark.filterwarnings("error")
def test_ends_of_the_range():
    truth = scores.truth_csr([[1, 0], [1, 0]])
    right = np.array([[3.0, -3.0], [2.0, -1.0]])
    assert calibration.temperature(right, truth) == calibration.RANGE[0]  # never wrong: the colder the better
    assert calibration.temperature(-right, truth) == calibration.RANGE[1]
    assert calibration.temperature(np.zeros((2, 2)), truth) == 1


@pytest.mark.filterwarnings("error")
def test_logits_of_probabilities():
    logit = np.array([[-80.0, -5.0, 0.0, 4.0, 10.0]])
    found = calibration.logit((1 / (1 + np.exp(-logit))).astype(np.float32))
    np.testing.assert_allclose(found, logit, atol=2e-3)
    assert np.isfinite(calibration.logit(np.array([0, 1], np.float32))).all()
    halved = calibration.tempered((1 / (1 + np.exp(-logit))).astype(np.float32), 2.0)
    np.testing.assert_allclose(halved, 1 / (1 + np.exp(-logit / 2)), atol=1e-5)


@pytest.mark.filterwarnings("error")
def test_reliability_by_hand(monkeypatch):
    """Bins [0, 0.5), [0.5, 0.75), [0.75, 1]: three pairs of which one is true, none, and two of which one is."""
    probability_NC = np.array([[0.0, 0.25], [0.5, 0.75], [1.0, 0.25]])
    probability_NC[1, 0] = 0.125
    truth_NC = scores.truth_csr([[0, 1], [0, 0], [1, 0]])
    for block in (calibration.BLOCK, 2):
        monkeypatch.setattr(calibration, "BLOCK", block)
        found = calibration.reliability(probability_NC, truth_NC, [0, 0.5, 0.75, 1])
        assert found.count_K.tolist() == [4, 0, 2]
        np.testing.assert_allclose(found.probability_K, [0.625 / 4, np.nan, 0.875])
        np.testing.assert_allclose(found.true_K, [1 / 4, np.nan, 1 / 2])
        assert found.ece() == pytest.approx((4 * (0.25 - 0.15625) + 2 * (0.875 - 0.5)) / 6)


@pytest.mark.filterwarnings("error")
def test_pairs_outside_the_bins_are_left_out():
    found = calibration.reliability(np.array([[0.05, 0.5]]), scores.truth_csr([[1, 1]]), [0.1, 0.9])
    assert found.count_K.tolist() == [1] and found.true_K.tolist() == [1]
    nothing = calibration.reliability(np.array([[0.05, 0.95]]), scores.truth_csr([[1, 1]]), [0.1, 0.9])
    assert nothing.ece() is None


def test_a_tempered_model_is_calibrated():
    logit_NC, truth_NC = drawn(1, 3.0, documents=20_000)
    edges = np.linspace(0, 1, 11)

    def ece(temperature):
        return calibration.reliability(1 / (1 + np.exp(-logit_NC / temperature)), truth_NC, edges).ece()

    assert ece(1.0) > 0.05 > 0.01 > ece(calibration.temperature(logit_NC, truth_NC))
