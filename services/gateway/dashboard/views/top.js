/** The head of the page: what the yard does in one sentence, and whether this page still hears from it. */

import { plural } from "../format.js";
import { html } from "../html.js";
import { summary } from "../select.js";

export const needs = ["connection", "loaded", "models", "instances", "downloads", "keyed", "now"];

export function view(state) {
  return html`<p class="sentence">${opening(state)}</p>
    <div class="connection">
      <span role="status" class="link ${state.connection.broker && state.connection.status}">${connection(state)}</span>
      ${state.connection.status === "waiting" &&
      html`<button type="button" class="small" data-action="reconnect">Try now</button>`}
      ${state.keyed && html`<button type="button" class="small quiet" data-action="forget-key">Forget key</button>`}
    </div>`;
}

function opening(state) {
  if (state.connection.status === "locked") return "The gate is locked.";
  return state.loaded ? sentence(summary(state)) : "Looking into the yard …";
}

function sentence(now) {
  if (now.models === 0) return now.downloads ? "The first model is on its way." : "The yard is open and empty.";
  const parts = [now.ready ? `${plural(now.ready, "model")} ready` : "No model loaded"];
  if (now.coming) parts.push(`${now.coming} on the way`);
  if (now.failed) parts.push(`${now.failed} in trouble`);
  if (now.slots) parts.push(`${now.busy} of ${plural(now.slots, "slot")} busy`);
  if (now.downloads) parts.push(plural(now.downloads, "download"));
  return parts.join(" · ");
}

function connection({ connection: { status, retryAt, broker }, now }) {
  if (status === "open") return broker ? "Live" : "The broker is away; this is how it was";
  if (status === "locked") return "Locked";
  if (status === "connecting") return "Connecting …";
  const seconds = Math.max(1, Math.ceil(retryAt - now));
  // A count of every second would be read aloud every second.
  return html`Disconnected<span aria-hidden="true"> · next try in ${seconds} s</span>`;
}
