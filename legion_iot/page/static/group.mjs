// The group: a row for each agent, grey when it is away.

import { byId, element, say } from "./dom.mjs";
import { bytes, count, number, percent, rate, time } from "./format.mjs";

const STATES = { online: "online", degraded: "degraded", draining: "ending", offline: "offline" };
const HOT = 80; // °C, where boards begin to slow down

const rows = new Map(); // by agent

/** Show the agents of GroupMetrics (null before any came), and what each does for the model that is looked at. */
export function showGroup(metrics, model, plan) {
  const agents = metrics?.agents ?? [];
  const shares = model?.work.length ? measured(model) : planned(plan);
  for (const agent of agents) {
    if (!rows.has(agent.agent)) rows.set(agent.agent, newRow(agent.agent));
    fill(rows.get(agent.agent), agent, shares.get(agent.agent));
  }
  const heard = new Set(agents.map((agent) => agent.agent));
  for (const [name, row] of rows) if (metrics && !heard.has(name)) away(row, "gone");
  const body = byId("agents");
  const order = [...rows.keys()].sort().map((name) => rows.get(name).line);
  if (order.some((line, i) => body.children[i] !== line)) body.replaceChildren(...order);
  byId("nobody").hidden = rows.size > 0;
  const present = agents.filter((agent) => agent.state !== "offline").length;
  say(byId("group-kind"), rows.size ? `${present} of ${count(rows.size, "agent")} here` : "");
}

function measured(model) {
  return new Map(model.work.map((work) => [work.agent, { share: work.share, ms: work.ms, how: "per request" }]));
}

/** Before anything was measured: what the plan predicts that each one computes. */
function planned(plan) {
  const sums = new Map();
  for (const bar of plan?.bars ?? []) {
    if (bar.kind === "compute") sums.set(bar.participant, (sums.get(bar.participant) ?? 0) + bar.end_ms - bar.start_ms);
  }
  const total = [...sums.values()].reduce((a, b) => a + b, 0);
  return new Map([...sums].map(([agent, ms]) => [agent, { share: total ? ms / total : 0, ms, how: "planned" }]));
}

function newRow(name) {
  const cell = (label, ...content) => element("td", { role: "cell", "data-label": label }, ...content);
  const row = {
    dot: element("i", { className: "dot" }), state: element("span", { className: "state" }),
    about: element("span", { className: "about" }), why: element("span", { className: "why" }),
    bar: element("i"), share: element("span"), shareMore: element("span", { className: "more" }),
    tile: element("span"), load: element("span"), heat: element("span"), heatMore: element("span", { className: "more" }),
    memory: element("span"), memoryMore: element("span", { className: "more" }),
    link: element("span"), linkMore: element("span", { className: "more" }),
  };
  const title = element("span", { className: "who" }, element("strong", {}, name), row.state);
  row.line = element(
    "tr", { role: "row" },
    element("th", { role: "rowheader", scope: "row" }, row.dot, title, row.about, row.why),
    cell("Share of the work", element("span", { className: "measure" }, element("span", { className: "meter" }, row.bar), row.share), row.shareMore),
    cell("Tile", row.tile), cell("Load", row.load), cell("Heat", row.heat, row.heatMore),
    cell("Memory", row.memory, row.memoryMore), cell("Link", row.link, row.linkMore),
  );
  row.line.dataset.agent = name;
  return row;
}

function fill(row, agent, work) {
  if (agent.state === "offline") return away(row, agent.detail);
  row.line.dataset.state = agent.problem ? "degraded" : agent.state;
  say(row.state, agent.state === "online" ? "" : (STATES[agent.state] ?? agent.state));
  say(row.about, agent.board);
  say(row.why, agent.problem || agent.detail);
  row.bar.style.width = `${100 * (work?.share ?? 0)}%`;
  say(row.share, work ? percent(work.share) : "–");
  say(row.shareMore, work ? `${time(work.ms)} ${work.how}` : "");
  say(row.tile, time(agent.tile_ms));
  say(row.load, agent.tiles || agent.load || agent.memory_limit ? number(agent.load) : "–");
  say(row.heat, agent.temperature === null ? "–" : `${Math.round(agent.temperature)} °C`);
  row.heat.className = agent.temperature >= HOT ? "hot" : "";
  say(row.heatMore, agent.throttled ? "held back" : "");
  say(row.memory, agent.memory_limit ? bytes(agent.memory_resident) : "–");
  say(row.memoryMore, agent.memory_limit ? `of ${bytes(agent.memory_limit)}` : "");
  say(row.link, agent.link ? rate(Math.min(agent.link.up, agent.link.down)) : "–");
  say(row.linkMore, agent.link ? `${time(1000 * agent.link.latency)} away` : "");
}

function away(row, why) {
  row.line.dataset.state = "offline";
  say(row.state, "offline");
  say(row.why, why);
  row.bar.style.width = "0";
  for (const cell of [row.share, row.tile, row.load, row.heat, row.memory, row.link]) say(cell, "–");
  for (const cell of [row.shareMore, row.heatMore, row.memoryMore, row.linkMore]) say(cell, "");
}
