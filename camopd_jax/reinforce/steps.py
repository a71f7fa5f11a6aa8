"""The update of a reinforcement run."""

from camopd_jax.distraction import grpo
from camopd_jax.step import Steps, make_optimizer
from camopd_jax.student import Student, steps_of


def steps_of_run(config, student: Student) -> Steps:
    """The jitted pieces of the update; the proofs of the start have the same."""
    g = config.grpo
    objective = grpo.objective(tuple(g.clip), g.loss_kl, g.loss_kl_weight)
    optimizer = make_optimizer(**config.optim, decay_steps=0)
    return steps_of(config, student, objective, optimizer, config.rollout.temperature, grpo.score)
