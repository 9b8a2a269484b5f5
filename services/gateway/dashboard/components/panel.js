/** Panel heading with an aside, and the empty state. */

import { html } from "../html.js";

export function heading(id, title, aside = "") {
  return html`<header class="panel-head">
    <h2 id="${id}-title">${title}</h2>
    ${aside && html`<p class="aside">${aside}</p>`}
  </header>`;
}

/** The empty state teaches the next step. */
export function empty(title, ...content) {
  return html`<div class="empty">
    <p class="empty-title">${title}</p>
    ${content}
  </div>`;
}

export const waiting = html`<p class="muted skeleton" aria-hidden="true">Waiting for the yard …</p>`;
