/** Firing alerts at the top of the page. */

import { ago, plural } from "../format.js";
import { html } from "../html.js";
import { firingAlerts } from "../selectors.js";

export const needs = ["alert_states", "silences", "pending", "now"];

const TONES = { critical: "bad", warning: "busy", info: "calm" };

export function view(state) {
  const { active, silenced } = firingAlerts(state);
  if (active.length + silenced.length === 0) return "";
  return html`<h2 class="sr">Alerts</h2>
    <ul class="alerts">${active.map((alert) => row(alert, state))}</ul>
    ${silenced.length > 0 && html`<details class="silenced"><summary>${plural(silenced.length, "alert")} silenced</summary>
      <ul class="alerts">${silenced.map((alert) => silencedRow(alert, state))}</ul></details>`}`;
}

function row(alert, state) {
  const isPending = state.pending[`silence ${alert.alert}`];
  return html`<li class="alert ${TONES[alert.severity]}" data-key="${alert.alert}" role="alert">
    <span class="badge ${TONES[alert.severity]}">${alert.severity}</span>
    <p>${alert.sentence} <span class="muted">${ago(alert.since, state.now)}</span></p>
    <button type="button" class="small quiet" data-action="silence" data-alert="${alert.alert}"
      data-rule="${alert.rule}" data-labels="${JSON.stringify(alert.labels)}" ${isPending && html`aria-disabled="true"`}
      aria-label="Silence for an hour: ${alert.sentence}">Silence for an hour</button>
  </li>`;
}

function silencedRow(alert, state) {
  const silence = state.silences[alert.silenced];
  return html`<li class="alert calm" data-key="${alert.alert}">
    <p>${alert.sentence} <span class="muted">${silence?.reason}</span></p>
    <button type="button" class="small quiet" data-action="unsilence" data-silence="${alert.silenced}"
      aria-label="End the silence: ${alert.sentence}">End the silence</button>
  </li>`;
}
