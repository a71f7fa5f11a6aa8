"""Break the maths once in each place and see the named test fail: python tests/mutants.py [WORD ...]

Each mutant is tried in a copy of package and tests. Exit code 1 if a mutant survives, if its source text is not
found exactly once, or if one of the tests fails on the unbroken code. Words choose mutants by their description.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
AT_A_TIME = 2
PATIENCE = 600  # seconds for one run of pytest

# Exit code 9: the imported package is not the copy.
CHILD = (
    "import os, sys, camopd_jax, pytest\n"
    "inside = os.path.realpath(camopd_jax.__file__).startswith(os.path.realpath(os.getcwd()) + os.sep)\n"
    "sys.exit(pytest.main(['-q', '-x', '-p', 'no:cacheprovider', *sys.argv[1:]]) if inside else 9)\n"
)


class Mutant(NamedTuple):
    what: str
    file: str  # of the package
    source: str  # occurs there once
    replacement: str
    test: str  # must fail


LOSSES, SELECT, SYSTEM = (
    "tests/test_losses.py::test_",
    "tests/camopd/test_select.py::test_",
    "tests/camopd/test_system.py::test_",
)
PACKING, SUITE = "tests/test_packing.py::test_", "tests/evals/test_suite.py::test_"
STEP = "tests/test_step.py::test_"
DIVERGENCES, METHODS = "tests/test_divergences.py::test_", "tests/camopd/test_methods.py::test_"
DIAGNOSTICS = "tests/camopd/test_diagnostics.py::test_"
DECODER, SAMPLING = "tests/models/test_decoder.py::test_", "tests/test_sampling.py::test_"
ATTENTION, ROPE = "tests/models/test_attention.py::test_", "tests/models/test_rope.py::test_"
BLOCKS = ATTENTION + "blocks_of_queries_are_a_plain_numpy_loop"
LORA, CONFIG = "tests/models/test_lora.py::test_", "tests/models/test_huggingface.py::test_"
LOAD, WEIGHTS = "tests/models/test_load.py::test_", "tests/models/test_weights.py::test_"
STUDENT = "tests/test_student.py::test_"
GRPO, MARGIN = "tests/distraction/test_grpo.py::test_", "tests/distraction/test_margin.py::test_"
GRPO_LOOP = GRPO + "loss_and_gradient_are_those_of_the_plain_loop_in_micro_batches_of_any_shape"
GOLDEN = "tests/models/test_golden.py::test_logits_are_those_of_transformers"
LONG = GOLDEN + "_up_to_position_32767"
# fmt: off
MUTANTS = [
    Mutant("logp: temperature not applied", "losses.py",
           "_put(tile.products_NC / temperature,", "_put(tile.products_NC * 1.0,", LOSSES + "chunked_logp_by_hand"),
    Mutant("logp: temperature not in the gradient", "losses.py",
           "total_N1 * p_NC) / temperature)", "total_N1 * p_NC))",
           LOSSES + "chunked_logp_is_the_plain_loop[3-0.7]"),
    Mutant("logp: the overlap counted twice", "losses.py",
           "new_NC = _put(d_NC, tile.old_C, 0)", "new_NC = d_NC",
           LOSSES + "chunked_logp_is_the_plain_loop[3-1.0]"),
    Mutant("logp: every part begins at word 0", "losses.py",
           "ids_NK - part * size - start", "ids_NK - start",
           LOSSES + "chunked_logp_of_several_ids_in_parts_of_a_padded_vocabulary_is_log_softmax[1-2-2]"),
    Mutant("logp: an id that comes twice counts once", "losses.py",
           ".add(cotangent_NK, mode=\"drop\")", ".set(cotangent_NK, mode=\"drop\")",
           LOSSES + "chunked_logp_of_several_ids_in_parts_of_a_padded_vocabulary_is_log_softmax[3-1-2]"),
    Mutant("examination: temperature not applied", "losses.py",
           "known_tokens(logits_CV / temperature,", "known_tokens(logits_CV * 1.0,",
           DIVERGENCES + "entropy_and_rank_are_the_plain_loop[None]"),
    Mutant("logp: maximum for logsumexp", "losses.py",
           "jax.nn.logsumexp(logits_NC, axis=1)", "jnp.max(logits_NC, axis=1)",
           LOSSES + "chunked_logp_by_hand"),
    Mutant("chunks: padded in front", "losses.py",
           "[(0, -n % chunk)] + [(0, 0)]", "[(-n % chunk, 0)] + [(0, 0)]",
           DIVERGENCES + "entropy_and_rank_are_the_plain_loop[None]"),
    Mutant("chunks: not computed again in the backward pass", "losses.py",
           "jax.checkpoint(function)(*x)", "function(*x)",
           DIVERGENCES + "no_divergence_holds_an_array_of_tokens_times_vocabulary"),
    Mutant("masked mean: over T, not the valid tokens", "losses.py",
           "jnp.maximum(jnp.sum(mask_BT, axis=-1), 1)", "mask_BT.shape[-1]",
           LOSSES + "masked_mean_divides_by_the_valid_tokens"),
    Mutant("masked mean: mask ignored in the sum", "losses.py",
           "jnp.where(mask_BT, x_BT, 0.0)", "x_BT", LOSSES + "masked_mean_divides_by_the_valid_tokens"),
    Mutant("weight: ratio upside down", "losses.py",
           "jnp.exp(jax.lax.stop_gradient(logp) - sampler_logp)", "jnp.exp(sampler_logp - jax.lax.stop_gradient(logp))",
           LOSSES + "importance_weight_by_hand"),
    Mutant("weight: stop-gradient lost", "losses.py",
           "jax.lax.stop_gradient(logp) - sampler_logp", "logp - sampler_logp",
           LOSSES + "the_gradient_of_the_policy_token_loss_is_minus_w_times_credit"),
    Mutant("weight: lower edge outside the band", "losses.py",
           "ratio >= band[0]", "ratio > band[0]", LOSSES + "the_edges_belong_to_the_band"),
    Mutant("weight: upper edge outside the band", "losses.py",
           "ratio <= band[1]", "ratio < band[1]", LOSSES + "the_edges_belong_to_the_band"),
    Mutant("weight: clipped to the band, not 0 outside", "losses.py",
           "jnp.where((ratio >= band[0]) & (ratio <= band[1]), ratio, 0.0)", "jnp.clip(ratio, band[0], band[1])",
           LOSSES + "importance_weight_by_hand"),
    Mutant("policy loss: sign flipped", "losses.py",
           "return -weight * jax", "return weight * jax", LOSSES + "policy_token_loss_by_hand"),
    Mutant("policy loss: weight left out", "losses.py",
           "return -weight * jax.lax.stop_gradient(credit)", "return -jax.lax.stop_gradient(credit)",
           LOSSES + "policy_token_loss_by_hand"),
    Mutant("policy loss: stop-gradient of the credit lost", "losses.py",
           "-weight * jax.lax.stop_gradient(credit) * logp", "-weight * credit * logp",
           LOSSES + "the_gradient_of_the_policy_token_loss_is_minus_w_times_credit"),
    Mutant("nll: sign flipped", "losses.py",
           "return -jax.lax.stop_gradient(credit)", "return jax.lax.stop_gradient(credit)",
           LOSSES + "nll_token_loss_by_hand"),
    Mutant("weighted sum: mean over slots", "losses.py",
           "jnp.sum(jnp.where(weight_RS > 0", "jnp.mean(jnp.where(weight_RS > 0", LOSSES + "weighted_sum_by_hand"),
    Mutant("weighted sum: empty slots let in", "losses.py",
           "jnp.where(weight_RS > 0, token_loss_RS * weight_RS, 0.0)", "token_loss_RS * weight_RS",
           LOSSES + "what_stands_in_an_empty_slot_changes_neither_value_nor_gradient"),

    Mutant("schedule: visit counts the step itself", "camopd/select.py",
           "cycle[:place].count", "cycle[: place + 1].count", SELECT + "schedule_of_the_default_cycle"),
    Mutant("schedule: one visit a round", "camopd/select.py",
           "rounds * cycle.count(branch)", "rounds", SELECT + "schedule_of_the_default_cycle"),
    Mutant("gap: sign flipped", "camopd/select.py",
           "teacher_logp_BT - student_logp_BT", "student_logp_BT - teacher_logp_BT",
           SELECT + "gap_is_teacher_minus_student_inside_the_mask"),
    Mutant("gap: mask ignored", "camopd/select.py",
           "jnp.where(mask_BT, teacher_logp_BT - student_logp_BT, 0.0)", "teacher_logp_BT - student_logp_BT",
           SELECT + "gap_is_teacher_minus_student_inside_the_mask"),
    Mutant("gap: stop-gradient lost", "camopd/select.py",
           "return jax.lax.stop_gradient(", "return (", SELECT + "gap_is_constant_under_the_gradient"),
    Mutant("absolute demand: no absolute value", "camopd/select.py",
           "jnp.abs(gap_BT)", "gap_BT", SELECT + "demands_by_hand_with_ragged_lengths"),
    Mutant("positive demand: no maximum with 0", "camopd/select.py",
           "jnp.maximum(gap_BT, 0.0)", "gap_BT", SELECT + "demands_by_hand_with_ragged_lengths"),
    Mutant("selection: smallest scores first", "camopd/select.py",
           "np.argsort(-score,", "np.argsort(score,", SELECT + "smallest_prefix_by_hand"),
    Mutant("selection: ties out of order", "camopd/select.py",
           'np.argsort(-score, kind="stable")', "np.argsort(score, kind='stable')[::-1]",
           SELECT + "ties_keep_the_order_of_the_batch"),
    Mutant("selection: sort not stable", "camopd/select.py",
           'kind="stable"', 'kind="quicksort"', SELECT + "ties_keep_the_order_of_the_batch"),
    Mutant("selection: one sample too few", "camopd/select.py",
           "rho * mass[-1])) + 1]", "rho * mass[-1]))]", SELECT + "smallest_prefix_by_hand"),
    Mutant("selection: more than rho, not at least", "camopd/select.py",
           "np.searchsorted(mass, rho * mass[-1])", 'np.searchsorted(mass, rho * mass[-1], side="right")',
           SELECT + "smallest_prefix_is_the_smallest_set_by_brute_force"),
    Mutant("selection: rho of the samples, not of the demand", "camopd/select.py",
           "int(np.searchsorted(mass, rho * mass[-1])) + 1", "int(np.ceil(rho * len(score)))",
           SELECT + "smallest_prefix_is_the_smallest_set_by_brute_force"),
    Mutant("selection: in float32", "camopd/select.py",
           "np.asarray(score_B, np.float64)", "np.asarray(score_B, np.float32)", SELECT + "the_sum_is_in_float64"),
    Mutant("selection: all of a batch without demand", "camopd/select.py",
           "return order[:0]", "return order", SELECT + "smallest_prefix_by_hand"),
    Mutant("selection: a bad score let through", "camopd/select.py",
           "~np.isfinite(score) | (score < 0)", "score < 0", SELECT + "a_bad_score_is_named"),

    Mutant("eq. 7: |B| for |S|", "camopd/system.py",
           "[:, None] / max(count, 1)", "[:, None] / len(length_B)",
           SYSTEM + "weights_are_shares_of_the_global_batch_however_it_is_split"),
    Mutant("eq. 7: |S| of the micro-batch", "packing.py",
           "return [Update(batch, *(f[m] for f in fields)",
           "fields[1] = fields[1] * len(which)\n"
           "    fields[1] = [f / b.segments_RW.max(axis=1).sum() for f, b in zip(fields[1], packed.batches)]\n"
           "    return [Update(batch, *(f[m] for f in fields)",
           SYSTEM + "weights_are_shares_of_the_global_batch_however_it_is_split"),
    Mutant("eq. 7: T for L_i", "camopd/system.py",
           "np.maximum(length_B, 1)[:, None]", "rollout.response_mask_BT.shape[1]",
           SYSTEM + "weights_are_shares_of_the_global_batch_however_it_is_split"),
    Mutant("eq. 7: one mean over tokens, not over samples", "camopd/system.py",
           "np.maximum(length_B, 1)[:, None] / max(count, 1)", "length_B[selected].sum()",
           SYSTEM + "the_micro_batches_sum_to_equation_7_and_its_gradient"),
    Mutant("eq. 7: the whole batch trains", "camopd/system.py",
           "packing.updates(rollout, selected,", "packing.updates(rollout, range(len(credit_BT)),",
           SYSTEM + "the_micro_batches_sum_to_equation_7_and_its_gradient"),
    Mutant("collect: scale ignored", "camopd/system.py",
           "factor_B[rows] = factor", "factor_B[rows] = 1.0",
           SYSTEM + "collect_trains_the_samples_of_largest_demand_with_scaled_credit"),
    Mutant("collect: teacher and student exchanged", "camopd/system.py",
           "measures[name](teacher_BT, student_BT,", "measures[name](student_BT, teacher_BT,",
           SYSTEM + "collect_trains_the_samples_of_largest_demand_with_scaled_credit"),
    Mutant("teachers: the first one stays", "camopd/teachers.py",
           "if name != self._name:", "if self._name is None:",
           SYSTEM + "one_teacher_is_resident_and_read_when_it_is_needed"),

    Mutant("packing: source is the token itself", "packing.py",
           "np.arange(first - 1, first - 1 + response)", "np.arange(first, first + response)",
           PACKING + "a_slot_is_predicted_from_the_token_before_its_label"),
    Mutant("packing: labels shifted", "packing.py",
           "sequence[first - at :]", "sequence[first - at - 1 : -1]",
           PACKING + "a_slot_is_predicted_from_the_token_before_its_label"),
    Mutant("packing: positions of the row", "packing.py",
           "= sequence, np.arange(end - at),", "= sequence, np.arange(at, end),",
           PACKING + "every_selected_sequence_is_there_whole_and_once"),
    Mutant("packing: one segment a row", "packing.py",
           "np.arange(end - at), segment\n", "np.arange(end - at), 1\n",
           PACKING + "every_selected_sequence_is_there_whole_and_once"),
    Mutant("packing: slots of a row not counted", "packing.py",
           "if tokens <= w and slots <= s", "if tokens <= w", PACKING + "rows_are_filled_before_new_ones_open"),
    Mutant("packing: rubbish gathered into empty slots", "packing.py",
           "np.where(self.row_MRS >= 0, x_BT[self.row_MRS, self.column_MRS], 0)",
           "x_BT[self.row_MRS, self.column_MRS]",
           PACKING + "gather_and_scatter_are_inverse_on_the_selected_tokens"),
    Mutant("packing: last response token dropped", "packing.py",
           "response = int(rollout.response_mask_BT[b].sum())", "response = int(rollout.response_mask_BT[b, 1:].sum())",
           PACKING + "packing_by_hand"),

    Mutant("step: ascent", "step.py",
           "p - rate * u", "p + rate * u", STEP + "sgd_clips_by_global_norm"),
    Mutant("step: warm-up from 0", "step.py",
           "(step + 1) / max(warmup_steps, 1)", "step / max(warmup_steps, 1)", STEP + "learning_rate"),
    Mutant("step: a skipped step does not count", "step.py",
           "state.replace(step=state.step + 1)", "state.replace(step=state.step + 0)",
           STEP + "adamw_with_clipping_warm_up_and_a_skipped_step"),
    Mutant("step: no clipping", "step.py",
           "optax.clip_by_global_norm(clip_norm), *rule", "optax.identity(), *rule",
           STEP + "sgd_clips_by_global_norm"),
    Mutant("step: clipping behind Adam", "step.py",
           "optax.clip_by_global_norm(clip_norm), *rule", "*rule, optax.clip_by_global_norm(clip_norm)",
           STEP + "adamw_with_clipping_warm_up_and_a_skipped_step"),
    Mutant("step: only the last micro-batch counts", "step.py",
           "jax.tree.map(jnp.add, grads, new)", "new",
           SYSTEM + "summed_micro_step_gradients_are_those_of_unpacked_sequences"),

    Mutant("measure: n for n - 1", "evals/suite.py",
           "n / (n - 1) * np.sum", "np.sum", SUITE + "measure_by_hand"),
    Mutant("measure: error of a mean, not of a ratio", "evals/suite.py",
           "self.value() * self.denominator", "self.numerator.mean()", SUITE + "stderr_agrees_with_a_bootstrap"),
    Mutant("interval: models resampled apart", "evals/suite.py",
           "start.resampled(index_RN)", "start.resampled(index_RN[::-1])", SUITE + "items_are_resampled_jointly"),
    Mutant("interval: of 90 %", "evals/suite.py",
           "np.nanquantile(top_R / bottom_R, [0.025, 0.975])", "np.nanquantile(top_R / bottom_R, [0.05, 0.95])",
           SUITE + "recovery_interval_agrees_with_a_plain_bootstrap"),
    Mutant("interval: undefined only where all is 0", "evals/suite.py",
           "if low <= 0 <= high:", "if low == 0 == high:", SUITE + "undefined_where_the_denominator_may_be_zero"),

    Mutant("norm: sum for mean", "models/decoder.py",
           "jnp.mean(x32 * x32,", "jnp.sum(x32 * x32,", DECODER + "logits_equal_a_plain_numpy_llama[tiny]"),
    Mutant("norm: as little as the type of x holds", "models/decoder.py",
           "x32 = x.astype(jnp.float32)", "x32 = x", DECODER + "norms_are_float32_inside"),
    Mutant("RoPE: turned backwards", "models/rope.py",
           "[a * cos - b * sin, b * cos + a * sin]", "[a * cos + b * sin, b * cos - a * sin]",
           DECODER + "logits_equal_a_plain_numpy_llama[tiny]"),
    Mutant("RoPE: keys not turned", "models/decoder.py",
           "rotate(k, turn), v", "k, v", DECODER + "logits_equal_a_plain_numpy_llama[tiny]"),
    Mutant("RoPE: frequencies of another exponent", "models/rope.py",
           "dtype=np.float64) / head_dim", "dtype=np.float64) / (2 * head_dim)", ROPE + "plain_frequencies_by_hand"),
    Mutant("RoPE: angles of 8 bits", "models/rope.py",
           "None, None].astype(jnp.float32)", "None, None].astype(jnp.bfloat16)", LONG + "[qwen3]"),
    Mutant("RoPE: linear multiplies", "models/rope.py",
           "return plain / np.float32(", "return plain * np.float32(", ROPE + "linear_divides_every_frequency"),
    Mutant("RoPE: llama3 divides the short waves", "models/rope.py",
           "(1 - share) * plain / np.float32(scaling.factor) + share * plain",
           "share * plain / np.float32(scaling.factor) + (1 - share) * plain",
           ROPE + "llama3_keeps_short_waves_divides_long_ones_and_passes_between"),
    Mutant("RoPE: llama3 without the passage", "models/rope.py",
           "np.clip((turns - low) / (high - low), 0, 1)", "(turns > low)",
           ROPE + "llama3_keeps_short_waves_divides_long_ones_and_passes_between"),
    Mutant("RoPE: llama3 exchanges its two edges", "models/rope.py",
           "low, high = scaling.low_freq_factor, scaling.high_freq_factor",
           "high, low = scaling.low_freq_factor, scaling.high_freq_factor", GOLDEN + "[llama3-medium]"),
    Mutant("RoPE: yarn's ramp turned round", "models/rope.py",
           "divided / (np.float32(scaling.factor) * period) + plain * (1 - divided)",
           "(1 - divided) / (np.float32(scaling.factor) * period) + plain * divided",
           ROPE + "yarn_is_a_ramp_between_two_numbers_of_turns[False]"),
    Mutant("RoPE: yarn never truncates", "models/rope.py",
           "if scaling.truncate:", "if False:", ROPE + "yarn_is_a_ramp_between_two_numbers_of_turns[True]"),
    Mutant("RoPE: yarn's attention factor lost", "models/rope.py",
           "is None else scaling.attention_factor", "is None else 1.0", GOLDEN + "[qwen2-medium]"),
    Mutant("config: mscale ignored", "models/huggingface.py",
           "0.1 * mscale * math.log(factor)", "0.1 * math.log(factor)",
           CONFIG + "yarn_works_out_what_its_config_leaves_open"),
    Mutant("mask: the future is seen", "models/attention.py",
           "jnp.arange(segments_BK.shape[1]) <= columns_Q[:, None]", "jnp.arange(segments_BK.shape[1]) >= 0",
           DECODER + "a_token_sees_no_later_token"),
    Mutant("mask: other segments are seen", "models/attention.py",
           "(segments_BQ[:, :, None] == segments_BK[:, None, :]) & ", "",
           DECODER + "padding_and_packed_neighbours_change_nothing"),
    Mutant("mask: each block starts at column 0", "models/attention.py",
           "jnp.arange(blocks * BLOCK)", "jnp.arange(blocks * BLOCK) % BLOCK", BLOCKS + "[4]"),
    Mutant("mask: a group's last block of keys is missing", "models/attention.py",
           "min((start + group) * BLOCK, length)", "min((start + group) * BLOCK - 1, length)", BLOCKS + "[4]"),
    Mutant("attention: logits of every block kept", "models/attention.py",
           "    @jax.checkpoint\n", "",
           ATTENTION + "memory_grows_with_the_length_and_not_with_its_square[score_and_gradient]"),
    Mutant("attention: gradients of keys summed in their own type", "models/attention.py",
           "k_BKND.astype(jnp.float32), v_BKND.astype(jnp.float32)", "k_BKND, v_BKND",
           ATTENTION + "gradients_of_many_blocks_do_not_lose_bits"),
    Mutant("attention: logits not scaled", "models/attention.py",
           "k_BKND, preferred_element_type=jnp.float32) / dim**0.5", "k_BKND, preferred_element_type=jnp.float32)",
           DECODER + "logits_equal_a_plain_numpy_llama[tiny]"),
    Mutant("attention of one token: logits not scaled", "models/attention.py",
           "k_BNDC, preferred_element_type=jnp.float32) / dim**0.5", "k_BNDC, preferred_element_type=jnp.float32)",
           DECODER + "cached_decode_equals_the_full_forward[tiny]"),
    Mutant("product: the weight's gradient of one token alone", "models/product.py",
           "_dot(dy_NO, x_NI, 0, 0)", "_dot(dy_NO[:1], x_NI[:1], 0, 0)",
           DECODER + "product_and_its_gradient_are_those_of_plain_matrices[float32-3]"),
    Mutant("limits: not checked", "engine.py",
           "if not 1 <= min(limits)", "if False and not 1 <= min(limits)",
           SAMPLING + "a_limit_beyond_the_response_is_refused[0]"),
    Mutant("attention: weights not divided by their sum", "models/attention.py",
           "(sum_BNMD / total_BNM1)", "sum_BNMD", DECODER + "logits_equal_a_plain_numpy_llama[tiny]"),
    Mutant("GQA: heads share the wrong keys", "models/attention.py",
           "q_BCHD.reshape(batch, rows, shared, group, dim)",
           "q_BCHD.reshape(batch, rows, group, shared, dim).swapaxes(2, 3)",
           DECODER + "logits_equal_a_plain_numpy_llama[tiny]"),
    Mutant("bias: keys have none", "models/decoder.py",
           'self.cfg.qkv_bias and name in ("q", "k", "v")', 'self.cfg.qkv_bias and name in ("q", "v")',
           DECODER + "logits_equal_a_plain_numpy_llama[qkv_bias]"),
    Mutant("LoRA: alpha for alpha / rank", "models/decoder.py",
           "y + (lora.alpha / lora.rank)", "y + lora.alpha",
           LORA + "merged_weights_give_the_same_hidden_states[targets7]"),
    Mutant("LoRA: merged with alpha for alpha / rank", "models/weights.py",
           "lora.alpha / lora.rank * (b @ a)", "lora.alpha * (b @ a)",
           LORA + "merged_weights_give_the_same_hidden_states[targets7]"),
    Mutant("SwiGLU: gate and up exchanged", "models/decoder.py",
           'jax.nn.silu(self.product("gate", h)) * self.product("up", h)',
           'jax.nn.silu(self.product("up", h)) * self.product("gate", h)',
           DECODER + "logits_equal_a_plain_numpy_llama[tiny]"),
    Mutant("qk-norm: queries left out", "models/decoder.py",
           "q = rms_norm(q, self.q_norm[...], cfg.norm_eps)", "q = q",
           DECODER + "logits_equal_a_plain_numpy_llama[qk_norm]"),
    Mutant("cache: keys written one column early", "models/decoder.py",
           "k.transpose(0, 2, 3, 1), column,", "k.transpose(0, 2, 3, 1), column - 1,",
           DECODER + "cached_decode_equals_the_full_forward[tiny]"),
    Mutant("sampler: temperature not applied", "sampling.py",
           "logits_NV = logits_NV / temperature", "logits_NV = logits_NV * 1.0",
           SAMPLING + "sampled_equal_rescored_equal_brute_force_log_probs[0.7]"),
    Mutant("sampler: positions one too far", "sampling.py",
           "layers, state.token_B, state.column - state.start_B,",
           "layers, state.token_B, state.column - state.start_B + 1,",
           SAMPLING + "greedy_equals_recomputing_the_whole_forward"),
    Mutant("sampler: a column before the row's own is seen", "sampling.py",
           "age_C[None] <= (state", "age_C[None] <= 1 + (state", SAMPLING + "refilled_rows_answer_as_alone"),
    Mutant("sampler: the last of the prompt's columns is written over", "sampling.py",
           "state.column - x_I.shape[axis], axis)", "state.column + 1 - x_I.shape[axis], axis)",
           SAMPLING + "greedy_equals_recomputing_the_whole_forward"),
    Mutant("sampler: a wider ring begins anew", "sampling.py",
           "place_C = newest_C % before", "place_C = jnp.arange(columns) % before",
           SAMPLING + "the_ring_of_columns_widens_and_turns"),
    Mutant("sampler: a row's limit one too high", "sampling.py",
           "(count_N < limit_N)", "(count_N <= limit_N)", SAMPLING + "limits_cut_each_response"),
    Mutant("categorical: an entry without mass is drawn", "sampling.py",
           "ends_Bm <= target_B[:, None]", "ends_Bm < target_B[:, None]",
           SAMPLING + "categorical_at_the_ends_of_the_unit_interval[5]"),

    Mutant("LoRA: both factors scaled", "models/lora.py",
           'v * factor if k.endswith("_b") else v', "v * factor",
           LORA + "half_of_an_adapter_is_half_way_to_its_merged_weights"),
    Mutant("LoRA: A of variance 1", "models/lora.py",
           "/ np.sqrt(shape[-1])", "/ 1.0", LORA + "a_new_adapter_has_normal_a_and_zero_b"),
    Mutant("LoRA: a made teacher mixed upside down", "student.py",
           "policy(1.0 - alpha)", "policy(alpha)", STUDENT + "half_of_a_made_adapter_is_half_way_from_the_base"),
    Mutant("LoRA: exported without the adapter", "student.py",
           "weights.merged(self.base.read, trained, engine.cfg.lora)", "self.base.read",
           STUDENT + "an_exported_adapter_is_merged_into_the_weights"),
    Mutant("held out: trains all the same", "prompts.py",
           "_train(config, read, name).without(held)", "_train(config, read, name)",
           "tests/test_prompts.py::test_no_prompt_that_is_evaluated_trains_whatever_the_sources"),
    Mutant("held out: is learnt all the same", "prompts.py",
           "_examples(config, read, made).without(held)", "_examples(config, read, made)",
           "tests/test_prompts.py::test_no_prompt_that_is_evaluated_trains_whatever_the_sources"),
    Mutant("student: mixed upside down", "student.py",
           "weights.between(general.read, model.read, alpha)", "weights.between(model.read, general.read, alpha)",
           STUDENT + "when_all_weights_train_each_teacher_has_its_own"),
    Mutant("student: base placed again for each teacher", "student.py",
           "self._shared = functools.cache(lambda: lora.split(engine.place(base.read, self._dtype))[0])",
           "self._shared = lambda: lora.split(engine.place(base.read, self._dtype))[0]",
           STUDENT + "with_adapters_the_base_is_on_the_mesh_once[sizes0]"),
    Mutant("student: masters in the dtype of the forward pass", "student.py",
           'MASTER = "float32"', 'MASTER = "bfloat16"',
           STUDENT + "bfloat16_forward_passes_keep_masters_gradients_and_scores_in_float32[None]"),
    Mutant("weights: layers in reverse", "models/weights.py",
           "one_at), layer)", "one_at), shape.shape[0] - 1 - layer)",
           WEIGHTS + "placed_weights_are_the_stacked_ones_where_they_should_lie[sizes0-float32]"),
    Mutant("weights: each device reads the first part", "models/weights.py",
           "tuple(slice(*b) for b in bounds)", "tuple(slice(0, b[1] - b[0]) for b in bounds)",
           WEIGHTS + "placed_weights_are_the_stacked_ones_where_they_should_lie[sizes2-float32]"),
    Mutant("weights: read once for each device", "models/weights.py",
           "part = functools.cache(", "part = (",
           WEIGHTS + "each_part_is_read_once_and_one_tensor_after_the_other[sizes2]"),
    Mutant("weights: mixed upside down", "models/weights.py",
           "alpha * a + (1 - alpha) * b", "alpha * b + (1 - alpha) * a", WEIGHTS + "between_by_hand"),
    Mutant("weights: mixed in the models' own dtype", "models/weights.py",
           "np.asarray(r(name, layer, index), np.float32)", "np.asarray(r(name, layer, index))",
           WEIGHTS + "between_models_of_16_bits_is_computed_in_float32[float16]"),
    Mutant("stop ids: the generation config's first", "models/load.py",
           "dict.fromkeys(own + listed)", "dict.fromkeys(listed + own)",
           LOAD + "stop_ids_are_the_tokenizers_and_the_generation_configs[257-listed1-expected1]"),
    Mutant("stop ids: only the first ends a response", "sampling.py",
           "~jnp.isin(token_N, jnp.asarray(stop_ids, jnp.int32))", "(token_N != stop_ids[0])",
           STUDENT + "a_response_ends_at_any_stop_id"),
    Mutant("stop ids: only the first counts as an end", "engine.py",
           "width + last], self.stop_ids)", "width + last], self.stop_ids[:1])",
           STUDENT + "a_response_ends_at_any_stop_id"),
    Mutant("padded vocabulary: one row too many", "losses.py",
           "< vocab, logits_BV", "<= vocab, logits_BV", LOSSES + "known_tokens_by_hand"),
    Mutant("padded vocabulary: sampled", "sampling.py",
           "losses.known_tokens(logits_NV, vocab)", "logits_NV",
           STUDENT + "rows_that_pad_the_embedding_are_never_sampled_and_have_no_probability"),
    Mutant("padded vocabulary: scored", "losses.py",
           "part * size + places_C >= vocab", "part * size + places_C >= 2 * vocab",
           LOSSES + "rows_that_pad_the_embedding_change_neither_log_probs_nor_gradients"),
    Mutant("updates: weights of all rows", "packing.py",
           "pack(rollout, which, shape)\n    fields", "pack(rollout, range(len(credit_BT)), shape)\n    fields",
           SYSTEM + "the_micro_batches_sum_to_equation_7_and_its_gradient"),
    Mutant("updates: the sampler's log-probabilities lost", "packing.py",
           "weight_BT, rollout.sampler_logp_BT)", "weight_BT, 0 * rollout.sampler_logp_BT)",
           SYSTEM + "the_micro_batches_sum_to_equation_7_and_its_gradient"),

    Mutant("reverse KL: weighed by the teacher", "losses.py",
           "jnp.sum(jnp.exp(logp_CV) * (logp_CV - teacher_CV)", "jnp.sum(jnp.exp(teacher_CV) * (logp_CV - teacher_CV)",
           DIVERGENCES + "reverse_kl_by_hand"),
    Mutant("reverse KL: a path to the teacher", "losses.py",
           "jax.lax.stop_gradient((teacher_hidden_ND, teacher_head_VD))", "(teacher_hidden_ND, teacher_head_VD)",
           DIVERGENCES + "reverse_kl_is_the_plain_loop_and_constant_in_the_teacher[3]"),
    Mutant("top-k: no bucket for the rest", "losses.py",
           "return head_N + rest_N *", "return head_N + 0 * rest_N *", DIVERGENCES + "top_k_by_hand"),
    Mutant("top-k: the rest may be nothing", "losses.py",
           "jnp.maximum(1.0 - jnp.sum(x, axis=1), LEAST_TAIL)", "(1.0 - jnp.sum(x, axis=1))",
           DIVERGENCES + "top_k_stays_finite_where_the_tokens_hold_all_the_mass"),
    Mutant("rank: counts itself", "losses.py",
           "jnp.sum(logits_CV > picked_C1, axis=1)", "jnp.sum(logits_CV >= picked_C1, axis=1)",
           DIVERGENCES + "entropy_and_rank_are_the_plain_loop[None]"),
    Mutant("divergence: the factor lost", "losses.py",
           "return jax.lax.stop_gradient(credit) * divergence", "return divergence",
           DIVERGENCES + "a_divergence_weighs_its_factor_and_has_no_gradient_in_it"),

    Mutant("halves: visit of the cycle", "camopd/methods.py",
           "Turn(name, step, batch // len(names))", "Turn(name, step // 2, batch // len(names))",
           METHODS + "turns_by_hand"),
    Mutant("mixed: equal parts", "camopd/methods.py",
           "batch * cycle.count(name) // len(cycle)", "batch // 2", METHODS + "turns_by_hand"),
    Mutant("mixed: a mean for each branch", "camopd/system.py",
           "total if method.pooled else len(rows)", "len(rows)",
           METHODS + "the_update_is_that_of_the_independent_loop[mix]"),
    Mutant("halves: one mean for both branches", "camopd/system.py",
           "total if method.pooled else len(rows)", "total",
           METHODS + "the_update_is_that_of_the_independent_loop[vanilla_mopd]"),
    Mutant("no selection: no scaling either", "camopd/methods.py",
           "factor_B[select.smallest_prefix(score_B, rho)] = scale", "select.smallest_prefix(score_B, rho)",
           METHODS + "which_samples_train_by_hand"),
    Mutant("relaxed: bounded from above", "camopd/methods.py",
           "np.maximum(gap_BT, math.log", "np.minimum(gap_BT, math.log", METHODS + "relaxed_credit_by_hand"),
    Mutant("relaxed: tokens of lowest entropy", "camopd/methods.py",
           "(entropy_BT >= least)", "(entropy_BT <= least)", METHODS + "relaxed_credit_by_hand"),
    Mutant("selectkd: the accepted ones fade", "camopd/methods.py",
           "np.where(accepted_BT, gap_BT, beta * gap_BT)", "np.where(accepted_BT, beta * gap_BT, gap_BT)",
           METHODS + "accepted_credit_by_hand_and_the_speculative_test"),
    Mutant("off policy: the student answers", "camopd/system.py",
           "teachers.placed(turn.branch) if method.teacher_answers else (engine, student)", "(engine, student)",
           METHODS + "the_update_is_that_of_the_independent_loop[off_policy_kd]"),

    Mutant("coherence: norm of the mean", "camopd/diagnostics.py",
           "np.sqrt(np.maximum(squared_sum, 0)) /", "0.5 * np.sqrt(np.maximum(squared_sum, 0)) /",
           DIAGNOSTICS + "two_identical_samples_have_coherence_1_and_two_opposite_ones_0[1.0-1.0]"),
    Mutant("coherence: selected ones last", "camopd/diagnostics.py",
           "for row in (*selected, *others):", "for row in (*others, *selected):",
           DIAGNOSTICS + "figures_agree_with_gradients_taken_one_by_one"),
    Mutant("inner product: layers together", "camopd/diagnostics.py",
           "jnp.sum(x * y, axis=tuple(range(1, x.ndim)))", "jnp.full(len(x), jnp.sum(x * y))",
           DIAGNOSTICS + "inner_products_by_hand"),

    Mutant("grpo clip: both bounds whatever the advantage", "policy.py",
           "jnp.where(advantage >= 0, log_rho > log_bound, log_rho < log_bound)",
           "(log_rho > np.log1p(clip[1])) | (log_rho < low)", GRPO + "clipping_by_hand"),
    Mutant("grpo clip: put in behind the exponential", "policy.py",
           "jnp.exp(jnp.where(beyond, log_bound, log_rho))", "jnp.where(beyond, jnp.exp(log_bound), jnp.exp(log_rho))",
           GRPO + "clipping_by_hand"),
    Mutant("grpo clip: the same on both sides", "policy.py", "np.log1p(clip[1])", "np.log1p(clip[0])",
           GRPO_LOOP + "[dapo-none-0.0]"),
    Mutant("grpo: stop-gradient of the sampler lost", "policy.py",
           "logp - jax.lax.stop_gradient(sampler_logp)", "logp - sampler_logp",
           GRPO + "records_of_other_policies_are_constants"),
    Mutant("grpo k2: not halved", "policy.py", "return 0.5 * (logp", "return (logp",
           GRPO + "the_means_of_the_kl_losses_and_of_their_gradients_over_the_policy"),
    Mutant("grpo k3: upside down", "policy.py",
           "jax.lax.stop_gradient(reference_logp) - logp", "logp - jax.lax.stop_gradient(reference_logp)",
           GRPO + "the_means_of_the_kl_losses_and_of_their_gradients_over_the_policy"),
    Mutant("grpo k1: refused without its reason", "policy.py", 'if name == "k1":', 'if name == "k0":',
           GRPO + "settings_that_are_refused"),
    Mutant("grpo advantage: ddof 0", "distraction/grpo.py", "np.maximum(count_N1 - 1, 1)", "np.maximum(count_N1, 1)",
           GRPO + "advantages_by_hand"),
    Mutant("grpo advantage: unscorable answers in the mean", "distraction/grpo.py",
           "np.maximum(count_N1, 1), 0.0)", "reward_NG.shape[1], 0.0)", GRPO + "advantages_by_hand"),
    Mutant("grpo advantage: spread by the rounded mean", "distraction/grpo.py",
           "reward_NG != first_N1", "from_mean_NG != 0",
           GRPO + "equal_rewards_have_no_spread_whatever_rounding_makes_of_their_mean"),
    Mutant("grpo share: over the mean length", "distraction/grpo.py",
           "len(length_A) * np.maximum(length_A, 1)", "len(length_A) * length_A.mean() + 0 * length_A",
           GRPO_LOOP + "[grpo-none-0.0]"),
    Mutant("grpo share: over the longest answer", "distraction/grpo.py",
           "max(len(length_A), 1) * max_new_tokens", "len(length_A) * length_A.max()",
           GRPO_LOOP + "[dr_grpo-k3-0.04]"),
    Mutant("grpo share: tokens of unscorable answers counted", "distraction/grpo.py",
           "share(mask_BT[scorable_B].sum(axis=1), max_new_tokens)",
           "share(mask_BT.sum(axis=1), max_new_tokens)[scorable_B]", GRPO_LOOP + "[dapo-none-0.0]"),
    Mutant("grpo share: of the answers that train alone", "distraction/grpo.py",
           "scorable_B, trains_B = groups.scorable_NG", "scorable_B, trains_B = groups.trains_NG",
           GRPO_LOOP + "[grpo-none-0.0]"),
    Mutant("grpo: groups without spread have a KL", "distraction/grpo.py",
           "mask_BT & trains_B[:, None]", "mask_BT & scorable_B[:, None]", GRPO_LOOP + "[grpo-k3-0.3]"),
    Mutant("grpo: ratio to the policy itself", "distraction/grpo.py",
           "policy.clipped_surrogate(logp_RS, sampler_RS,",
           "policy.clipped_surrogate(logp_RS, jax.lax.stop_gradient(logp_RS),", GRPO_LOOP + "[grpo-none-0.0]"),
    Mutant("grpo: empty slots let in", "distraction/grpo.py",
           "jnp.where(used_RS, logp_RS, sampler_RS)", "logp_RS", GRPO_LOOP + "[grpo-none-0.0]"),
    Mutant("grpo: the reference's log-probabilities lost", "packing.py",
           "more = [packed.gather(x.astype(np.float32))", "more = [packed.gather(0 * x.astype(np.float32))",
           GRPO_LOOP + "[grpo-k2-0.3]"),
    Mutant("grpo reward: KL of padding", "distraction/grpo.py",
           "np.where(rollout.response_mask_BT, rollout.sampler", "np.where(True, rollout.sampler",
           GRPO + "the_kl_inside_the_reward_by_hand"),
    Mutant("margin: not by length", "distraction/margin.py",
           "-self.total_M / self.tokens_M", "-self.total_M", MARGIN + "a_bigram_model_worked_by_hand"),
    Mutant("margin: upside down", "distraction/margin.py",
           "return bad.log_ppl_M - gold.log_ppl_M", "return gold.log_ppl_M - bad.log_ppl_M",
           MARGIN + "a_bigram_model_worked_by_hand"),
    Mutant("margin: at the temperature of the run", "distraction/margin.py",
           "{} if engine.numerics.temperature == 1 else", "{} if engine else",
           MARGIN + "likelihoods_are_those_of_full_logits_in_batches_of_any_size"),
    Mutant("margin: renderings drawn apart", "distraction/margin.py",
           "np.unique(together_M, return_inverse=True)[1]", "np.arange(len(together_M))",
           MARGIN + "the_interval_is_that_of_the_normal_law_and_wider_where_instances_are_drawn_together"),
]
# fmt: on


def copy_of(parent: Path) -> Path:
    """Package and tests in a directory of their own."""
    place = Path(tempfile.mkdtemp(dir=parent))
    for name in ("camopd_jax", "configs", "tests"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", place)
    return place


def run_tests(place: Path, tests: Sequence[str]) -> tuple[int, str]:
    """pytest's exit code (0 passed, 1 failed, else it could not run) and what it printed."""
    env = {**os.environ, "PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", CHILD, *tests]
    try:
        done = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return -1, f"no end after {PATIENCE} s"
    return done.returncode, done.stdout + done.stderr


