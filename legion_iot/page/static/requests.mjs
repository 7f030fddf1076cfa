// Pictures out, answers in: each request has its number as MQTT 5 correlation data, and its answer comes to a topic of
// this page's own. A model that answers with a picture sends that after the result, on the topic with /image behind it.

import { LinkLost } from "./connection.mjs";
import { readMessage } from "./messages.mjs";

const EXPIRY = 120; // seconds that a request may take in the group
const PATIENCE = EXPIRY + 10;
const IMAGE_PATIENCE = 30;
const PACKET_OVERHEAD = 512; // what a packet needs beside the picture, at most
const MOST_BYTES = 32 << 20; // of a picture

/** A request that ended without an answer: `code` is for programs, the message for people. */
export class RequestFailed extends Error {
  constructor(code, reason) {
    super(reason);
    this.code = code;
  }
}

export class Requests {
  #connection; #base; #place; #waiting = new Map(); #number = 0;

  /** `name` is who we are on the broker, or anything that nobody else has. */
  constructor(connection, base, name) {
    this.#connection = connection;
    this.#base = base;
    this.#place = `${base}/answers/${name}/page`;
  }

  static filters(base, name) {
    return [`${base}/answers/${name}/+`, `${base}/answers/${name}/+/image`];
  }

  /** Have a model answer for a picture: {result, image}; rejects with RequestFailed. `onProgress(share)` as it leaves. */
  async infer(model, payload, onProgress = () => {}) {
    if (payload.length > Math.min(MOST_BYTES, this.#connection.mostBytes - PACKET_OVERHEAD)) {
      throw new RequestFailed("too-large", "the picture is larger than 32 MB, or than the broker takes; choose a smaller one");
    }
    const number = String(++this.#number);
    const answered = new Promise((resolve, reject) => this.#waiting.set(number, { resolve, reject, result: null }));
    answered.catch(() => {}); // it may be rejected while the picture is still being sent
    const timer = setTimeout(() => this.#fail(number, "deadline", "no answer came; is the orchestrator there?"), PATIENCE * 1000);
    const correlation = new TextEncoder().encode(number);
    const topic = `${this.#base}/infer/${model}`;
    try {
      await this.#connection.publish({ topic, payload, responseTopic: this.#place, correlation, expiry: EXPIRY }, onProgress);
      return await answered;
    } catch (error) {
      throw failure(error);
    } finally {
      clearTimeout(timer);
      this.#waiting.delete(number);
    }
  }

  /** Whether a message was the answer to one of ours, or a part of it. */
  take({ topic, payload, correlation }) {
    if (topic !== this.#place && topic !== `${this.#place}/image`) return false;
    const number = correlation ? new TextDecoder().decode(correlation) : "";
    const request = this.#waiting.get(number);
    if (!request) return true;
    if (topic !== this.#place) {
      if (request.result) request.resolve({ result: request.result, image: payload });
      return true;
    }
    const result = readMessage("result", payload);
    if (!result) return true;
    if (!result.ok) this.#fail(number, result.error, result.reason);
    else if (!result.image) request.resolve({ result, image: null });
    else {
      request.result = result;
      setTimeout(() => request.resolve({ result, image: null }), IMAGE_PATIENCE * 1000);
    }
    return true;
  }

  /** The link is back, and nothing was kept for us meanwhile. */
  forgotten() {
    for (const number of this.#waiting.keys()) {
      this.#fail(number, "connection", "the connection was lost before the answer came; send the picture again");
    }
  }

  #fail(number, code, reason) {
    this.#waiting.get(number)?.reject(new RequestFailed(code, reason));
  }
}

function failure(error) {
  if (error.notAllowed) return new RequestFailed("not-allowed", "this user may look, but not send pictures; sign in as a client or an operator");
  if (error instanceof LinkLost) return new RequestFailed("connection", "the connection was lost while sending; send the picture again");
  return error instanceof RequestFailed ? error : new RequestFailed("refused", error.message);
}
