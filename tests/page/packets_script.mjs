// Told packets to write, and bytes to read in pieces, by standard input; says what came of it on standard output.

import { readFileSync } from "node:fs";

const told = JSON.parse(readFileSync(0, "utf-8"));
const packets = await import(`${told.static}/packets.mjs`);

const bytes = (hex) => Uint8Array.from(hex.match(/../g) ?? [], (each) => parseInt(each, 16));
const hex = (array) => (array === null ? null : Buffer.from(array).toString("hex"));

const makers = {
  connect: (p) => packets.connect(p),
  subscribe: (p) => packets.subscribe(p.number, p.filters, p.qos),
  publish: (p) => packets.publish({ ...p, payload: bytes(p.payload), correlation: p.correlation && bytes(p.correlation) }),
  puback: (p) => packets.puback(p.number),
  pingreq: () => packets.pingreq(),
  disconnect: () => packets.disconnect(),
};
const written = told.write.map(([kind, parameters]) => makers[kind](parameters).map(hex).join(""));

const read = told.read.map((pieces) => {
  const reader = new packets.PacketReader();
  const found = [];
  try {
    for (const piece of pieces) {
      for (const packet of reader.take(bytes(piece))) {
        for (const name of ["payload", "correlation"]) if (name in packet) packet[name] = hex(packet[name]);
        if (packet.mostBytes === Infinity) packet.mostBytes = null;
        found.push(packet);
      }
    }
  } catch (error) {
    if (!(error instanceof packets.PacketError)) throw error;
    found.push({ kind: "error" });
  }
  return found;
});

console.log(JSON.stringify({ written, read }));
