"""The config of a reinforcement run: its presets are allowed, and each mistake is one line that names its key."""

import runpy
from pathlib import Path

import pytest

from camopd_jax import workdirs
from camopd_jax.reinforce import rules

CONFIG = Path(__file__).parents[2] / "configs" / "distraction.py"


def config(preset="tiny", **changes):
    made = runpy.run_path(str(CONFIG))["get_config"](preset).unlock()
    made.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return made


@pytest.mark.parametrize("preset", ["small", "tiny", "paper"])
def test_presets_are_allowed_every_key_is_known_and_none_is_doubted(preset):
    c = config(preset)
    assert rules.check_config(c) == len(list(workdirs.flat(c.to_dict())))
    assert rules.doubts(c) == []


@pytest.mark.parametrize(
    "change, says",
    [
        ({"grpo__variant": "ppo"}, r"config.grpo.variant = 'ppo': allowed are 'grpo', 'dr_grpo', 'dapo'"),
        ({"grpo__group_size": 1}, r"config.grpo.group_size = 1: allowed is a whole number, 2 or more"),
        ({"grpo__loss_kl": "k1"}, r"config.grpo.loss_kl = 'k1': 'k1' is no KL loss: the gradient"),
        ({"grpo__loss_kl": "none"}, r"config.grpo.loss_kl_weight = 0.01: with loss_kl = 'none' allowed is 0"),
        ({"grpo__reward": "best"}, r"config.grpo.reward = 'best': allowed is 'conjunctive' or 'mean'"),
        ({"grpo__clip": (0.0, 0.2)}, r"config.grpo.clip = \(0.0, 0.2\): allowed is \(below, above\)"),
        ({"data__operations": ("facts",)}, r"config.data.operations = \('facts',\): allowed is a tuple out of"),
        ({"data__level": "long"}, r"config.data.level = 'long': allowed is 'short' or 'full'"),
        ({"data__train__source": "builtin:icd10"}, r"config.data.train.source = 'builtin:icd10': allowed is"),
        ({"data__train__controls": ()}, r"config.data.train.controls = \(\): allowed is a non-empty tuple"),
        ({"data__heldout__controls": ("distracted",)}, r"'clean' must be among them"),
        ({"data__heldout__count": 1}, r"config.data.heldout.count = 1: allowed is a whole number, 2 or more"),
        ({"student": "general"}, r"config.student = 'general': allowed is 'reference'"),
        ({"micro__width": 1000}, r"config.micro.width = 1000: a packed row must hold"),
        ({"grpo__colour": 1}, r"config.grpo.colour: there is no such key"),
        ({"grpo__epoch": 2}, r"config.grpo.epoch: there is no such key; did you mean config.grpo.epochs\?"),
    ],
)
def test_a_mistake_is_one_line(change, says):
    with pytest.raises(ValueError, match=says) as error:
        rules.check_config(config(**change))
    assert "\n" not in str(error.value)


def test_without_a_reference_there_is_no_run():
    c = config()
    del c.teachers.reference
    with pytest.raises(ValueError, match=r"config.teachers.reference is missing"):
        rules.check_config(c)


@pytest.mark.parametrize(
    "change, doubt",
    [
        ({"grpo__shuffle_rewards": True}, "a control, in which nothing can be learnt"),
        ({"grpo__redraws": 2}, "draws no group again"),
        ({"grpo__clip": (0.2, 0.28)}, r"'dr_grpo' is published with (0.2, 0.2)"),
        ({"grpo__variant": "dapo", "grpo__redraws": 2}, "'dapo' is published with (0.2, 0.28)"),
        ({"optim__warmup_steps": 5}, "is not reached in 4 updates"),
        ({"eval__every": 0}, "no step is kept for being the best"),
    ],
)
def test_what_is_rarely_meant_is_told(change, doubt):
    (told,) = rules.doubts(config(**change))
    assert doubt in told
