"""What the figures of the self-tests must be, and how they are said."""

import math
from dataclasses import dataclass

import jax
import numpy as np

from camopd_jax import agreement
from camopd_jax.agreement import Allowed
from camopd_jax.shown import WARNING


@dataclass(frozen=True)
class Bounds:
    """What rounding may do.

    On 2 CPU cores, SmolLM2-135M (the small preset), 49 tokens at temperature 1, all weights trained, it does: a gap
    and a gradient of 0; between sampler and scores or training 4e-6 nats a token on average and 1.7e-5 at most in
    float32, 0.025 and 0.12 in bfloat16. Other devices round otherwise, and may compile the student, whose weights are
    float32, to another program than a teacher of bfloat16; hence the room above these figures.
    """

    gap: float  # nats, of any token, to a teacher that is the student
    still: float  # of the gradient that another teacher gives: what is left where nothing may be
    sampled: Allowed  # scores and training against the sampler


BOUNDS = {
    "float32": Bounds(gap=1e-4, still=1e-3, sampled=Allowed(mean=1e-3, most=1e-2, warmer=0.01)),
    "bfloat16": Bounds(gap=0.1, still=0.05, sampled=Allowed(mean=0.1, most=1.0, warmer=0.05)),
}
OWN = 0.1  # of the gap to a branch's own teacher: the gap to another branch's differs by half of it


def judge(found: dict, precision: str, temperature: float) -> list[str]:
    """What `figures` says, in words, a line a test; those that could not be made are warnings.

    Raises:
      ValueError: if a test is failed, with what that means.
    """
    tests = _tests(found, BOUNDS[precision], temperature)
    for passed, line, meaning in tests:
        if not passed:
            raise ValueError(
                f"self-test failed, on {jax.device_count()} x {jax.devices()[0].device_kind} in {precision}: {line}; "
                f"{meaning}: try precision = 'float32' or another version of JAX, and report it as a bug"
            )
    return [line for _, line, _ in tests]


def _tests(found: dict, bounds: Bounds, temperature: float) -> list[tuple[bool, str, str]]:
    """Whether each test is passed, its line, and what it means if it is not."""
    colder, ends, stopped = 1 / min(temperature, 1.0), found["ends"], found["stopped"]
    sizes = {branch: size for branch, size in found["moved"].items() if size is not None}
    least = min(sizes.values(), default=math.inf)
    moved = ", ".join(f"{size:.3g} on {branch}" for branch, size in sizes.items())
    tests = [
        (
            found["gap"] <= bounds.gap * colder,
            f"with the student as its own teacher: the two differ by {found['gap']:.2g} nats at any token "
            f"(allowed {bounds.gap * colder:.2g})",
            "student and teacher are not scored alike",
        ),
        (
            np.isfinite(list(sizes.values())).all() and least > 0,
            f"with a teacher that is surer or less sure: a gradient of {moved} (must be above 0)"
            if sizes
            else f"{WARNING}whether a teacher moves the student is not known: all sampled tokens are rejected",
            "what a teacher says does not reach the student",
        ),
    ]
    if found["still"] is not None and sizes:
        share = found["still"] / (least or 1.0)
        tests.append((
            found["still"] <= bounds.still * least,
            f"with the student as its own teacher: {share:.2g} of that gradient is left (allowed {bounds.still:.2g})",
            "the loss moves a student that agrees with its teacher",
        ))  # fmt: skip
    if sizes:
        tests.append((
            found["follows"] <= bounds.still,
            "with what that teacher says halved and turned round: so is the gradient, but for "
            f"{found['follows']:.2g} of it (allowed {bounds.still:.2g})",
            "the student does not learn what the teacher says",
        ))  # fmt: skip
    tests.append((
        found["asked"] <= OWN,
        f"each branch is compared with its own teacher, but for {found['asked']:.2g} of the difference "
        f"(allowed {OWN:.2g})",
        "a branch learns from the teacher of another",
    ))  # fmt: skip
    for key, what in (("scored", "scoring"), ("trained", "training")):
        if key in found:
            passed, line = agreement.line(what, found[key], bounds.sampled, temperature)
            tests.append((passed, line, "importance weights would be wrong"))
    tests += [
        (
            stopped["right"] == stopped["responses"],
            f"the sampler stops at a stop token, which belongs to the response: {stopped['right']} of "
            f"{stopped['responses']} responses, {stopped['ended']} of them ended so"
            if stopped["ended"]
            else f"{WARNING}whether the sampler stops at a stop token is not known: none came",
            "responses have no end, or another than the model gave them",
        ),
        (
            ends["ends"] == ends["padded"] == ends["responses"] and ends["slots"] == ends["tokens"],
            f"the token that ends a response trains: in {ends['ends']} of {ends['responses']} responses, and in "
            f"{ends['padded']} whose padding is that token; {ends['slots']} of {ends['tokens']} tokens train",
            "the student would not learn to stop",
        ),
        *(
            (np.isfinite(gap), f"{name} teacher: mean gap to the student {gap:.3g} nats a token",
             "it cannot be computed with")
            for name, gap in found["teachers"].items()
        ),
    ]  # fmt: skip
    return tests
