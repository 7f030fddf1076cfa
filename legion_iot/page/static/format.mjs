// Figures as people read them: three digits, and a unit that fits.

const NONE = "–";

function digits(value) {
  const places = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2;
  return value.toLocaleString("en", { minimumFractionDigits: places, maximumFractionDigits: places });
}

/** Milliseconds, in seconds from ten of them on. */
export function time(ms) {
  if (ms === null || ms === undefined) return NONE;
  return ms >= 10_000 ? `${digits(ms / 1000)} s` : `${digits(ms)} ms`;
}

/** Seconds since something began. */
export function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 129_600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86_400)} days`;
}

export function bytes(count) {
  for (const [unit, size] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (count >= size) return `${digits(count / size)} ${unit}`;
  }
  return `${count} B`;
}

export function percent(share) {
  const value = 100 * share;
  return value > 0 && value < 0.995 ? "< 1 %" : `${Math.round(value)} %`;
}

/** Bytes per second, in the bits that networks are sold by. */
export function rate(bytesPerSecond) {
  const bits = 8 * bytesPerSecond;
  return bits >= 1e9 ? `${digits(bits / 1e9)} Gbit/s` : `${digits(bits / 1e6)} Mbit/s`;
}

export function number(value) {
  return digits(value);
}

export function count(value, one, many = `${one}s`) {
  return `${value.toLocaleString("en")} ${value === 1 ? one : many}`;
}
