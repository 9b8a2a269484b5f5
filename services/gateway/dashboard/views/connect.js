/** The base URL of the OpenAI API, which has the origin of this page. */

import { copyable } from "../components/copyable.js";
import { html } from "../html.js";

export const needs = ["origin", "hasKey"];

export function view({ origin, hasKey }) {
  return html`<p class="connect-line"><span>OpenAI base URL</span> ${copyable(`${origin}/v1`, { label: "Copy the base URL" })}</p>
    <p class="muted">Point any OpenAI client here${hasKey ? " with your key" : "; any text will do as the API key"}.</p>`;
}
