// The picture: how it gets here, what becomes of it, and the answer: labels with bars, boxes, another picture, numbers.

import { byId, element, say, sayOrHide } from "./dom.mjs";
import { count, percent, time } from "./format.mjs";
import { RequestFailed } from "./requests.mjs";

const MOST_NUMBERS = 12; // shown of an output that is neither labels nor a picture

export class PicturePanel {
  #infer; #model = ""; #agents = 0; #file = null; #turn = 0; #urls = new Map();

  /** `infer(model, payload, onProgress)` gives {result, image}, or rejects with RequestFailed. */
  constructor(infer) {
    this.#infer = infer;
    const drop = byId("drop");
    byId("file").addEventListener("change", (event) => {
      this.#send(event.target.files[0]);
      event.target.value = ""; // the same file may be chosen again
    });
    byId("again").addEventListener("click", () => this.#send(this.#file));
    for (const name of ["dragenter", "dragover"]) {
      drop.addEventListener(name, () => drop.classList.add("over"));
    }
    for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
    // A picture that misses the place must not replace the page.
    window.addEventListener("dragover", (event) => event.preventDefault());
    window.addEventListener("drop", (event) => {
      event.preventDefault();
      if (drop.contains(event.target)) this.#send(event.dataTransfer.files[0]);
    });
    byId("preview").addEventListener("error", () => (byId("canvas").hidden = true));
  }

  /** Which model pictures are for, "" for none yet, and how many agents work for it. */
  show(model, agents) {
    const changed = model !== this.#model;
    this.#model = model;
    this.#agents = agents;
    byId("file").disabled = !model;
    byId("drop").classList.toggle("closed", !model);
    if (changed) say(byId("again"), this.#file ? `Send it to ${model}` : "Send it again");
  }

  async #send(file) {
    if (!file || !this.#model) return;
    const turn = ++this.#turn;
    const model = this.#model;
    this.#file = file;
    this.#preview(file);
    byId("answer").hidden = true;
    sayOrHide(byId("failure"), "");
    byId("again-row").hidden = false;
    byId("again").disabled = true;
    const begun = performance.now();
    const stop = this.#progress(begun);
    try {
      const payload = new Uint8Array(await readable(file));
      const { result, image } = await this.#infer(model, payload, (share) => turn === this.#turn && stop.sent(share));
      if (turn === this.#turn) this.#answer(result, image, performance.now() - begun);
    } catch (error) {
      if (!(error instanceof RequestFailed)) throw error;
      if (turn === this.#turn) sayOrHide(byId("failure"), `${error.code}: ${error.message}`);
    } finally {
      if (turn === this.#turn) {
        stop.end();
        byId("again").disabled = false;
        say(byId("again"), "Send it again");
      } else stop.forget();
    }
  }

  /** Show how far it is, at first by what has left, then by how long it takes. */
  #progress(begun) {
    const line = byId("progress"), text = byId("progress-text"), bar = byId("progress-bar");
    let share = 0;
    const draw = () => {
      if (share < 1) {
        say(text, `sending, ${percent(share)}`);
        bar.value = share;
      } else {
        bar.removeAttribute("value");
        const who = this.#agents ? ` by ${count(this.#agents, "agent")}` : "";
        say(text, `being computed${who}, ${((performance.now() - begun) / 1000).toFixed(1)} s`);
      }
    };
    line.hidden = false;
    draw();
    const timer = setInterval(draw, 100);
    const forget = () => clearInterval(timer);
    return {
      sent: (now) => (share = now),
      forget,
      end: () => {
        forget();
        line.hidden = true;
      },
    };
  }

  #preview(file) {
    const canvas = byId("canvas");
    for (const mark of canvas.querySelectorAll(".box")) mark.remove();
    canvas.hidden = false;
    byId("preview").src = this.#url("preview", file);
    byId("preview").alt = `The picture that was sent: ${file.name}`;
    byId("invitation").replaceChildren(element("strong", {}, file.name), " drop or choose another one");
  }

  #answer(result, image, ms) {
    const answers = result.answer ?? [];
    const boxed = answers.some((answer) => answer.box);
    byId("answer").hidden = false;
    byId("labels").replaceChildren(...answers.map((answer, i) => label(answer, boxed ? i + 1 : 0)));
    if (boxed) byId("canvas").append(...answers.flatMap((answer, i) => (answer.box ? [box(answer.box, i + 1)] : [])));
    const drawn = byId("drawn");
    drawn.hidden = !image;
    if (image) drawn.src = this.#url("drawn", new Blob([image], { type: "image/png" }));
    const nothing = answers.length || image ? "" : `${none(result)} · `;
    say(byId("took"), `${nothing}${time(result.latency_ms)} in the group, ${time(ms)} from here and back`);
  }

  #url(what, blob) {
    URL.revokeObjectURL(this.#urls.get(what));
    this.#urls.set(what, URL.createObjectURL(blob));
    return this.#urls.get(what);
  }
}

async function readable(file) {
  try {
    return await file.arrayBuffer();
  } catch {
    throw new RequestFailed("unreadable", "the file cannot be read; choose another one");
  }
}

function label(answer, number) {
  const bar = element("i");
  bar.style.width = `${100 * Math.min(1, Math.max(0, answer.score))}%`;
  return element(
    "li", {},
    element("span", { className: "label" }, ...(number ? [element("b", {}, String(number))] : []), answer.label),
    element("span", { className: "score" }, percent(answer.score)),
    element("span", { className: "meter" }, bar),
  );
}

/** A frame around what was found: top, left, bottom and right in fractions of the picture. */
function box([top, left, bottom, right], number) {
  const made = element("span", { className: "box" }, element("b", {}, String(number)));
  Object.assign(made.style, {
    top: `${100 * top}%`, left: `${100 * left}%`, height: `${100 * (bottom - top)}%`, width: `${100 * (right - left)}%`,
  });
  return made;
}

function none(result) {
  if (result.kind === "boxes") return "nothing was found";
  const shown = (result.outputs ?? []).map((output) => {
    const numbers = output.values?.slice(0, MOST_NUMBERS).map((value) => (value === null ? "–" : Number(value.toPrecision(4))));
    const more = output.values?.length > MOST_NUMBERS ? ", …" : "";
    return `${output.name} [${output.shape.join(" × ")}]${numbers ? `: ${numbers.join(", ")}${more}` : ""}`;
  });
  return shown.join("; ") || "no output";
}
