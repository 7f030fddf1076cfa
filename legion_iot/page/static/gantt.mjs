// The plan as a Gantt chart: a row for each participant, with what it receives above what it computes above what it
// sends; lines for when the answer is predicted, was measured, and could be at the earliest.

import { drawn, say } from "./dom.mjs";
import { bytes, count, time } from "./format.mjs";

const LANES = { receive: [0, 6], compute: [8, 18], send: [28, 6] }; // by kind: top and height, in pixels
const LANE_HEIGHT = 34;
const ROW_GAP = 14;
const NAME_ABOVE = 16; // where a name stands above its row
const NARROW = 560; // of a chart whose names stand there
const MARKS = 17; // height of a line's label
const AXIS = 22;
const MOST_BEYOND = 1.3; // of the predicted latency: what is measured later is named, but not drawn
const HINT = "Point at a bar, or walk with the arrow keys, to see what it is.";

export class Gantt {
  #place; #detail; #plan = null; #marks = []; #bars = []; #chosen = -1; #width = 0; #drawnFor = ""; #plannedFor = "";

  /** Draws into `place`, and says in `detail` what somebody points at. */
  constructor(place, detail) {
    this.#place = place;
    this.#detail = detail;
    new ResizeObserver(() => this.#draw()).observe(place);
  }

  /** `plan` is a PlanInfo with bars, or null; `measured` the measured latency in ms, or null. */
  show(plan, measured) {
    this.#plan = plan;
    this.#marks = [
      { kind: "bound", name: "bound", ms: plan?.objective === "latency" ? plan.bound_ms : null },
      { kind: "predicted", name: "predicted", ms: plan?.predicted_ms },
      { kind: "measured", name: "measured", ms: measured },
    ].filter((mark) => Number.isFinite(mark.ms));
    this.#draw();
  }

