/** A sparkline of the last minutes. */

import { html } from "../html.js";

const WIDTH = 120;
const HEIGHT = 22;

/** `points`: [unix seconds, value], oldest first. `top`: the value at the upper edge, by default the maximum. */
export function spark(label, points, { now, spanS, top = null }) {
  const shown = points.filter(([at]) => at >= now - spanS);
  if (shown.length < 2) return "";
  const highest = Math.max(top ?? 0, ...shown.map(([, value]) => value)) || 1;
  const line = shown.map(([at, value]) => `${x(at, now, spanS)},${y(value, highest)}`).join(" ");
  return html`<svg class="spark" viewBox="0 0 ${WIDTH} ${HEIGHT}" preserveAspectRatio="none" role="img"
    aria-label="${label}, the last ${Math.round(spanS / 60)} minutes"><polyline points="${line}" /></svg>`;
}

const x = (at, now, spanS) => (WIDTH * Math.min(1, Math.max(0, 1 - (now - at) / spanS))).toFixed(1);
const y = (value, highest) => (HEIGHT - 1 - (HEIGHT - 2) * Math.min(1, Math.max(0, value / highest))).toFixed(1);