def try_mutant(mutant: Mutant, parent: Path) -> tuple[str, str, float]:
    """The verdict, the output to show if it is not "caught", and the seconds."""
    clock, place = time.monotonic(), copy_of(parent)
    file = place / "camopd_jax" / mutant.file
    file.write_text(file.read_text(encoding="utf-8").replace(mutant.source, mutant.replacement), encoding="utf-8")
    code, output = run_tests(place, [mutant.test])
    shutil.rmtree(place)
    verdict = {0: "SURVIVED", 1: "caught"}.get(code, f"NOT RUN ({code})")
    return verdict, output if code not in (0, 1) else "", time.monotonic() - clock


def try_unbroken(tests: Sequence[str], parent: Path) -> tuple[str, str, float]:
    clock = time.monotonic()
    code, output = run_tests(copy_of(parent), tests)
    return ("pass", "", time.monotonic() - clock) if code == 0 else ("FAIL", output, time.monotonic() - clock)


def main(words: Sequence[str]) -> int:
    mutants = [m for m in MUTANTS if not words or any(w in m.what for w in words)]
    lost = [m for m in mutants if (ROOT / "camopd_jax" / m.file).read_text(encoding="utf-8").count(m.source) != 1]
    for m in lost:
        print(f"{m.file}: not there exactly once: {m.source!r} ({m.what})")
    mutants = [m for m in mutants if m not in lost]
    bad, clock = len(lost), time.monotonic()
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(AT_A_TIME) as pool:
        tests = list(dict.fromkeys(m.test for m in mutants))
        jobs = {pool.submit(try_unbroken, tests, Path(scratch)): ("the unbroken code", f"{len(tests)} tests")}
        jobs |= {pool.submit(try_mutant, m, Path(scratch)): (m.what, m.test.split("::test_")[1]) for m in mutants}
        for done, job in enumerate(as_completed(jobs), start=1):
            verdict, output, seconds = job.result()
            what, test = jobs[job]
            print(f"{done:3d}/{len(jobs)} {verdict:9s} {seconds:5.1f} s  {what:50s} {test}", flush=True)
            if verdict not in ("caught", "pass"):
                bad += 1
                print(output, flush=True)
    print(f"{len(mutants)} mutants, {bad} problems, {time.monotonic() - clock:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
