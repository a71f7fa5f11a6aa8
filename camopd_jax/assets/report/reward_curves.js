"use strict";
// The curves of a reinforcement run: of its training answers, and of the evaluations during the run.

// Points of one figure of the steps; a step that has none has no value.
function ofSteps(rows, name, look, y, more = {}) {
  return { name, look, kind: "line", points: rows.map((row) => ({ x: row.step, y: y(row) ?? null })), ...more };
}

function rewardChart(rows) {
  const same = rows.every((row) => Math.abs(row.reward - row.passed) < 1e-9); // a conjunctive reward
  const series = [ofSteps(rows, same ? "reward = passed" : "passed all criteria", 0, (row) => row.passed)];
  if (!same) series.push(ofSteps(rows, "reward", 1, (row) => row.reward));
  return chart({ title: "Reward of the training answers", unit: "mean of a step's", from0: true, top: 1, series,
    note: "Each step asks other questions, so that it jumps; the held-out questions are always the same." });
}

function heldChart(held, metric, title, unit, more) {
  const points = held.filter((row) => row.metric === metric).map((row) => ({ x: row.step, y: row.value, e: row.stderr }));
  const n = held.find((row) => row.metric === metric)?.n;
  return chart({ title, unit, from0: true, series: [{ name: "held-out", look: 2, kind: "errors", points }],
    note: `${more} ${n ? `${n} questions, ` : ""}± one standard error.`, ...(metric === "short_pass_rate" ? { top: 1 } : {}) });
}

function groupsChart(rows) {
  const share = (name) => (row) => (row.groups ? row[name] / row.groups : null);
  const series = [ofSteps(rows, "without spread", 0, share("groups_flat"))];
  if (rows.some((row) => row.groups_few)) series.push(ofSteps(rows, "fewer than 2 scored answers", 1, share("groups_few")));
  if (rows.some((row) => row.groups_again)) series.push(ofSteps(rows, "drawn again", 3, share("groups_again"), { dashed: true }));
  if (rows.some((row) => row.unscorable)) {
    series.push(ofSteps(rows, "answers that are not scored", 4, (row) => (row.batch ? row.unscorable / row.batch : null)));
  }
  return chart({ title: "Groups that train nothing", unit: "share of a step's groups", from0: true, top: 1, series,
    note: "Where all answers to a question are worth the same, there is nothing to compare. Much of it wastes samples: "
      + "the questions are too easy or too hard." });
}

function ratioChart(rows) {
  return chart({ title: "Clipped tokens", unit: "share of those that train, of the step's last update", from0: true, top: 0.05,
    series: [ofSteps(rows, "clipped", 4, (row) => row.clipped)],
    note: "Tokens whose ratio to the policy that sampled has left the allowed range. In the first update on a step's answers the "
      + "ratio is 1, and nothing is clipped." });
}

function policyKlChart(rows) {
  const series = [ofSteps(rows, "to the sampling policy", 0, (row) => row.sampler_kl)];
  if (rows.some((row) => "reference_kl" in row)) series.push(ofSteps(rows, "to the start", 1, (row) => row.reference_kl));
  return chart({ title: "How far the policy went", unit: "KL, nats a token", from0: true, top: 0.001, series,
    note: "As the step's last update finds it: 0 to the sampling policy where a step makes one update." });
}

function rewardCurves(data) {
  const rows = data.metrics;
  const updated = rows.some((row) => "clipped" in row);
  return el("div", { class: "grid" },
    rewardChart(rows),
    heldChart(data.held, "short_pass_rate", "Held-out pass", "all five criteria, greedy", "Answers that do the task and resist all distractors."),
    heldChart(data.held, "short_log_rmr", "Held-out margin", "mean log RMR, nats a token", "Above 0 the robust answer is likelier than the distracted one."),
    groupsChart(rows),
    entropyChart(rows),
    lengthChart(rows),
    endedChart(rows),
    gradChart(rows, data.clip_norm),
    ...(updated ? [ratioChart(rows), policyKlChart(rows)] : []),
    stageChart(rows));
}
