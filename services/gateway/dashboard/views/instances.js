/** Instances: node, load, memory, and the link to their logs. */

import { slotDots } from "../components/bar.js";
import { stateBadge } from "../components/badge.js";
import { empty, heading, waiting } from "../components/panel.js";
import { spark } from "../components/spark.js";
import { ago, bytes, duration, plural, splitError } from "../format.js";
import { html } from "../html.js";
import { STARTING, isLive, sortedInstances } from "../selectors.js";
import { SPAN_S } from "../trends.js";

export const needs = ["loaded", "instances", "activity", "trends", "logs.instance", "now"];

const ENDED_SHOWN = 5;

export function view(state) {
  const all = sortedInstances(state);
  const live = all.filter(isLive);
  const ended = all.filter((instance) => !isLive(instance)).slice(0, ENDED_SHOWN);
  return html`${heading("instances", "Instances", live.length > 0 && `${live.length} running`)}
    ${!state.loaded ? waiting : live.length ? table(live, "Running instances", state) : noInstances(ended.length > 0)}
    ${ended.length > 0 &&
    html`<details class="past"><summary>${plural(ended.length, "instance")} that ended recently</summary>
      ${table(ended, "Instances that ended", state)}</details>`}`;
}

function noInstances(hadInstances) {
  const why = "An instance is one running engine with one model in its memory.";
  const how = "Start a model above, or simply send it a request.";
  return empty(hadInstances ? "Nothing is running now" : "Nothing has run yet", html`<p>${why} ${how}</p>`);
}

function table(instances, caption, state) {
  return html`<div class="table-wrap" data-key="${caption}"><table>
    <caption class="sr">${caption}</caption>
    <thead><tr>
      <th scope="col">Model</th><th scope="col">State</th><th scope="col">Slots</th><th scope="col">Tokens/s</th><th scope="col">Memory</th><th scope="col">Node</th>
      <th scope="col">Engine</th><th scope="col">Port</th><th scope="col">Load time</th><th scope="col">Since</th>
      <th scope="col"><span class="sr">Log</span></th>
    </tr></thead>
    <tbody>${instances.map((instance) => row(instance, state))}</tbody>
  </table></div>`;
}

function row(instance, state) {
  const chosen = state.logs.instance === instance.instance;
  const unknown = html`<span class="muted">–</span>`;
  return html`<tr data-key="${instance.instance}" class="${chosen && "chosen"}">
    <th scope="row">${instance.model}<small class="muted id">${instance.instance}</small></th>
    <td data-label="State">${stateBadge(instance.state)}${progress(instance)}${why(instance)}</td>
    <td data-label="Slots">${isLive(instance) ? slotDots(instance.busy ?? 0, instance.slots ?? 0) : unknown}</td>
    <td data-label="Tokens/s">${isLive(instance) && state.activity[instance.instance] ? speed(instance, state) : unknown}</td>
    <td data-label="Memory">${instance.reserved?.length ? memory(instance) : unknown}</td>
    <td data-label="Node">${instance.node}</td>
    <td data-label="Engine">${instance.engine}</td>
    <td data-label="Port">${instance.port ?? unknown}</td>
    <td data-label="Load time">${duration(instance.load_s) || unknown}</td>
    <td data-label="Since">${ago(instance.changed_at, state.now)}</td>
    <td><button type="button" class="small" data-action="logs" data-instance="${instance.instance}"
      aria-pressed="${String(chosen)}" aria-label="Log of ${instance.model}">Log</button></td>
  </tr>`;
}

/** Tokens read and written a second, and the trend of the written ones. */
function speed(instance, state) {
  const now = state.activity[instance.instance];
  const points = state.trends[instance.instance]?.completion_tokens_per_s ?? [];
  return html`${tokens(now.completion_tokens_per_s)}<small class="muted">${tokens(now.prompt_tokens_per_s)} in${
    now.kv_used_ratio != null && ` · KV ${Math.round(100 * now.kv_used_ratio)} %`}</small>
    ${spark("Tokens a second", points, { now: now.sampled_at, spanS: SPAN_S })}`;
}

const tokens = (perSecond) => (perSecond ? perSecond.toFixed(perSecond < 100 ? 1 : 0) : "0");

/** Reserved memory; the measured value is in the title. */
function memory(instance) {
  return (instance.reserved ?? []).map(({ device, predicted_bytes: predicted, measured_bytes: measured }) => {
    const title = measured == null ? "not measured yet" : `${bytes(measured)} measured`;
    return html`<div title="${device}: ${title}">${bytes(predicted)}</div>`;
  });
}

function progress(instance) {
  const known = STARTING.includes(instance.state) && typeof instance.progress === "number";
  return known ? html` <span class="muted">${Math.round(100 * instance.progress)} %</span>` : "";
}

const REASONS = {
  idle: "No requests for a while",
  evicted: "Another model needed its memory",
  replaced: "Its model was changed",
  crashed: "A process ended unexpectedly",
  oom: "There was not enough memory",
  unhealthy: "It did not get ready in time, or hung",
  drained: "Its node is being drained",
};

function why(instance) {
  const sentence = splitError(instance.error).sentence || REASONS[instance.reason];
  return sentence ? html`<small class="muted why">${sentence}</small>` : "";
}
