"use strict";
// The curves of metrics.jsonl and of the evaluations during the run.

// The figures of a step by branch; a run of one branch has them in the row itself.
function partsOf(row) {
  return row.branches ?? { [row.branch]: row };
}

function branchesOf(rows) {
  return [...new Set(rows.flatMap((row) => Object.keys(partsOf(row))))];
}

// Points of one branch: y(figures of the branch in the step, the step's row).
function along(rows, branch, y) {
  return rows.filter((row) => partsOf(row)[branch]).map((row) => ({ x: row.step, y: y(partsOf(row)[branch], row) ?? null }));
}

function perBranch(rows, y, more = {}) {
  return branchesOf(rows).map((branch, look) => ({ name: branch, look, kind: "line", points: along(rows, branch, y), ...more }));
}

function klChart(rows, held) {
  const tasks = [...new Set([...branchesOf(rows), ...held.map((row) => row.task)])];
  const forward = rows.some((row) => "forward_kl" in row);
  const of = forward ? [" (forward)", " (reverse)"] : ["", ""];
  const series = tasks.flatMap((task, look) => [
    { name: `${task}, training batch${of[0]}`, look, kind: "dots", points: along(rows, task, (b) => b.reverse_kl ?? b.forward_kl) },
    { name: `${task}, held-out${of[1]}`, look, kind: "errors", points: held.filter((r) => r.task === task)
      .map((r) => ({ x: r.step, y: r.value, e: r.stderr })) },
  ]);
  return chart({ title: `${forward ? "" : "Reverse "}KL to each teacher`, unit: "nats a token", from0: true,
    series: series.filter((s) => s.points.length),
    note: "Dots are training batches, joined marks are held-out prompts (± one standard error). Falling towards 0 means nearer to the teacher." });
}

function gapChart(rows) {
  const series = branchesOf(rows).flatMap((branch, look) => [
    { name: `${branch}, mean |gap|`, look, kind: "line", points: along(rows, branch, (b) => b.gap_abs) },
    { name: `${branch}, mean positive gap`, look, kind: "line", dashed: true, points: along(rows, branch, (b) => b.gap_positive) },
  ]);
  return chart({ title: "Gap, teacher − student", unit: "nats a token", from0: true, series,
    note: "How far the teacher's log-probability of the student's tokens is from the student's own; the positive part is what the teacher likes better." });
}

function stageChart(rows) {
  const stages = ["rollout", "score", "update"];
  const of = (row, stage) => row[`seconds_${stage}`] ?? 0;
  const series = stages.map((name, look) => ({ name, look, points: rows.map((row) => ({ x: row.step, y: of(row, name) })) }));
  series.push({ name: "other", look: 3, points: rows.map((row) => ({ x: row.step,
    y: Math.max(0, row.seconds - stages.reduce((sum, stage) => sum + of(row, stage), 0)) })) });
  return chart({ title: "Time by stage", unit: "seconds a step", bars: true, from0: true, series,
    note: "Programs compile in the first steps, so that these take longer." });
}

function gradChart(rows, clip) {
  const names = [...new Set(rows.map((row) => row.branch))];
  const series = names.map((name, look) => ({ name: `${name} steps`, look, kind: "line",
    points: rows.filter((row) => row.branch === name).map((row) => ({ x: row.step, y: row.grad_norm ?? null })) }));
  return chart({ title: "Gradient norm", unit: "before clipping, log scale", log: true, series,
    line: clip ? { y: clip, words: `clipped to ${clip}` } : null,
    note: "Above the dashed line a gradient is scaled down to it; only its direction then counts." });
}

function lengthChart(rows) {
  return chart({ title: "Response length", unit: "tokens a response", from0: true,
    series: perBranch(rows, (b) => (b.batch ? b.response_tokens / b.batch : null)) });
}

function endedChart(rows) {
  return chart({ title: "Responses that end by themselves", unit: "share", from0: true, top: 1,
    series: perBranch(rows, (b) => b.eos_rate), note: "The others were cut at the length limit." });
}

function entropyChart(rows) {
  return chart({ title: "Entropy of the student", unit: "nats a token", from0: true,
    series: perBranch(rows, (b) => b.entropy), note: "Of its own answers, at their temperature. Near 0 it always says the same." });
}

function curves(data) {
  const rows = data.metrics;
  return el("div", { class: "grid" },
    klChart(rows, data.held),
    gapChart(rows),
    chart({ title: "Selected share", unit: "of the batch's responses", from0: true, top: 1,
      series: perBranch(rows, (b) => (b.batch ? b.selected / b.batch : null)), note: "Only selected responses train." }),
    lengthChart(rows),
    endedChart(rows),
    ...(rows.some((row) => "entropy" in row) ? [entropyChart(rows)] : []),
    gradChart(rows, data.clip_norm),
    stageChart(rows));
}
