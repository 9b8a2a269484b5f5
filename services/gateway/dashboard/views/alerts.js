/** What somebody should know of, at the top of the page; nothing at all when all is well. */

import { ago, plural } from "../format.js";
import { html } from "../html.js";
import { firingAlerts } from "../select.js";

export const needs = ["alert_states", "silences", "pending", "now"];

const TONES = { critical: "bad", warning: "busy", info: "calm" };

export function view(state) {
  const { loud, silent } = firingAlerts(state);
  if (loud.length + silent.length === 0) return "";
  return html`<h2 class="sr">Alerts</h2>
    <ul class="alerts">${loud.map((alert) => row(alert, state))}</ul>
    ${silent.length > 0 && html`<details class="silenced"><summary>${plural(silent.length, "alert")} silenced</summary>
      <ul class="alerts">${silent.map((alert) => quiet(alert, state))}</ul></details>`}`;
}

function row(alert, state) {
  const waits = state.pending[`silence ${alert.alert}`];
  return html`<li class="alert ${TONES[alert.severity]}" data-key="${alert.alert}" role="alert">
    <span class="badge ${TONES[alert.severity]}">${alert.severity}</span>
    <p>${alert.sentence} <span class="muted">${ago(alert.since, state.now)}</span></p>
    <button type="button" class="small quiet" data-action="silence" data-alert="${alert.alert}"
      data-rule="${alert.rule}" data-labels="${JSON.stringify(alert.labels)}" ${waits && html`aria-disabled="true"`}
      aria-label="Silence for an hour: ${alert.sentence}">Silence for an hour</button>
  </li>`;
}

function quiet(alert, state) {
  const silence = state.silences[alert.silenced];
  return html`<li class="alert calm" data-key="${alert.alert}">
    <p>${alert.sentence} <span class="muted">${silence?.reason}</span></p>
    <button type="button" class="small quiet" data-action="unsilence" data-silence="${alert.silenced}"
      aria-label="End the silence: ${alert.sentence}">End the silence</button>
  </li>`;
}
