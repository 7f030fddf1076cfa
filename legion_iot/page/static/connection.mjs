// A connection to the broker that comes back by itself: MQTT 5 over a websocket.
//
// It tells of its state as one of
//   {name: "connecting", again, reason}, {name: "online", kept}, {name: "waiting", reason}, {name: "refused", reason}
// and waits ever longer between attempts, but never longer than a person would for a page. What was subscribed to is
// again, with each new link; what was published and not acknowledged fails, and whoever published decides.

import * as packets from "./packets.mjs";

const KEEP_ALIVE = 20; // seconds
const PATIENCE = 10; // seconds for an answer to CONNECT or PINGREQ
const LONGEST_WAIT = 5; // seconds between two attempts
const SESSION_SECONDS = 60; // for which the broker keeps answers while the link is down
const FRAME = 64 << 10; // bytes of a websocket message: several of them make a picture
const MOST_BUFFERED = 1 << 20; // bytes that may wait in the browser before more are handed to it

const BAD_USER = 0x86, NOT_AUTHORIZED = 0x87; // reason codes (2.4)
const BROKER_AWAY = 1013; // how the relay closes when the broker ended the link, or is not reached

/** What a broker answered instead of taking a message. */
export class Refusal extends Error {
  constructor(reason) {
    super(reason === NOT_AUTHORIZED ? "not allowed" : `refused by the broker (reason 0x${reason.toString(16)})`);
    this.notAllowed = reason === NOT_AUTHORIZED;
  }
}

/** The link ended before a message was acknowledged. */
export class LinkLost extends Error {
  constructor() {
    super("the connection was lost");
  }
}

export class Connection {
  #url; #clientId; #filters; #onState; #onMessage; #WebSocket;
  #user = null; #password = "";
  #socket = null; #reader = null;
  #wanted = false; #online = false;
  #attempts = 0; #number = 0; #reason = "";
  #retry = 0; #heartbeat = 0; #deadline = 0;
  #unacknowledged = new Map();
  #queue = Promise.resolve(); // of large packets, one after the other
  #isSending = false; // a large packet, whose frames nothing may come between
  #later = [];
  mostBytes = Infinity; // of a packet that the broker takes

  /** `onMessage({topic, payload, retain, correlation})`; `WebSocket` is the browser's. */
  constructor({ url, clientId, filters, onState, onMessage, WebSocket = globalThis.WebSocket }) {
    this.#url = url;
    this.#clientId = clientId;
    this.#filters = filters;
    this.#onState = onState;
    this.#onMessage = onMessage;
    this.#WebSocket = WebSocket;
  }

  /** Connect, and again whenever the link is lost, as that user or as nobody. */
  open(user = null, password = "") {
    this.close();
    this.#user = user;
    this.#password = password;
    this.#wanted = true;
    this.#attempts = 0;
    this.#try();
  }

