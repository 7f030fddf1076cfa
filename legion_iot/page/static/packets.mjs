// The packets of MQTT 5 that a page needs, as bytes (OASIS MQTT Version 5.0, sections 2 and 3).
//
// Encoders give an array of Uint8Array, so that a picture is not copied to be sent. What a broker sends is read with
// limits: a length beyond `MOST_BYTES`, a string that ends outside its packet or a packet of another kind is an error.

export const MOST_BYTES = 32 << 20;

const CONNECT = 1, CONNACK = 2, PUBLISH = 3, PUBACK = 4, SUBSCRIBE = 8, SUBACK = 9, PINGREQ = 12, PINGRESP = 13;
const DISCONNECT = 14;

const RESPONSE_TOPIC = 0x08, CORRELATION = 0x09, MESSAGE_EXPIRY = 0x02, SESSION_EXPIRY = 0x11, MAXIMUM_PACKET = 0x27;
// How the value of each property is written (2.2.2.2).
const PROPERTIES = {
  0x01: "byte", 0x02: "four", 0x03: "text", 0x08: "text", 0x09: "bytes", 0x0b: "length", 0x11: "four", 0x12: "text",
  0x13: "two", 0x15: "text", 0x16: "bytes", 0x17: "byte", 0x18: "four", 0x19: "byte", 0x1a: "text", 0x1c: "text",
  0x1f: "text", 0x21: "two", 0x22: "two", 0x23: "two", 0x24: "byte", 0x25: "byte", 0x26: "pair", 0x27: "four",
  0x28: "byte", 0x29: "byte", 0x2a: "byte",
};

const utf8 = new TextEncoder();
const fromUtf8 = new TextDecoder("utf-8", { fatal: true });

/** What a broker sent that is not MQTT, or not what a page may be sent. */
export class PacketError extends Error {}

// --- writing ---

function two(value) {
  return Uint8Array.of(value >> 8, value & 0xff);
}

function four(value) {
  return Uint8Array.of(value >>> 24, (value >>> 16) & 0xff, (value >>> 8) & 0xff, value & 0xff);
}

function length(value) {
  const bytes = [];
  do {
    const rest = Math.floor(value / 128);
    bytes.push((value % 128) | (rest ? 0x80 : 0));
    value = rest;
  } while (value);
  return Uint8Array.from(bytes);
}

function binary(bytes) {
  if (bytes.length > 0xffff) throw new RangeError("a text or value is longer than 65,535 bytes");
  return joined([two(bytes.length), bytes]);
}

function text(value) {
  return binary(utf8.encode(value));
}

