// What the orchestrator tells (docs/protocol.md), read with care: on a broker without rules anybody may write anything.

const LISTS = { state: ["agents"], metrics: ["agents", "models"], plan: ["agents", "blocks", "bars"], model: ["agents"] };
const LISTS_OF_LISTS = {
  metrics: { agents: [], models: ["work", "failed"] },
  plan: { blocks: ["units", "tiles"], bars: [] },
};
const MOST_BARS = 2000;

const hasLists = (value, names = []) => names.every((name) => Array.isArray(value[name]));

/** A message of that kind, or null where there is none any more, or what came is none. */
export function readMessage(kind, payload) {
  let value;
  try {
    value = JSON.parse(new TextDecoder().decode(payload));
  } catch {
    return null;
  }
  if (value?.schema !== 1 || !hasLists(value, LISTS[kind])) return null;
  for (const [name, lists] of Object.entries(LISTS_OF_LISTS[kind] ?? {})) {
    if (!value[name].every((each) => each && hasLists(each, lists))) return null;
  }
  if (kind === "plan") value.bars = value.bars.slice(0, MOST_BARS);
  return value;
}
