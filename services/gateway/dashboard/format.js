/** Numbers formatted for people. An unknown value is ""; the view decides what to show instead. */

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const ANSI = /\u001b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\u0007\u001b]*(?:\u0007|\u001b\\)|[@-Z\\-_])/g;

const known = (value) => typeof value === "number" && Number.isFinite(value);

export function bytes(count) {
  if (!known(count)) return "";
  let value = Math.max(0, count);
  let unit = 0;
  // 1023.95 would round to 1024.0
  while (value >= (unit ? 1023.95 : 1024) && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || value >= 99.95 ? 0 : 1;
  return `${value.toFixed(digits)} ${UNITS[unit]}`;
}

export function speed(bytesPerSecond) {
  return known(bytesPerSecond) ? `${bytes(bytesPerSecond)}/s` : "";
}

/** The two largest units that matter: `0.4 s`, `45 s`, `2 min 5 s`, `1 h 2 min`, `3 d 4 h`. */
export function duration(seconds) {
  if (!known(seconds)) return "";
  const exact = Math.max(0, seconds);
  if (exact < 9.95) return `${exact.toFixed(1)} s`;
  const whole = Math.round(exact);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return pair(whole, 60, "min", 1, "s");
  if (whole < 86400) return pair(whole, 3600, "h", 60, "min");
  return pair(whole, 86400, "d", 3600, "h");
}

function pair(whole, large, largeName, small, smallName) {
  const rest = Math.floor((whole % large) / small);
  return `${Math.floor(whole / large)} ${largeName}${rest ? ` ${rest} ${smallName}` : ""}`;
}

export function ago(at, now) {
  const seconds = now - at;
  return seconds < 5 ? "just now" : `${duration(Math.floor(seconds))} ago`;
}

export function percent(part, whole) {
  return known(part) && known(whole) && whole > 0 ? Math.min(100, Math.max(0, (100 * part) / whole)) : null;
}

export function count(number) {
  if (!known(number)) return "";
  if (number < 10_000) return String(number);
  if (number < 999_500) return `${Math.round(number / 1000)}k`;
  return number < 999_950_000 ? `${(number / 1e6).toFixed(1)}M` : `${(number / 1e9).toFixed(1)}B`;
}

/** All digits, grouped: for numbers that are compared with a setting. */
export function exact(number) {
  return known(number) ? number.toLocaleString("en") : "";
}

export function plural(number, one, many = `${one}s`) {
  return `${number} ${number === 1 ? one : many}`;
}

export function clock(at) {
  const time = new Date(at * 1000);
  return [time.getHours(), time.getMinutes(), time.getSeconds()].map((n) => String(n).padStart(2, "0")).join(":");
}

/** Engine output without terminal escape sequences. */
export function plainText(text) {
  return String(text).replace(ANSI, "");
}

/** An instance's `error`: the sentence, then the engine's last output. */
export function splitError(error) {
  const [sentence, ...lines] = plainText(error ?? "").trim().split("\n");
  return { sentence: sentence.trim(), lines: lines.join("\n").trim() };
}
