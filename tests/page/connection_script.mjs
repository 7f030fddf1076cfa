// A page's connection without a page: told where to connect, it does so, sends itself a picture, loses the link, is
// back, and says all that happened.

import { createInterface } from "node:readline";

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const told = JSON.parse((await lines.next()).value);
const { Connection, LinkLost, Refusal } = await import(`${told.static}/connection.mjs`);

const say = (what) => console.log(JSON.stringify(what));
const waiting = new Map();

const connection = new Connection({
  url: told.url,
  clientId: `test-${process.pid}`,
  filters: ["legion/echo", "legion/state"],
  onState: ({ name, reason = "" }) => say({ state: name, reason }),
  onMessage: ({ topic, payload, correlation }) => {
    const number = correlation && new TextDecoder().decode(correlation);
    if (waiting.has(number)) waiting.get(number)(payload);
    else say({ topic, text: new TextDecoder().decode(payload) });
  },
});
connection.open(told.user ?? null, told.password ?? "");

async function echo({ number, size, topic }) {
  const sent = new Uint8Array(size).map((_, i) => (i * 7 + (i >> 8)) % 256);
  const came = new Promise((resolve) => waiting.set(number, resolve));
  const shares = [];
  try {
    await connection.publish(
      { topic, payload: sent, correlation: new TextEncoder().encode(number), expiry: 60 }, (share) => shares.push(share),
    );
    const same = Buffer.compare(Buffer.from(sent), Buffer.from(await came)) === 0;
    const ordered = shares.every((share, i) => share >= 0 && share <= 1 && (i === 0 || share >= shares[i - 1]));
    say({ echo: number, same, ordered, last: shares.at(-1) });
  } catch (error) {
    if (!(error instanceof Refusal || error instanceof LinkLost)) throw error;
    say({ echo: number, refused: error.message });
  }
}

for await (const line of lines) echo(JSON.parse(line));
connection.close();
