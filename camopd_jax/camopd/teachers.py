"""Frozen teachers, of which one at a time is on the devices."""

from collections.abc import Mapping

import numpy as np

from camopd_jax import sharding
from camopd_jax.engine import Engine, Policy
from camopd_jax.types import Params, Rollout

IDLE = ("host", "reread")  # where a teacher is while another one is on the devices


class Teachers:
    """Frozen teachers, of which one at a time is on the devices.

    The others are in host memory, from where the next one comes while the devices compute, or are read from their
    sources again. A teacher that the run holds on the devices anyway (`Policy.held`) is not copied to the host.
    """

    def __init__(self, policies: Mapping[str, Policy], idle: str):
        """
        Args:
          idle: one of IDLE. In host memory every teacher has a copy of its weights, once it has been used.
        """
        self._policies = policies
        self._parks = idle == "host" and len(policies) > 1
        self._parked: dict[str, Params] = {}
        self._name, self._placed = None, None

    def placed(self, name: str) -> tuple[Engine, Params]:
        """A teacher's engine and weights; those of another one are let go first."""
        policy = self._policies[name]
        if name != self._name:
            self._name, self._placed = None, None
            self._placed = sharding.on_devices(self._parked[name]) if name in self._parked else policy.place()
            self._name = name
            if self._parks and not policy.held and name not in self._parked:
                self._parked[name] = sharding.on_host(self._placed)
        return policy.engine, self._placed

    def prefetch(self, name: str) -> None:
        """Let go of the teacher on the devices and start to bring another one from host memory, if it is there.

        To be called when the one on the devices is not needed any more; returns before the weights have come.
        """
        if name in self._parked:
            self.placed(name)

    def score(self, name: str, rollout: Rollout) -> np.ndarray:
        """log-probabilities [B, T] of a rollout under a teacher."""
        engine, params = self.placed(name)
        return engine.score(params, rollout)
