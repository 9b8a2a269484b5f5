/** The frame of a panel's content: a heading with an aside, and what to show while there is nothing. */

import { html } from "../html.js";

export function heading(id, title, aside = "") {
  return html`<header class="panel-head">
    <h2 id="${id}-title">${title}</h2>
    ${aside && html`<p class="aside">${aside}</p>`}
  </header>`;
}

/** An empty panel is the best place to teach the next step. */
export function empty(title, ...content) {
  return html`<div class="empty">
    <p class="empty-title">${title}</p>
    ${content}
  </div>`;
}

export const waiting = html`<p class="muted skeleton" aria-hidden="true">Waiting for the yard …</p>`;
