/** What one engine prints, as it prints it. */

import { empty, heading } from "../components/panel.js";
import { clock, plainText } from "../format.js";
import { html } from "../html.js";
import { isLive, sortedInstances } from "../select.js";

export const needs = ["loaded", "instances", "logs", "connection"];

export function view(state) {
  const { instance, lines, follow } = state.logs;
  return html`${heading("logs", "Log")}
    <div class="log-bar">
      <label>Instance
        <select data-change="logs" data-value="${instance ?? ""}">${options(state)}</select>
      </label>
      ${instance && html`<span class="muted">${lines.length > 0 && (follow ? "Following" : "Paused while you read")}</span>`}
      ${instance && !follow && html`<button type="button" class="small" data-action="follow">Jump to newest</button>`}
    </div>
    ${instance === null ? invitation : body(lines)}`;
}

const invitation = empty(
  "Read along with an engine",
  html`<p>Choose an instance, and what its engine prints appears here, old lines first, then live.</p>`,
);

function options(state) {
  const { instance } = state.logs;
  const known = sortedInstances(state);
  const gone = instance !== null && !known.some((each) => each.instance === instance);
  return html`<option value="">none</option>
    ${gone && html`<option value="${instance}">${instance} (gone)</option>`}
    ${known.map((each) => html`<option value="${each.instance}">${each.model} · ${each.node}${!isLive(each) && ` · ${each.state}`}</option>`)}`;
}

/** Not a live region: an engine prints more than anybody wants read aloud. */
function body(lines) {
  return html`<ol class="log" data-scroll="logs" tabindex="0" aria-label="Log lines">
    ${lines.length === 0 && html`<li class="muted">Nothing printed yet.</li>`}
    ${lines.map((line) => html`<li data-key="${line.id}"><time>${clock(line.at)}</time> <span>${plainText(line.text)}</span></li>`)}
  </ol>`;
}
