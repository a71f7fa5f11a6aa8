"""The phases of a recovery, with what one device holds in each."""

from camopd_jax import footprint, rules
from camopd_jax.footprint import MOMENTS, Phase, Setup, phase


def of_recovery(setup: Setup) -> list[Phase]:
    """Every phase of a recovery with what one device holds in it, in the order in which they come."""
    config, own, rollout = setup.config, footprint.elements(setup.student, setup.mesh), setup.config.rollout
    adapters = setup.student.lora is not None
    trained = own.adapter if adapters else own.base
    state, alone, sampling, scoring, update = footprint.of_student(setup)
    teachers = {name: footprint.teacher_bytes(setup, name, own) for name in setup.teachers}
    largest = {"teacher": max(teachers.values())}

    found = []
    if rules.SPECIALISE in config.teachers.values():
        moved = {"moments": MOMENTS[config.specialise.optim.name] * trained}
        found.append(phase("specialise", state, moved, update))
    drawn = footprint.decoding(setup, rollout.batch_size, rollout.rows_at_once, rollout.max_new_tokens)
    # The teacher of the step before stays until another one is wanted.
    before = [(name, teachers[config.camopd.cycle[i - 1]]) for i, name in enumerate(config.camopd.cycle)]
    kept = {branch: max(size for name, size in before if name == branch) for branch in dict(before)}
    if len(set(kept.values())) == 1:
        kept = {"": max(kept.values())}
    found += [phase(f"rollout {name}".strip(), state, {"teacher": n}, sampling, drawn) for name, n in kept.items()]
    found.append(phase("scoring", state, largest, scoring))
    found.append(phase("update", state, largest, update))
    if config.diagnostics.every:
        found.append(phase("diagnostics", state, largest, diagnosis(setup, trained)))
    sampled = [footprint.decoding(setup, n, config.eval.batch_size, new_tokens) for n, new_tokens in tasks(setup)]
    drawn = max(sampled, key=lambda parts: sum(parts.values()))
    # Beside an adapter's base, a teacher that does not share it, or the interpolation with one, samples as a whole.
    whole = [size for name, size in teachers.items() if adapters and not footprint.shares_base(setup, name)]
    sampler = {"teacher": max(whole, default=0)}
    evaluation = [
        phase("evaluation", alone, sampler, sampling, drawn),
        phase("evaluation", alone, largest, scoring),
    ]
    return [*found, max(evaluation, key=lambda p: p.total)]


def diagnosis(setup: Setup, trained: float) -> dict[str, float]:
    """The backward pass of one sequence, its gradient, and a sum of gradients for each branch."""
    rollout, cfg = setup.config.rollout, setup.student
    columns = rollout.max_prompt_tokens + rollout.max_new_tokens
    head = footprint.head_bytes(setup, rollout.max_new_tokens, 3) + 4 * cfg.vocab_size * cfg.width / (
        setup.gathers * setup.tensor
    )
    layer = footprint.backward_bytes(setup, 1, columns)
    activations = footprint.saved_bytes(setup, 1, columns, "none") + max(layer, head)
    return {"gradients": 4 * (len(setup.teachers) + 1) * trained, "activations": activations}


def tasks(setup: Setup) -> list[tuple[int, int]]:
    """(prompts, new tokens) of each task of the full evaluation."""
    e = setup.config.eval
    domains = [(e.domain_prompts, e.max_domain_tokens) for b in setup.teachers if b != "general"]
    return [(e.general_prompts, e.max_new_tokens), (e.instructions, e.max_instruction_tokens), *domains]
