"""Checks of a config before anything is loaded or computed: one line says what is wrong and what is allowed."""

from ml_collections import ConfigDict

from camopd_jax import licensed
from camopd_jax.camopd import methods
from camopd_jax.camopd.select import DEMANDS
from camopd_jax.camopd.teachers import IDLE
from camopd_jax.data import MADE
from camopd_jax.keys import NAME, NAME_WORDS, Keys, check_rows, check_secrets, has

SPECIALISE = "specialise"  # as a teacher's source: the run makes it
MEASURES = ("instructions", "reverse_kl", "forward_kl", "eos_rate", "length")  # names that no branch may take


def branches(config: ConfigDict) -> tuple[str, ...]:
    """The names of the branches: a teacher each, the general one first; none in a run without teachers."""
    return tuple(sorted(config.get("teachers", ()), key=lambda name: (name != "general", name)))


def specialised(config: ConfigDict) -> str | None:
    """The branch whose teacher the run makes."""
    return next((name for name in branches(config) if config.teachers[name] == SPECIALISE), None)


def base_branch(config: ConfigDict) -> str:
    """The branch whose model the student, or the specialisation from which it starts, starts from."""
    return "general" if config.student == specialised(config) else config.student


def check_config(config: ConfigDict) -> int:
    """Validate every value of a recovery config, and that it has all keys and no others; returns how many these are.

    Raises:
      ValueError: naming the key, its value and what is allowed.
    """
    check_secrets(config)
    if not has(config, "teachers.general"):
        raise ValueError("config.teachers.general is missing: allowed is a model source")
    names, keys = branches(config), Keys(config)
    _check_branches(config, names)
    keys.shared()
    keys.text("specialise.source", *(f"teachers.{name}" for name in names))
    keys.whole("specialise.steps", "specialise.batch_size", "specialise.checkpoint_every")
    keys.optimizer("specialise.optim")
    keys.whole("eval.max_new_tokens", "eval.max_domain_tokens", "eval.max_instruction_tokens")
    keys.whole("eval.prompts", "eval.general_prompts", "eval.domain_prompts", "eval.instructions", least=2)
    keys.seeds("specialise.seed")
    keys.whole("specialise.count", "diagnostics.every", least=0)
    keys.whole("diagnostics.prompts", "report.tokens")
    keys.need("diagnostics.prompts", lambda v: v <= config.eval.prompts, "at most eval.prompts, of which they are")
    keys.need(
        "eval.interpolation", lambda v: isinstance(v, tuple | list) and all(0 < a < 1 for a in v),
        "a tuple of numbers between 0 and 1, both excluded",
    )  # fmt: skip
    keys.need("data.heldout_share", lambda v: 0 < v < 1, "between 0 and 1, both excluded")
    keys.need("data.licensed", lambda v: set(v) <= set(names), f"a tuple of branches out of {names}")
    keys.need("data.licensed_shown", lambda v: set(v) <= set(licensed.PLACES), f"a tuple out of {licensed.PLACES}")
    keys.need("icd10.candidates", lambda v: type(v) is int and 2 <= v <= 10, "2 to 10")
    keys.one_of("student", names)
    _check_method(keys, names)
    for branch in names:
        keys.need(f"data.{branch}.source", lambda v: isinstance(v, str) and v, "a data source, as 'path:FILE.jsonl'")
        source = config.data[branch].source
        keys.text(f"data.{branch}.heldout")
        keys.whole(f"data.{branch}.count", least=int(source in MADE))
        keys.need(
            f"data.{branch}.heldout", lambda v, source=source: v != source,
            "another source than data.BRANCH.source, which is the source of its training prompts too, or ''",
        )  # fmt: skip
    count = keys.check_no_others()
    answered = max(config.eval.max_new_tokens, config.rollout.max_new_tokens)  # of the responses that are scored
    if len(names) > 1:
        answered = max(answered, config.eval.max_domain_tokens)
    check_rows(config.micro, config.rollout.max_prompt_tokens, answered)
    methods.check(config)
    return count


