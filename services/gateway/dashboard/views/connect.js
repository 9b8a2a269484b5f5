/** How to reach the yard from elsewhere: the base URL of the OpenAI API, which is this very page's. */

import { copyable } from "../components/copyable.js";
import { html } from "../html.js";

export const needs = ["origin", "keyed"];

export function view({ origin, keyed }) {
  return html`<p class="connect-line"><span>OpenAI base URL</span> ${copyable(`${origin}/v1`, { label: "Copy the base URL" })}</p>
    <p class="muted">Point any OpenAI client here${keyed ? " with your key" : "; any text will do as the API key"}.</p>`;
}
