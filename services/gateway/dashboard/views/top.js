/** The head of the page: a summary of the yard and the state of the connection. */

import { plural } from "../format.js";
import { html } from "../html.js";
import { summary } from "../selectors.js";

export const needs = ["connection", "loaded", "models", "instances", "downloads", "hasKey", "now"];

export function view(state) {
  return html`<p class="sentence">${headline(state)}</p>
    <div class="connection">
      <span role="status" class="link ${state.connection.broker && state.connection.status}">${connection(state)}</span>
      ${state.connection.status === "waiting" &&
      html`<button type="button" class="small" data-action="reconnect">Try now</button>`}
      ${state.hasKey && html`<button type="button" class="small quiet" data-action="forget-key">Forget key</button>`}
    </div>`;
}

function headline(state) {
  if (state.connection.status === "locked") return "The gate is locked.";
  return state.loaded ? sentence(summary(state)) : "Looking into the yard …";
}

function sentence(counts) {
  if (counts.models === 0) return counts.downloads ? "The first model is on its way." : "The yard is open and empty.";
  const parts = [counts.ready ? `${plural(counts.ready, "model")} ready` : "No model loaded"];
  if (counts.starting) parts.push(`${counts.starting} starting`);
  if (counts.failed) parts.push(`${counts.failed} failed`);
  if (counts.slots) parts.push(`${counts.busy} of ${plural(counts.slots, "slot")} busy`);
  if (counts.downloads) parts.push(plural(counts.downloads, "download"));
  return parts.join(" · ");
}

function connection({ connection: { status, retryAt, broker }, now }) {
  if (status === "open") return broker ? "Live" : "The broker is unreachable; this is the last known state";
  if (status === "locked") return "Locked";
  if (status === "connecting") return "Connecting …";
  const seconds = Math.max(1, Math.ceil(retryAt - now));
  // A countdown would be read aloud every second.
  return html`Disconnected<span aria-hidden="true"> · next try in ${seconds} s</span>`;
}
