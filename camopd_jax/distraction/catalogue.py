"""The operations by the names that task templates give them."""

from collections.abc import Callable

from camopd_jax.distraction import analysis, language, meta, structures
from camopd_jax.distraction.operations import Plan

OPERATIONS: dict[str, Callable[..., Plan]] = {
    op.__name__.rstrip("_"): op
    for op in (
        meta.first_word, meta.last_word, meta.first_sentence, meta.last_sentence, meta.earlier, meta.contains_word,
        meta.sentence_with, meta.first_and_last_sentence, meta.first_and_last_word, meta.absent, meta.completion,
        meta.kind_of_text, meta.mentioned, meta.order,
        language.fact, language.aspect, language.two_questions, language.names, language.evidence, language.summary,
        language.entities, language.sentence_answer,
        structures.line, structures.comma_list, structures.bullets, structures.sorted_, structures.pair,
        structures.enclosed, structures.json, structures.table, structures.csv, structures.xml, structures.keyvalue,
        analysis.claim_, analysis.has, analysis.more, analysis.compare, analysis.total, analysis.difference,
        analysis.claims, analysis.contradiction, analysis.headline, analysis.redact, analysis.personal_data,
        analysis.private_phone,
    )
}  # fmt: skip