function joined(parts) {
  const whole = new Uint8Array(size(parts));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

function size(parts) {
  return parts.reduce((sum, part) => sum + part.length, 0);
}

function properties(parts) {
  return joined([length(size(parts)), ...parts]);
}

function packet(kind, flags, head, payload = null) {
  const body = joined(head);
  const first = joined([Uint8Array.of((kind << 4) | flags), length(body.length + (payload?.length ?? 0)), body]);
  return payload?.length ? [first, payload] : [first];
}

/** CONNECT (3.1); without a user, as nobody in particular. The broker keeps the session for `sessionSeconds`. */
export function connect({ clientId, user = null, password = "", keepAlive, sessionSeconds = 0 }) {
  const flags = user === null ? 0 : 0xc0;
  const wanted = [Uint8Array.of(SESSION_EXPIRY), four(sessionSeconds), Uint8Array.of(MAXIMUM_PACKET), four(MOST_BYTES)];
  const who = user === null ? [] : [text(user), text(password)];
  const head = [text("MQTT"), Uint8Array.of(5, flags), two(keepAlive), properties(wanted), text(clientId), ...who];
  return packet(CONNECT, 0, head);
}

/** SUBSCRIBE (3.8) to filters, all at one QoS. */
export function subscribe(number, filters, qos) {
  const wanted = filters.flatMap((filter) => [text(filter), Uint8Array.of(qos)]);
  return packet(SUBSCRIBE, 2, [two(number), properties([]), ...wanted]);
}

/** PUBLISH (3.3); QoS 1 where it has a number. */
export function publish({ topic, payload, number = 0, responseTopic = "", correlation = null, expiry = 0 }) {
  const attached = [];
  if (expiry) attached.push(Uint8Array.of(MESSAGE_EXPIRY), four(expiry));
  if (responseTopic) attached.push(Uint8Array.of(RESPONSE_TOPIC), text(responseTopic));
  if (correlation) attached.push(Uint8Array.of(CORRELATION), binary(correlation));
  const head = [text(topic), ...(number ? [two(number)] : []), properties(attached)];
  return packet(PUBLISH, number ? 2 : 0, head, payload);
}

/** PUBACK (3.4): the message is ours now. */
export function puback(number) {
  return packet(PUBACK, 0, [two(number)]);
}

/** PINGREQ (3.12). */
export function pingreq() {
  return packet(PINGREQ, 0, []);
}

/** DISCONNECT (3.14), in order; the session ends with it. */
export function disconnect() {
  return packet(DISCONNECT, 0, [Uint8Array.of(0), properties([Uint8Array.of(SESSION_EXPIRY), four(0)])]);
}

// --- reading ---

class Cursor {
  constructor(bytes) {
    this.bytes = bytes;
    this.at = 0;
  }

  get left() {
    return this.bytes.length - this.at;
  }

  take(count) {
    if (count > this.left) throw new PacketError("a packet ends too soon");
    this.at += count;
    return this.bytes.subarray(this.at - count, this.at);
  }

  byte() {
    return this.take(1)[0];
  }

  two() {
    const [high, low] = this.take(2);
    return high * 256 + low;
  }

  four() {
    return this.two() * 65536 + this.two();
  }

  length() {
    let value = 0;
    for (let shift = 0; shift < 28; shift += 7) {
      const byte = this.byte();
      value += (byte & 0x7f) * 2 ** shift;
      if (!(byte & 0x80)) return value;
    }
    throw new PacketError("a length has more than four bytes");
  }

  binary() {
    return this.take(this.two());
  }

  text() {
    try {
      return fromUtf8.decode(this.binary());
    } catch (error) {
      throw error instanceof PacketError ? error : new PacketError("a text is not UTF-8");
    }
  }

  properties() {
    const end = this.length() + this.at;
    if (end > this.bytes.length) throw new PacketError("properties end outside their packet");
    const found = {};
    while (this.at < end) found[this.length()] = this.value(this.bytes[this.at - 1]);
    if (this.at !== end) throw new PacketError("properties overlap what follows them");
    return found;
  }

  value(property) {
    switch (PROPERTIES[property]) {
      case "byte": return this.byte();
      case "two": return this.two();
      case "four": return this.four();
      case "length": return this.length();
      case "text": return this.text();
      case "bytes": return this.binary();
      case "pair": return [this.text(), this.text()];
      default: throw new PacketError(`there is no property ${property}`);
    }
  }
}

function read(first, body) {
  const cursor = new Cursor(body);
  switch (first >> 4) {
    case CONNACK: {
      const kept = (cursor.byte() & 1) === 1;
      const reason = cursor.byte();
      const found = cursor.left ? cursor.properties() : {};
      return { kind: "connack", kept, reason, mostBytes: found[MAXIMUM_PACKET] ?? Infinity };
    }
    case PUBLISH: {
      const topic = cursor.text();
      const number = (first & 6) ? cursor.two() : 0;
      const found = cursor.properties();
      const payload = cursor.take(cursor.left);
      const correlation = found[CORRELATION] ?? null;
      return { kind: "publish", topic, number, payload, retain: (first & 1) === 1, correlation };
    }
    case PUBACK: return { kind: "puback", number: cursor.two(), reason: cursor.left ? cursor.byte() : 0 };
    case SUBACK: {
      const number = cursor.two();
      cursor.properties();
      return { kind: "suback", number, reasons: [...cursor.take(cursor.left)] };
    }
    case PINGRESP: return { kind: "pingresp" };
    case DISCONNECT: return { kind: "disconnect", reason: cursor.left ? cursor.byte() : 0 };
    default: throw new PacketError(`a packet of kind ${first >> 4} is not for a client`);
  }
}

/** Takes bytes as they come, in pieces of any size, and gives the packets that are complete. */
export class PacketReader {
  #pieces = [];
  #size = 0;

  /** The packets that these bytes complete; raises PacketError. */
  take(bytes) {
    this.#pieces.push(bytes);
    this.#size += bytes.length;
    const found = [];
    for (let head = this.#head(); head && head.end <= this.#size; head = this.#head()) {
      const whole = this.#pieces.length === 1 ? this.#pieces[0] : joined(this.#pieces);
      found.push(read(whole[0], whole.subarray(head.begin, head.end)));
      this.#pieces = head.end < whole.length ? [whole.subarray(head.end)] : [];
      this.#size -= head.end;
    }
    return found;
  }

  /** Where the body of the next packet begins and ends, once that can be told. */
  #head() {
    if (this.#pieces.length > 1 && this.#pieces[0].length < 5) this.#pieces = [joined(this.#pieces)];
    const bytes = this.#pieces[0];
    let size = 0;
    for (let at = 1; at <= 4 && bytes && at < bytes.length; at++) {
      size += (bytes[at] & 0x7f) * 128 ** (at - 1);
      if (bytes[at] & 0x80) continue;
      if (size > MOST_BYTES) throw new PacketError("a packet is larger than a page takes");
      return { begin: at + 1, end: at + 1 + size };
    }
    if (bytes?.length > 4) throw new PacketError("a length has more than four bytes");
    return null;
  }
}
