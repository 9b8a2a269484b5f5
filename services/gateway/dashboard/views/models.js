/** What may be served, how each model is, and the switch to start and stop it. */

import { slotDots } from "../components/bar.js";
import { stateBadge } from "../components/badge.js";
import { copyable } from "../components/copyable.js";
import { empty, heading, waiting } from "../components/panel.js";
import { count, duration, exact, plural, splitError } from "../format.js";
import { html } from "../html.js";
import { COMING, filteredModels, modelStatus } from "../select.js";

export const needs = ["loaded", "models", "filter", "instances", "waiting", "pending", "usage", "now"];

/** So many are seen at a glance. */
const MANY = 8;
const EXAMPLE = "yard pull ggml-org/gemma-3-1b-it-GGUF:Q4_K_M";

export function view(state) {
  const all = Object.keys(state.models).length;
  const models = filteredModels(state);
  return html`${heading("models", "Models", all > 0 && plural(all, "model"))}
    ${!state.loaded ? waiting : all === 0 ? nothing : ""}
    ${all > MANY && filter(models.length)}
    <ul class="cards long">${models.map((spec) => card(spec, state))}</ul>`;
}

const filter = (found) => html`<label class="filter" data-key="=filter"><span class="sr">Show only models with</span>
  <input type="search" data-input="filter" placeholder="Show only models with …" autocomplete="off" spellcheck="false">
  ${found === 0 && html`<span class="muted">None has that.</span>`}</label>`;

const nothing = empty(
  "No models yet",
  html`<p>Pull one from the hub: in a terminal, or with the form under <a href="#downloads">Downloads</a>.</p>
    <p>${copyable(EXAMPLE, { prompt: true })}</p>
    <p class="muted">A model that is here wakes up at its first request; nothing needs to be started by hand.</p>`,
);

function card(spec, state) {
  const status = modelStatus(state, spec.name);
  return html`<li class="card model ${status.word}" data-key="${spec.name}">
    <div class="card-head">
      <div class="card-title"><h3>${spec.name}</h3> ${stateBadge(status.word)}</div>
      ${toggle(spec, status, state.pending)}
    </div>
    <p class="facts">${facts(spec)}</p>
    ${status.word === "failed" ? failure(status.refused ?? status.main, state.now) : waitLine(spec, state) || activity(status, state.now)}
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

/** One button that changes its meaning keeps its place and the keyboard's focus. */
function toggle(spec, status, pending) {
  const starts = status.live.length === 0;
  const leaving = ["draining", "stopping"].includes(status.word);
  const waits = pending[`start ${spec.name}`] || pending[`stop ${spec.name}`] || leaving;
  const action = starts ? "start" : "stop";
  const words = starts ? (status.word === "failed" ? "Try again" : "Start") : "Stop";
  return html`<button type="button" class="${starts && "primary"}" data-action="${action}" data-model="${spec.name}"
    ${waits && html`aria-disabled="true"`} aria-label="${words} ${spec.name}"
    title="${!starts && "Running requests finish first"}">${words}</button>`;
}

/** Somebody asked for it, and it cannot be had yet. */
function waitLine(spec, state) {
  const wait = Object.values(state.waiting).find((notice) => notice.model === spec.name);
  if (!wait || wait.reason.startsWith("it is being started")) return "";
  const since = duration(Math.max(0, Math.round(state.now - wait.since)));
  return html`<p class="activity waits">Asked for ${since} ago: ${wait.reason}.</p>`;
}

/** How far it is where the engine tells; else only that it is at it. */
function loading(progress) {
  if (typeof progress !== "number") return html`<progress aria-label="Loading"></progress>`;
  return html`<progress aria-label="Loading" value="${progress}" max="1"></progress>
    <span>${Math.round(100 * progress)} %</span>`;
}

function activity(status, now) {
  const { main, word } = status;
  if (word === "idle") return html`<p class="muted">Wakes up at the first request.</p>`;
  const many = status.live.length > 1 && html`<span class="muted">${plural(status.live.length, "instance")}</span>`;
  if (COMING.includes(word)) {
    return html`<p class="activity">${loading(main.progress)}
      <span class="muted">for ${duration(Math.max(0, Math.round(now - main.changed_at)))}</span> ${many}</p>`;
  }
  return html`<p class="activity">${slotDots(status.busy, status.slots)} ${many}
    ${main.load_s != null && html`<span class="muted">loaded in ${duration(main.load_s)}</span>`}</p>`;
}

function failure(instance, now) {
  const { sentence, lines } = splitError(instance.error);
  const wait = instance.retry_at && instance.retry_at > now ? Math.ceil(instance.retry_at - now) : null;
  return html`<div class="failure">
    <p>${sentence || "It ended, and nobody said why. Its log may know more."}</p>
    ${lines && html`<details><summary>The engine’s last words</summary><pre tabindex="0">${lines}</pre></details>`}
    <p class="muted">
      ${instance.failures > 1 && `Failed ${instance.failures} times in a row. `}
      ${wait !== null && `Requests may wake it again in ${duration(wait)}. `}
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
