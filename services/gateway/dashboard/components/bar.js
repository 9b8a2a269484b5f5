/** Meters for levels, progress bars for work that ends. */

import { html } from "../html.js";

/** `percent` null: no sensor value, no bar. `warns`: a high level is a problem. */
export function levelBar(label, percent, text, { warns = false, line = "" } = {}) {
  if (percent === null) return "";
  return html`<div class="level">
    <span class="level-label">${label}</span>
    <span class="level-bar"><meter min="0" max="100" ${warns && html`low="88" high="96" optimum="0"`} value="${percent.toFixed(1)}" aria-label="${label}">
      ${text}</meter>${line}</span>
    <span class="level-text">${text}</span>
  </div>`;
}

/** Without `percent` the bar is indeterminate. */
export function progressBar(label, percent) {
  if (percent === null) return html`<progress aria-label="${label}"></progress>`;
  return html`<progress max="100" value="${percent.toFixed(1)}" aria-label="${label}">${Math.floor(percent)} %</progress>`;
}

/** One dot a slot; more than 16 slots are only a number. */
export function slotDots(busy, slots) {
  const text = `${busy} of ${slots} slots busy`;
  if (!slots) return html`<span class="muted">no slots yet</span>`;
  if (slots > 16) return html`<span>${text}</span>`;
  const dots = Array.from({ length: slots }, (_, index) => html`<i class="dot ${index < busy && "on"}"></i>`);
  return html`<span class="slots" role="img" aria-label="${text}" title="${text}">${dots}</span>
    <span aria-hidden="true" class="slot-count">${busy}/${slots}</span>`;
}
