/** The API key form, shown instead of the panels when the gateway requires a key. */

import { html } from "../html.js";

export const needs = ["connection"];

export function view({ connection: { status, refused } }) {
  if (status !== "locked") return "";
  return html`<form class="key-form" data-action="use-key" autocomplete="off">
    <h2>This yard has a key</h2>
    <p>Enter an API key to see what is going on. It stays in this tab and is forgotten when you close it.</p>
    ${refused && html`<p class="problem-text" role="alert">That key was not accepted.</p>`}
    <label>API key
      <input type="password" name="key" required autofocus spellcheck="false" autocomplete="off"
        ${refused && html`aria-invalid="true"`}>
    </label>
    <button type="submit" class="primary">Open</button>
  </form>`;
}
