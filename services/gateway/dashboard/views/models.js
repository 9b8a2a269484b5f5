/** Models with their status, and the button that starts and stops each. */

import { slotDots } from "../components/bar.js";
import { stateBadge } from "../components/badge.js";
import { copyable } from "../components/copyable.js";
import { empty, heading, waiting } from "../components/panel.js";
import { count, duration, exact, plural, splitError } from "../format.js";
import { html } from "../html.js";
import { STARTING, filteredModels, modelStatus } from "../selectors.js";

export const needs = ["loaded", "models", "filter", "instances", "waiting", "pending", "usage", "now"];

/** More models than this get a filter. */
const FILTER_FROM = 8;
const EXAMPLE = "yard pull ggml-org/gemma-3-1b-it-GGUF:Q4_K_M";

export function view(state) {
  const all = Object.keys(state.models).length;
  const models = filteredModels(state);
  return html`${heading("models", "Models", all > 0 && plural(all, "model"))}
    ${!state.loaded ? waiting : all === 0 ? emptyState : ""}
    ${all > FILTER_FROM && filter(models.length)}
    <ul class="cards long">${models.map((spec) => card(spec, state))}</ul>`;
}

const filter = (matches) => html`<label class="filter" data-key="=filter"><span class="sr">Show only models with</span>
  <input type="search" data-input="filter" placeholder="Show only models with …" autocomplete="off" spellcheck="false">
  ${matches === 0 && html`<span class="muted">None has that.</span>`}</label>`;

const emptyState = empty(
  "No models yet",
  html`<p>Pull one from the hub: in a terminal, or with the form under <a href="#downloads">Downloads</a>.</p>
    <p>${copyable(EXAMPLE, { prompt: true })}</p>
    <p class="muted">A model starts on its first request; nothing needs to be started by hand.</p>`,
);

function card(spec, state) {
  const status = modelStatus(state, spec.name);
  return html`<li class="card model ${status.state}" data-key="${spec.name}">
    <div class="card-head">
      <div class="card-title"><h3>${spec.name}</h3> ${stateBadge(status.state)}</div>
      ${toggle(spec, status, state.pending)}
    </div>
    <p class="facts">${facts(spec)}</p>
    ${status.state === "failed" ? failure(status.refused ?? status.main, state.now) : waitLine(spec, state) || activity(status, state.now)}
    ${usageLine(state.usage[spec.name])}
  </li>`;
}

function facts(spec) {
  const aliases = (spec.aliases ?? []).map((alias) => html`<span class="chip alias" title="Alias">${alias}</span>`);
  return html`<span class="chip">${spec.mode ?? "chat"}</span>
    ${spec.source?.quant && html`<span class="chip">${spec.source.quant}</span>`}
    ${spec.mmproj && html`<span class="chip">sees images</span>`}
    ${aliases}
    <span class="muted">${exact(spec.n_ctx ?? 8192)} tokens of context for ${plural(spec.n_parallel ?? 4, "slot")}</span>`;
}

/** One button for both actions keeps its place and the keyboard focus. */
function toggle(spec, status, pending) {
  const starts = status.live.length === 0;
  const stopping = ["draining", "stopping"].includes(status.state);
  const disabled = pending[`start ${spec.name}`] || pending[`stop ${spec.name}`] || stopping;
  const action = starts ? "start" : "stop";
  const label = starts ? (status.state === "failed" ? "Try again" : "Start") : "Stop";
  return html`<button type="button" class="${starts && "primary"}" data-action="${action}" data-model="${spec.name}"
    ${disabled && html`aria-disabled="true"`} aria-label="${label} ${spec.name}"
    title="${!starts && "Running requests finish first"}">${label}</button>`;
}

/** Why a requested model cannot start yet. */
function waitLine(spec, state) {
  const waiting = Object.values(state.waiting).find(({ model }) => model === spec.name);
  if (!waiting || waiting.reason.startsWith("it is being started")) return "";
  const since = duration(Math.max(0, Math.round(state.now - waiting.since)));
  return html`<p class="activity">Requested ${since} ago: ${waiting.reason}.</p>`;
}

/** Load progress where the engine reports it, else an indeterminate bar. */
function loading(progress) {
  if (typeof progress !== "number") return html`<progress aria-label="Loading"></progress>`;
  return html`<progress aria-label="Loading" value="${progress}" max="1"></progress>
    <span>${Math.round(100 * progress)} %</span>`;
}

function activity(status, now) {
  const { main } = status;
  if (status.state === "stopped") return html`<p class="muted">Starts on the first request.</p>`;
  const many = status.live.length > 1 && html`<span class="muted">${plural(status.live.length, "instance")}</span>`;
  if (STARTING.includes(status.state)) {
    return html`<p class="activity">${loading(main.progress)}
      <span class="muted">for ${duration(Math.max(0, Math.round(now - main.changed_at)))}</span> ${many}</p>`;
  }
  return html`<p class="activity">${slotDots(status.busy, status.slots)} ${many}
    ${main.load_s != null && html`<span class="muted">loaded in ${duration(main.load_s)}</span>`}</p>`;
}

function failure(instance, now) {
  const { sentence, lines } = splitError(instance.error);
  const waitS = instance.retry_at && instance.retry_at > now ? Math.ceil(instance.retry_at - now) : null;
  return html`<div class="failure">
    <p>${sentence || "It ended without an error message. Its log may have more."}</p>
    ${lines && html`<details><summary>The engine’s last output</summary><pre tabindex="0">${lines}</pre></details>`}
    <p class="muted">
      ${instance.failures > 1 && `Failed ${instance.failures} times in a row. `}
      ${waitS !== null && `Requests start it again in ${duration(waitS)}. `}
      ${instance.instance && html`<button type="button" class="link-like" data-action="logs" data-instance="${instance.instance}">Read its log</button>`}
    </p>
  </div>`;
}

function usageLine(usage) {
  if (!usage?.requests) return "";
  const cached = usage.cached_tokens ? ` (${count(usage.cached_tokens)} from cache)` : "";
  const parts = [
    plural(usage.requests, "request"),
    `${count(usage.prompt_tokens)} tokens read${cached}`,
    usage.completion_tokens > 0 && `${count(usage.completion_tokens)} written`,
    usage.failed > 0 && `${usage.failed} failed`,
  ];
  return html`<p class="usage muted">${parts.filter(Boolean).join(" · ")}</p>`;
}
