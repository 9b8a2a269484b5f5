/** A line of code with a button that copies it. */

import { html } from "../html.js";

export function copyable(text, { label = "Copy", prompt = false } = {}) {
  return html`<span class="copyable">
    <code class="${prompt && "prompt"}">${text}</code>
    <button type="button" class="small" data-action="copy" data-text="${text}" aria-label="${label}: ${text}">Copy</button>
  </span>`;
}
