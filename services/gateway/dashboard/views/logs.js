/** The log of one instance, followed live. */

import { empty, heading } from "../components/panel.js";
import { clock, plainText } from "../format.js";
import { html } from "../html.js";
import { isLive, sortedInstances } from "../selectors.js";

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
    ${instance === null ? emptyState : body(lines)}`;
}

const emptyState = empty(
  "Read along with an engine",
  html`<p>Choose an instance, and its engine’s output appears here, the last lines first, then live.</p>`,
);

function options(state) {
  const { instance } = state.logs;
  const instances = sortedInstances(state);
  const gone = instance !== null && !instances.some((known) => known.instance === instance);
  return html`<option value="">none</option>
    ${gone && html`<option value="${instance}">${instance} (gone)</option>`}
    ${instances.map(option)}`;
}

function option(instance) {
  const state = !isLive(instance) && ` · ${instance.state}`;
  return html`<option value="${instance.instance}">${instance.model} · ${instance.node}${state}</option>`;
}

/** Not a live region: there is too much output to be read aloud. */
function body(lines) {
  return html`<ol class="log" data-scroll="logs" tabindex="0" aria-label="Log lines">
    ${lines.length === 0 && html`<li class="muted">Nothing printed yet.</li>`}
    ${lines.map((line) => html`<li data-key="${line.id}"><time>${clock(line.at)}</time> <span>${plainText(line.text)}</span></li>`)}
  </ol>`;
}