  #draw() {
    const width = Math.floor(this.#place.clientWidth);
    const planned = JSON.stringify([this.#plan?.model, this.#plan?.epoch, this.#plan?.bars.length]);
    const drawing = JSON.stringify([width, planned, this.#marks]);
    if (drawing === this.#drawnFor || (width === 0 && this.#plan)) return;
    const chosen = planned === this.#plannedFor ? this.#chosen : -1; // somebody reads of it
    const hadFocus = this.#place.contains(document.activeElement);
    this.#drawnFor = drawing;
    this.#plannedFor = planned;
    this.#width = width;
    this.#chosen = -1;
    this.#place.replaceChildren(...(this.#plan?.bars.length ? [this.#chart()] : []));
    if (hadFocus) this.#place.firstChild?.focus();
    if (chosen >= 0) this.#choose(chosen);
    else say(this.#detail, this.#plan?.bars.length ? HINT : "");
  }

  #chart() {
    const plan = this.#plan;
    const names = participants(plan);
    const narrow = this.#width < NARROW;
    const left = narrow ? 0 : Math.min(180, 16 + 7.2 * Math.max(...names.map((name) => name.length)));
    const rowHeight = LANE_HEIGHT + ROW_GAP + (narrow ? NAME_ABOVE : 0);
    const top = MARKS * this.#marks.length + 6;
    const bottom = top + rowHeight * names.length;
    const end = lastMoment(plan, this.#marks);
    const x = (ms) => left + (ms / end) * (this.#width - left - 1);
    const row = (name) => top + rowHeight * names.indexOf(name) + (narrow ? NAME_ABOVE : 0) + ROW_GAP / 2;

    const svg = drawn("svg", {
      width: this.#width, height: bottom + AXIS, tabindex: 0, role: "application", "aria-roledescription": "Gantt chart",
      "aria-label": summary(plan, names, this.#marks), "aria-describedby": this.#detail.id,
    });
    svg.append(...axis(end, x, top, bottom));
    names.forEach((name, i) => {
      const y = top + rowHeight * i;
      if (i) svg.append(drawn("line", { class: "rule", x1: 0, x2: this.#width, y1: y, y2: y }));
      const place = narrow ? { x: 0, y: y + 16 } : { x: 0, y: row(name) + LANES.compute[0] + 13 };
      svg.append(drawn("text", { class: "name", ...place }, shortened(name, narrow ? 40 : 22)));
    });
    this.#bars = ordered(plan, names);
    for (const bar of this.#bars) svg.append(...(bar.nodes = this.#bar(bar, x, row(bar.participant))));
    const lines = this.#marks.map((mark, i) => line(mark, i, x, end, left, this.#width, bottom));
    svg.append(...lines.map((nodes) => nodes[0]), ...lines.flatMap((nodes) => nodes.slice(1)));
    this.#listen(svg);
    return svg;
  }

  #bar(bar, x, top) {
    const [offset, height] = LANES[bar.kind];
    const begin = x(bar.start_ms), width = Math.max(1, x(bar.end_ms) - begin);
    const shade = bar.kind !== "compute" ? "" : bar.block === null ? " tail" : ` shade-${bar.block % 2}`;
    const place = { x: begin, y: top + offset, width, height, rx: Math.min(2, width / 3) };
    const nodes = [drawn("rect", { class: `bar ${bar.kind}${shade}`, ...place })];
    const label = bar.kind !== "compute" ? "" : bar.block === null ? "tail" : `${bar.block + 1}`;
    if (label && width > 7 * label.length + 6) {
      nodes.push(drawn("text", { class: "block", x: begin + width / 2, y: top + offset + 13 }, label));
    }
    return nodes;
  }

  #listen(svg) {
    const over = (event) => {
      const chosen = this.#bars.findIndex((bar) => bar.nodes.includes(event.target));
      if (chosen >= 0) this.#choose(chosen);
    };
    svg.addEventListener("pointerover", over);
    svg.addEventListener("pointerdown", over);
    svg.addEventListener("keydown", (event) => {
      const next = this.#beside(event.key);
      if (next === null) return;
      event.preventDefault();
      this.#choose(next);
    });
  }

  #choose(chosen) {
    this.#bars[this.#chosen]?.nodes[0].classList.remove("chosen");
    this.#chosen = chosen;
    this.#bars[chosen].nodes[0].classList.add("chosen");
    say(this.#detail, described(this.#bars[chosen], this.#plan));
  }

  /** The bar that an arrow key leads to: the next one of the row, or the one at the same time in the next row. */
  #beside(key) {
    const here = this.#bars[this.#chosen];
    if (!here) return ["ArrowRight", "ArrowLeft", "ArrowUp", "ArrowDown"].includes(key) ? 0 : null;
    const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
    if (step) {
      const there = this.#bars[this.#chosen + step];
      return there?.participant === here.participant ? this.#chosen + step : this.#chosen;
    }
    const names = participants(this.#plan);
    const other = names[names.indexOf(here.participant) + ({ ArrowDown: 1, ArrowUp: -1 }[key] ?? NaN)];
    if (other === undefined) return key === "ArrowDown" || key === "ArrowUp" ? this.#chosen : null;
    const distance = (bar) => Math.abs(bar.start_ms - here.start_ms);
    const row = this.#bars.filter((bar) => bar.participant === other);
    return row.length ? this.#bars.indexOf(row.reduce((a, b) => (distance(b) < distance(a) ? b : a))) : this.#chosen;
  }
}

function participants(plan) {
  const named = ["orchestrator", ...plan.agents];
  return [...named, ...new Set(plan.bars.map((bar) => bar.participant).filter((name) => !named.includes(name)))];
}

function ordered(plan, names) {
  const key = (bar) => names.indexOf(bar.participant) * 1e9 + bar.start_ms;
  return plan.bars.map((bar) => ({ ...bar })).sort((a, b) => key(a) - key(b));
}

function lastMoment(plan, marks) {
  const planned = Math.max(plan.predicted_ms ?? 0, ...plan.bars.map((bar) => bar.end_ms), 1e-3);
  const seen = marks.map((mark) => mark.ms).filter((ms) => ms <= MOST_BEYOND * planned);
  return 1.02 * Math.max(planned, ...seen);
}

function axis(end, x, top, bottom) {
  const step = niceStep(end / Math.max(2, (x(end) - x(0)) / 90));
  const nodes = [];
  for (let ms = 0; ms <= end; ms += step) {
    const at = Math.round(x(ms)) + 0.5;
    nodes.push(drawn("line", { class: "grid", x1: at, x2: at, y1: top, y2: bottom }));
    const isLast = x(end) - at < 40;
    const anchor = ms === 0 ? "start" : isLast ? "end" : "middle";
    const text = ms === 0 ? "0 ms" : `${Number(ms.toPrecision(6)).toLocaleString("en")}`;
    nodes.push(drawn("text", { class: "tick", x: at, y: bottom + 15, "text-anchor": anchor }, text));
  }
  return nodes;
}

function niceStep(least) {
  const power = 10 ** Math.floor(Math.log10(least));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= least);
}

function line(mark, i, x, end, left, width, bottom) {
  const text = `${mark.name} ${time(mark.ms)}`;
  const y = MARKS * i + 12;
  if (mark.ms > end) {
    return [drawn("text", { class: `mark ${mark.kind}`, x: width, y, "text-anchor": "end" }, `${text} ▸`)];
  }
  const at = x(mark.ms);
  const room = 6.6 * text.length;
  const side = at - left > room ? "end" : "start";
  return [
    drawn("line", { class: `mark ${mark.kind}`, x1: at, x2: at, y1: y - 9, y2: bottom }),
    drawn("text", { class: `mark ${mark.kind}`, x: at + (side === "end" ? -6 : 6), y, "text-anchor": side }, text),
  ];
}

function summary(plan, names, marks) {
  const said = marks.map((mark) => `${mark.name} ${time(mark.ms)}`).join(", ");
  return `What ${count(names.length - 1, "agent")} and the orchestrator do for a request to ${plan.model}: ${said}`;
}

function described(bar, plan) {
  const when = `${time(bar.start_ms)} to ${time(bar.end_ms)}, ${time(bar.end_ms - bar.start_ms)} long`;
  return `${bar.participant} ${done(bar, plan)}, from ${when}`;
}

function done(bar, plan) {
  if (bar.kind === "send") return `sends ${bytes(bar.bytes)} to ${bar.peer}`;
  if (bar.kind === "receive") return `receives ${bytes(bar.bytes)} from ${bar.peer}`;
  if (bar.block === null) return "computes the tail";
  const block = plan.blocks.filter((each) => each.replica === bar.replica)[bar.block];
  if (!block) return `computes block ${bar.block + 1}`;
  const [first, last] = block.units;
  const units = first === last ? `unit ${first + 1}` : `units ${first + 1} to ${last + 1}`;
  const region = block.tiles.find((tile) => tile.agent === bar.participant)?.region;
  const rows = region ? `, rows ${region[0] + 1} to ${region[1]}` : "";
  return `computes block ${bar.block + 1} (${units}${rows})`;
}

function shortened(text, most) {
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}
