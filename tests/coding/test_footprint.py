"""The memory plan of an ICD coding run, and of the paper's preset at MIMIC-IV-ICD-10's size."""

import coding_runs
import full_size
import icd_files
import pytest

from camopd_jax.coding import footprint, inputs

GATORTRON = 355_000_000  # parameters, says its model card: without pooler and heads somewhat fewer


def test_the_papers_preset_fits_a_gpu_of_80_gb():
    config = full_size.paper()
    parameters = footprint.parameters(full_size.model_config(config, full_size.GATORTRON))
    assert parameters == pytest.approx(GATORTRON, rel=0.02)
    update, evaluation = full_size.plan()
    assert update.parts["weights"] == 4 * parameters and update.parts["moments"] == 8 * parameters
    assert max(update.total, evaluation.total) < 40e9, "half of it, as the plan knows no more than the largest arrays"


def test_a_run_without_its_means_would_not():
    """Without computing layers again and with all codes at once, the plan is over 80 GB: it can say no."""
    config = full_size.paper()
    config.text.remat, config.labels.code_block, config.micro.notes = False, full_size.CODES, 2
    size = footprint.Size(
        full_size.model_config(config, full_size.GATORTRON), full_size.RARE, full_size.CODES - full_size.RARE, 6120, 1
    )
    assert footprint.phases(config, size)[0].total > 80e9


def test_the_plan_of_a_run_is_of_its_own_notes_and_codes(tmp_path):
    config = coding_runs.tiny()
    config.data.source = f"path:{icd_files.write(tmp_path / 'notes.jsonl', icd_files.rows())}"
    read = inputs.read(config)
    size = footprint.of_run(read)
    assert (size.cfg.codes, size.rare + size.common) == (6, 6)
    assert size.longest == max(len(x) for part in read.parts.values() for x in part.ids)
    assert footprint.codes_bytes(size) == 4 * 6 * read.cfg.described + read.graph.bucket_RK.nbytes