def _check_method(keys: Keys, names: tuple[str, ...]) -> None:
    """The section camopd."""
    cycle = f"a non-empty tuple of branches out of {names}"
    keys.need("camopd.cycle", lambda v: len(v) > 0 and set(v) <= set(names), cycle)
    band = "(low, high) with low <= 1 <= high"
    keys.need("camopd.weight_band", lambda v: len(v) == 2 and 0 <= v[0] <= 1 <= v[1], band)
    keys.one_of("camopd.method", tuple(methods.METHODS))
    keys.one_of("camopd.schedule", (methods.OWN_SCHEDULE, *methods.SCHEDULES))
    keys.one_of("camopd.loss", methods.LOSSES)
    keys.one_of("camopd.selectkd.test", methods.TESTS)
    keys.one_of("camopd.idle_teachers", IDLE)
    keys.whole("camopd.loss_top_k", "camopd.selectkd.top_k")
    keys.need("camopd.selectkd.beta", lambda v: 0 <= v < 1, "at least 0 and below 1")
    keys.need("camopd.relaxed.mixture", lambda v: 0 < v < 0.5, "above 0 and below 0.5")
    for place in ("first", "last"):
        keys.need(f"camopd.relaxed.{place}_fraction", lambda v: 0 < v <= 1, "above 0 and at most 1")
    for branch in names:
        keys.one_of(f"camopd.demand.{branch}", tuple(DEMANDS))
        keys.need(f"camopd.rho.{branch}", lambda v: 0 < v <= 1, "above 0 and at most 1")
        keys.positive(f"camopd.scale.{branch}")


def _check_branches(config: ConfigDict, names: tuple[str, ...]) -> None:
    if config.teachers.general == SPECIALISE:
        raise ValueError(
            "config.teachers.general = 'specialise': allowed is a model source; a run makes domain teachers"
        )
    made = [n for n in names if config.teachers[n] == SPECIALISE]
    if len(made) > 1:
        raise ValueError(f"config.teachers.{made[1]} = 'specialise': allowed for one teacher, and {made[0]} is it")
    if not made and has(config, "specialise.source") and config.specialise.source:
        raise ValueError(
            f"config.specialise.source = {config.specialise.source!r}: no teacher is made; allowed is '', or a teacher "
            "that is 'specialise'"
        )
    if made and config.get("student") not in ("general", made[0]):
        raise ValueError(
            f"config.student = {config.get('student')!r}: the run makes the teacher {made[0]!r} from the general one; "
            f"allowed is 'general' or {made[0]!r}"
        )
    for name in names:
        if not NAME.fullmatch(name):
            raise ValueError(f"config.teachers.{name:.50}: the name of a branch is {NAME_WORDS}")
        if name in MEASURES:
            raise ValueError(
                f"config.teachers.{name}: a branch may not be named like a measure ({', '.join(MEASURES)})"
            )
        for part in ("data", "camopd.demand", "camopd.rho", "camopd.scale"):
            if not has(config, f"{part}.{name}"):
                raise ValueError(f"config.{part}.{name} is missing: teacher {name!r} needs it")


def doubts(config: ConfigDict) -> list[str]:
    """What is allowed and rarely meant, a line each."""
    c, found = config.camopd, []
    for stage, steps in (("optim", config.steps), ("specialise.optim", config.specialise.steps)):
        warmup = (config if stage == "optim" else config.specialise).optim.warmup_steps
        if warmup > steps and (stage == "optim" or specialised(config)):
            found.append(f"config.{stage}.warmup_steps = {warmup}: the learning rate is not reached in {steps} updates")
    if config.checkpoint.keep_best and not config.eval.every:
        found.append(
            f"config.checkpoint.keep_best = {config.checkpoint.keep_best}: nothing is evaluated in between "
            "(eval.every = 0), so that no step is kept for being the best"
        )
    if "general" not in {turn.branch for step in range(len(c.cycle)) for turn in _turns(config, step)}:
        found.append(
            f"config.camopd.cycle = {tuple(c.cycle)}: the general teacher recovers nothing, as no step asks it"
        )
    return found


def _turns(config: ConfigDict, step: int) -> list[methods.Turn]:
    return methods.method_of(config.camopd).turns(tuple(config.camopd.cycle), step, config.rollout.batch_size)


def check_devices(config: ConfigDict, shards: int) -> None:
    """Raise ValueError unless the prompts of each branch in a step can be spread evenly over the data shards."""
    batch = config.rollout.batch_size
    turns = _turns(config, 0)
    if any(turn.rows % shards for turn in turns):
        parts = " + ".join(str(turn.rows) for turn in turns)
        raise ValueError(
            f"config.rollout.batch_size = {batch}: {'its parts, ' + parts + ', are' if len(turns) > 1 else 'it is'} "
            f"spread over {shards} devices (mesh.replica x mesh.fsdp); allowed is a multiple of {shards} for each"
        )
