/** Short notices about the result of an action. */

import { html } from "../html.js";

export const needs = ["toasts"];

export function view({ toasts }) {
  return html`${toasts.map(
    ({ id, tone, text }) => html`<div class="toast ${tone}" data-key="${id}">
      <p>${text}</p>
      <button type="button" class="small quiet" data-action="dismiss" data-id="${id}" aria-label="Dismiss">×</button>
    </div>`,
  )}`;
}
