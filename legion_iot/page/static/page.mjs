// The live page: what the broker tells, on the screen. Everything shown comes by MQTT; nothing is asked of a server.

import { Connection } from "./connection.mjs";
import { byId, element, say, sayOrHide } from "./dom.mjs";
import { count, duration, number, percent, time } from "./format.mjs";
import { Gantt } from "./gantt.mjs";
import { showGroup } from "./group.mjs";
import { readMessage } from "./messages.mjs";
import { PicturePanel } from "./picture.mjs";
import { Requests } from "./requests.mjs";

const MOST_RECENT = 6; // answers that are listed
const LEAST_SILENCE = 10; // seconds without metrics before that is said
const STORED = "legion-user"; // until the tab is closed

const random = () => [...crypto.getRandomValues(new Uint8Array(8))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

const settings = await (await fetch("settings.json")).json();
const base = settings.base_topic;

const group = { orchestrator: null, metrics: null, models: new Map(), plans: new Map(), recent: [] };
const heard = { at: 0, gap: 0 }; // when metrics last came, and how long that took at most
let chosen = "";
let connection = null;
let requests = null;
let linkState = { name: "connecting" };

const gantt = new Gantt(byId("gantt"), byId("detail"));
const picture = new PicturePanel(infer);

async function infer(model, payload, onProgress) {
  try {
    const answered = await requests.infer(model, payload, onProgress);
    remember(answered.result);
    return answered;
  } finally {
    soon();
  }
}

// --- what comes ---

function take(message) {
  if (requests.take(message)) return;
  const [kind, name, what] = message.topic.slice(base.length + 1).split("/");
  const known = { orchestrator: name, models: what ?? "model", infer: what }[kind];
  const value = readMessage(known, message.payload);
  switch (value && known) {
    case "state": group.orchestrator = value; break;
    case "metrics": takeMetrics(value); break;
    case "model": group.models.set(name, value); break;
    case "plan": group.plans.set(name, value); break;
    case "result": remember(value); break;
    case null: // of what was told no more, only models are gone at once
      if (known === "model") group.models.delete(name);
      if (known === "plan") group.plans.delete(name);
  }
  soon();
}

function takeMetrics(metrics) {
  const now = performance.now() / 1000;
  if (heard.at) heard.gap = Math.max(heard.gap, Math.min(now - heard.at, 60));
  heard.at = now;
  group.metrics = metrics;
}

function remember(result) {
  group.recent.unshift({ result, at: new Date() });
  group.recent.length = Math.min(group.recent.length, MOST_RECENT);
}

// --- what is shown ---

let isDrawing = false;
let shownRecent; // the first of those that are listed

function soon() {
  if (!isDrawing) requestAnimationFrame(draw);
  isDrawing = true;
}

function draw() {
  isDrawing = false;
  const names = (group.metrics?.models.map((model) => model.name) ?? [...group.models.keys()]).sort();
  if (!names.includes(chosen)) chosen = names[0] ?? "";
  const model = group.metrics?.models.find((each) => each.name === chosen);
  const plan = group.plans.get(chosen) ?? null;
  drawPhase();
  drawModels(names);
  drawPlan(model, plan);
  showGroup(group.metrics, model, plan);
  drawRequests(model);
  picture.show(chosen, plan?.agents.length ?? 0);
}

function drawPhase() {
  const { state, detail } = group.orchestrator ?? { state: "", detail: "" };
  const pill = byId("phase");
  sayOrHide(pill, state);
  pill.dataset.state = state;
  pill.title = detail;
  document.title = state ? `${base}: ${state}` : base;
}

function drawModels(names) {
  const place = byId("models");
  place.hidden = names.length < 2 || byId("main").hidden;
  const shown = [...place.children].map((button) => button.textContent);
  if (shown.join("\n") !== names.join("\n")) {
    place.replaceChildren(...names.map((name) => {
      const button = element("button", { type: "button" }, name);
      button.addEventListener("click", () => {
        chosen = name;
        draw();
      });
      return button;
    }));
  }
  for (const button of place.children) button.setAttribute("aria-pressed", String(button.textContent === chosen));
}

function drawPlan(model, plan) {
  const parts = [plan && count(plan.blocks.length, "block"), plan && count(plan.agents.length, "agent"), plan?.planner,
    plan?.replicas > 1 && `${plan.replicas} ways`, plan && plan.wire !== "float32" && `${plan.wire} on the wire`];
  const kind = plan ? parts.filter(Boolean).join(" · ") : waitingFor(model);
  say(byId("plan-title"), chosen ? `Plan of ${chosen}` : "Plan");
  say(byId("plan-kind"), kind);
  const measured = model?.latency_ms ?? null;
  const isSame = !model || !plan || model.epoch === plan.epoch; // figures of an older plan are none of this one
  const figures = plan ?? {};
  const gain = figures.alone_ms && measured && isSame ? `${number(figures.alone_ms / measured)} × one device’s speed` : "";
  const bound = figures.objective === "throughput" ? null : figures.bound_ms; // that one is of the time between answers
  byId("latency").hidden = !plan;
  drawFigures(byId("latency"), [
    ["measured", "Measured", time(measured), measured === null ? "no answer yet" : gain],
    ["predicted", "Predicted", time(figures.predicted_ms), measured && isSame ? compared(measured, figures.predicted_ms) : ""],
    ["bound", "Bound", time(bound), bound ? "no plan is below" : ""],
    ["alone", "One device", time(figures.alone_ms), figures.alone_agent && `${figures.alone_agent} alone`],
  ]);
  gantt.show(plan, measured);
  byId("legend").hidden = !plan?.bars.length;
}

function compared(measured, predicted) {
  if (!predicted) return "";
  const off = measured / predicted - 1;
  return `measured is ${percent(Math.abs(off))} ${off < 0 ? "less" : "more"}`;
}

function waitingFor(model) {
  if (model) return [model.phase, model.detail].filter(Boolean).join(": ");
  return chosen ? "" : "no model is served yet";
}

function drawFigures(list, figures) {
  if (list.children.length !== figures.length) {
    list.replaceChildren(...figures.map(() =>
      element("div", {}, element("dt"), element("dd", { className: "figure" }), element("dd", { className: "more" }))));
  }
  figures.forEach(([kind, name, value, more], i) => {
    list.children[i].className = kind;
    const [title, figure, rest] = list.children[i].children;
    say(title, name);
    say(figure, value);
    say(rest, more ?? "");
  });
}

function drawRequests(model) {
  const failed = (model?.failed ?? []).reduce((sum, each) => sum + each.count, 0);
  const codes = (model?.failed ?? []).map((each) => `${each.count} ${each.code}`).join(", ");
  say(byId("rate"), model ? `${number(model.per_second)} per second` : "");
  drawFigures(byId("counts"), [
    ["", "Answered", (model?.answered ?? 0).toLocaleString("en"), model?.latency_p95_ms ? `95 % within ${time(model.latency_p95_ms)}` : ""],
    [failed ? "bad" : "", "Failed", failed.toLocaleString("en"), codes],
    ["", "Under way", String(model?.under_way ?? 0), model?.waiting ? `${model.waiting} waiting` : ""],
  ]);
  byId("counts").children[1].title = model?.last_error ?? "";
  const isChanged = shownRecent !== group.recent[0];
  shownRecent = group.recent[0];
  if (isChanged) drawRecent();
}

function drawRecent() {
  const lines = group.recent.map(({ result, at }) => {
    const what = result.ok ? best(result) : `${result.error}: ${result.reason}`;
    const took = result.ok ? time(result.latency_ms) : "";
    return element(
      "li", { className: result.ok ? "" : "bad" },
      element("time", { dateTime: at.toISOString() }, at.toLocaleTimeString([], { hour12: false })),
      element("span", { className: "what", title: what }, what), element("span", { className: "took" }, took),
      element("span", { className: "more" }, group.models.size > 1 ? result.model : ""),
    );
  });
  byId("recent").replaceChildren(...lines);
}

function best(result) {
  const [first] = result.answer ?? [];
  if (!first) return result.image ? "a picture" : "an answer";
  return `${first.label} ${percent(first.score)}`;
}

// --- the link ---

function onLink(state) {
  linkState = state;
  if (state.name === "online") {
    byId("main").hidden = false;
    byId("login").hidden = true;
    byId("leave").hidden = !user();
    heard.at = performance.now() / 1000;
    if (!state.kept) requests.forgotten();
  }
  if (state.name === "refused") askAgain(state.reason);
  drawLink();
}

function drawLink() {
  const names = { connecting: linkState.again ? "reconnecting" : "connecting", online: "live", waiting: "reconnecting", refused: "signed out" };
  const link = byId("link");
  say(link, names[linkState.name]);
  link.dataset.state = linkState.name;
  const trouble = problem();
  sayOrHide(byId("note"), trouble);
  byId("main").classList.toggle("stale", trouble !== "");
}

function problem() {
  if (linkState.name === "waiting" || linkState.again) {
    const what = linkState.reason === "page" ? "The orchestrator that serves this page" : "The broker";
    return byId("main").hidden ? "The broker is not reached yet. This page keeps trying." : `${what} is away. This page reconnects by itself.`;
  }
  if (linkState.name !== "online") return "";
  if (group.orchestrator?.state === "offline") return "The orchestrator is offline. What stands here is from before.";
  if (!group.orchestrator && !group.metrics) return "No orchestrator has been heard of yet.";
  const silent = performance.now() / 1000 - heard.at;
  return silent > Math.max(LEAST_SILENCE, 3 * heard.gap) ? `Nothing has been heard of the orchestrator for ${duration(silent)}.` : "";
}

function user() {
  return JSON.parse(sessionStorage.getItem(STORED) ?? "null");
}

function start() {
  const who = user();
  const name = who && /^[a-z0-9][a-z0-9-]*$/.test(who.name) ? who.name : `page-${random()}`;
  connection?.close();
  connection = new Connection({
    url: `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/mqtt`,
    clientId: `legion-page-${random()}`,
    filters: [
      ...["orchestrator/state", "orchestrator/metrics", "models/+", "models/+/plan", "infer/+/result"].map((each) => `${base}/${each}`),
      ...Requests.filters(base, name),
    ],
    onState: onLink,
    onMessage: take,
  });
  requests = new Requests(connection, base, name);
  connection.open(who?.name ?? null, who?.password ?? "");
}

// --- who we are ---

function askAgain(reason) {
  sessionStorage.removeItem(STORED);
  byId("main").hidden = true;
  byId("leave").hidden = true;
  byId("login").hidden = false;
  const why = {
    name: "Its name and password are in the bundle that legion broker add-device wrote.",
    password: "The broker knows no such user, or the password is another.",
    rights: "This user may see nothing here; sign in as an observer, a client or an operator.",
  }[reason];
  say(byId("login-why"), why);
  byId("login-why").classList.toggle("failure", reason !== "name");
  byId("user").focus();
}

function signIn(name, password) {
  sessionStorage.setItem(STORED, JSON.stringify({ name, password }));
  byId("password").value = "";
  start();
}

byId("login").addEventListener("submit", (event) => {
  event.preventDefault();
  signIn(byId("user").value.trim(), byId("password").value);
});

byId("bundle").addEventListener("change", async (event) => {
  const text = await event.target.files[0]?.text();
  event.target.value = "";
  if (text === undefined) return;
  const line = (key) => text.match(new RegExp(`^${key}: *(.+)$`, "m"))?.[1].trim();
  if (line("name") && line("password")) signIn(line("name"), line("password"));
  else {
    say(byId("login-why"), "This file is no bundle with a name and a password.");
    byId("login-why").classList.add("failure");
  }
});

byId("leave").addEventListener("click", () => {
  connection.close();
  sessionStorage.removeItem(STORED);
  location.reload(); // so that nothing of this user is left, pictures least of all
});

say(byId("base"), base === "legion" ? "" : base);
setInterval(drawLink, 1000);
window.addEventListener("online", () => connection?.hurry());
document.addEventListener("visibilitychange", () => document.hidden || connection?.hurry());
draw();
if (settings.login && !user()) {
  linkState = { name: "refused" };
  drawLink();
  askAgain("name");
} else start();
