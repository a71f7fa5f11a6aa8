"use strict";
// What the gradients of the branches do to each other, from diagnostics.jsonl.

function diverging(limit) {
  return (v) => (v === null ? ["", 0] : [v < 0 ? "neg" : "pos", Math.min(1, Math.abs(v) / limit)]);
}

function cosineChart(rows) {
  const pairs = [...new Set(rows.flatMap((row) => Object.keys(row.pairs)))];
  return chart({ title: "Cosine of the branches' gradients", unit: "whole model", from0: true,
    series: pairs.map((pair, look) => ({ name: pair, look, kind: "line",
      points: rows.filter((row) => row.pairs[pair]).map((row) => ({ x: row.step, y: row.pairs[pair].cosine })) })),
    note: "Below 0 a step for one teacher undoes some of what the other asks for: counteraction." });
}

function layerStrips(rows) {
  const pairs = [...new Set(rows.flatMap((row) => Object.keys(row.pairs)))];
  return pairs.map((pair) => {
    const mine = rows.filter((row) => row.pairs[pair]);
    const values = mine.map((row) => row.pairs[pair].cosine_by_layer);
    const limit = Math.max(0.05, ...values.flat().map((v) => Math.abs(v ?? 0)));
    return heat({ title: `Cosine by layer, ${pair}`, unit: `red: counteraction, blue: agreement, full colour at ±${number(limit, 2)}`,
      steps: mine.map((row) => row.step), rows: values[0].length, values, paint: diverging(limit),
      low: "layer 1", high: String(values[0].length),
      describe: (step, row, v) => `step ${step}, layer ${row + 1}: cosine ${signed(v)}${v < 0 ? " (counteraction)" : ""}`,
      note: "Where in the model the two teachers pull against each other." });
  });
}

function binName(edges, count, i) {
  const before = (count - edges.length + 1) / 2; // 1 where the outer bins are open
  const [low, high] = [edges[i - before] ?? null, edges[i - before + 1] ?? null];
  if (low === null) return `gap below ${number(high, 2)}`;
  return high === null ? `gap above ${number(low, 2)}` : `gap ${number(low, 2)} to ${number(high, 2)}`;
}

function histograms(rows) {
  return branchesOf(rows).map((branch) => {
    const mine = rows.filter((row) => row.branches[branch]);
    const values = mine.map((row) => row.branches[branch].gap_histogram);
    const most = Math.log1p(Math.max(1, ...values.flat()));
    const edges = mine[0].gap_edges.filter((edge) => edge !== null);
    const count = values[0].length;
    return heat({ title: `Gaps of the ${branch} branch`, unit: "tokens, log count; stronger colour is more",
      steps: mine.map((row) => row.step), rows: count, values, paint: (v) => ["much", Math.log1p(v) / most],
      low: number(edges[0], 1), high: signed(edges[edges.length - 1], 1),
      describe: (step, i, v) => `step ${step}, ${binName(edges, count, i)} nats: ${v} tokens`,
      note: "Where student and teacher agree, all tokens lie near 0; a tail below is a student that is sure of what the teacher would not say." });
  });
}

function diagnostics(rows) {
  const coherence = branchesOf(rows).flatMap((branch, look) => [
    { name: `${branch}, all`, look, kind: "line", dashed: true, points: along(rows, branch, (b) => b.coherence) },
    { name: `${branch}, selected`, look, kind: "line", points: along(rows, branch, (b) => b.coherence_selected) },
  ]);
  return el("div", { class: "grid" },
    cosineChart(rows),
    chart({ title: "Coherence of the gradients", unit: "of single responses, within a branch", from0: true, series: coherence,
      note: "How far single responses ask for the same change; 1 is full agreement." }),
    chart({ title: "Gain in coherence by selection", unit: "GCG, %", from0: true, series: perBranch(rows, (b) => b.gain),
      note: "Above 0 the selected responses agree better than the whole batch: selection removed noise." }),
    chart({ title: "Cosine with the optimiser's moment", unit: "of a branch's gradient", from0: true,
      series: perBranch(rows, (b) => b.moment_cosine),
      note: "Below 0 the momentum that the branches share pushes against what this branch asks for." }),
    ...layerStrips(rows),
    ...histograms(rows));
}