  /** End the link for good. */
  close() {
    this.#wanted = false;
    clearTimeout(this.#retry);
    if (this.#online && !this.#isSending) this.#send(packets.disconnect());
    this.#drop();
  }

  /** Do not wait any longer for the next attempt. */
  hurry() {
    if (this.#wanted && !this.#socket) {
      clearTimeout(this.#retry);
      this.#try();
    }
  }

  /** Hand the broker a message at QoS 1; rejects with Refusal or LinkLost. `onProgress(share)` as it leaves. */
  async publish({ topic, payload, responseTopic, correlation, expiry }, onProgress = () => {}) {
    if (!this.#online) throw new LinkLost();
    do this.#number = (this.#number % 0xffff) + 1; while (this.#unacknowledged.has(this.#number));
    const number = this.#number;
    const acknowledged = new Promise((resolve, reject) => this.#unacknowledged.set(number, { resolve, reject }));
    acknowledged.catch(() => {}); // it may be rejected while the packet is still being sent
    const parts = packets.publish({ topic, payload, number, responseTopic, correlation, expiry });
    const socket = this.#socket;
    const sent = this.#queue.then(() => this.#sendSlowly(socket, parts, onProgress));
    this.#queue = sent.catch(() => {});
    await sent;
    const reason = await acknowledged;
    if (reason >= 0x80) throw new Refusal(reason);
  }

  // --- the link ---

  #try() {
    this.#onState({ name: "connecting", again: this.#attempts > 0, reason: this.#reason });
    this.#reader = new packets.PacketReader();
    const socket = new this.#WebSocket(this.#url, "mqtt");
    this.#socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      this.#send(
        packets.connect({
          clientId: this.#clientId, user: this.#user, password: this.#password, keepAlive: KEEP_ALIVE,
          sessionSeconds: SESSION_SECONDS,
        }),
      );
    };
    socket.onmessage = (event) => this.#take(new Uint8Array(event.data));
    socket.onclose = (event) => {
      if (socket === this.#socket) this.#lost(event.code === BROKER_AWAY ? "broker" : "page");
    };
    this.#expect(PATIENCE);
  }

  #take(bytes) {
    const reader = this.#reader;
    try {
      for (const packet of reader.take(bytes)) {
        if (reader === this.#reader) this.#receive(packet); // else what came before has ended the link
      }
    } catch (error) {
      if (!(error instanceof packets.PacketError)) throw error;
      this.#lost("broker");
    }
  }

  #receive(packet) {
    switch (packet.kind) {
      case "connack": return this.#answered(packet);
      case "suback": return this.#subscribed(packet);
      case "publish":
        if (packet.number) this.#send(packets.puback(packet.number));
        return this.#onMessage(packet);
      case "puback":
        this.#unacknowledged.get(packet.number)?.resolve(packet.reason);
        return void this.#unacknowledged.delete(packet.number);
      case "pingresp": return clearTimeout(this.#deadline);
      case "disconnect": return this.#lost("broker");
    }
  }

  #answered({ reason, mostBytes, kept }) {
    clearTimeout(this.#deadline);
    if (reason === BAD_USER || reason === NOT_AUTHORIZED) {
      this.#wanted = false;
      this.#drop();
      this.#onState({ name: "refused", reason: this.#user === null ? "name" : "password" });
    } else if (reason) {
      this.#lost("broker");
    } else {
      this.mostBytes = mostBytes;
      this.#online = true;
      this.#attempts = 0;
      this.#heartbeat = setInterval(() => this.#ping(), (KEEP_ALIVE * 1000) / 2);
      this.#send(packets.subscribe(1, this.#filters, 1));
      this.#onState({ name: "online", kept });
    }
  }

  #subscribed({ reasons }) {
    // A broker may say here what may not be read; another one stays silent and never delivers it.
    if (reasons.every((reason) => reason >= 0x80)) {
      this.#wanted = false;
      this.#drop();
      this.#onState({ name: "refused", reason: "rights" });
    }
  }

  #ping() {
    if (this.#isSending || this.#socket.bufferedAmount) return; // that is sign enough, and a ping would wait behind it
    this.#send(packets.pingreq());
    this.#expect(PATIENCE);
  }

  #expect(seconds) {
    clearTimeout(this.#deadline);
    this.#deadline = setTimeout(() => this.#lost("broker"), seconds * 1000);
  }

  #lost(what) {
    this.#drop();
    if (!this.#wanted) return;
    const seconds = Math.min(LONGEST_WAIT, 2 ** this.#attempts++);
    this.#retry = setTimeout(() => this.#try(), seconds * 1000);
    this.#reason = what;
    this.#onState({ name: "waiting", reason: what });
  }

  #drop() {
    clearInterval(this.#heartbeat);
    clearTimeout(this.#deadline);
    this.#online = false;
    this.#isSending = false;
    this.#later = [];
    const socket = this.#socket;
    this.#socket = this.#reader = null;
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    }
    for (const { reject } of this.#unacknowledged.values()) reject(new LinkLost());
    this.#unacknowledged.clear();
  }

  #send(parts) {
    if (this.#isSending) this.#later.push(...parts);
    else for (const part of parts) this.#socket.send(part);
  }

  async #sendSlowly(socket, parts, onProgress) {
    const check = () => {
      if (!this.#online || socket !== this.#socket) throw new LinkLost();
    };
    const total = parts.reduce((sum, part) => sum + part.length, 0);
    let handed = 0;
    check();
    this.#isSending = true;
    try {
      for (const part of parts) {
        for (let at = 0; at < part.length; at += FRAME) {
          const frame = part.subarray(at, at + FRAME);
          socket.send(frame);
          handed += frame.length;
          const most = handed < total ? MOST_BUFFERED : 0; // at last all of it, so that progress goes on to its end
          while (socket.bufferedAmount > most) {
            onProgress(Math.max(0, handed - socket.bufferedAmount) / total);
            await new Promise((resolve) => setTimeout(resolve, 20));
            check();
          }
        }
      }
      onProgress(1);
    } finally {
      if (socket === this.#socket) {
        this.#isSending = false;
        this.#send(this.#later.splice(0));
      }
    }
  }
}
