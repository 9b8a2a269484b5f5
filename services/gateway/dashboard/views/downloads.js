/** Downloads, and the form that starts one. */

import { progressBar } from "../components/bar.js";
import { stateBadge } from "../components/badge.js";
import { copyable } from "../components/copyable.js";
import { empty, heading, waiting } from "../components/panel.js";
import { ago, bytes, duration, percent, plural, speed } from "../format.js";
import { html } from "../html.js";
import { isRunning, sortedDownloads } from "../selectors.js";

export const needs = ["loaded", "downloads", "pending", "now"];

const ENDED_SHOWN = 8;

export function view(state) {
  const all = sortedDownloads(state);
  const running = all.filter(isRunning).length;
  const downloads = all.slice(0, running + ENDED_SHOWN);
  return html`${heading("downloads", "Downloads", running > 0 && `${running} running`)}
    ${pullForm(state.pending.pull)}
    ${!state.loaded ? waiting : downloads.length === 0 ? emptyState : ""}
    <ul class="cards long">${downloads.map((download) => card(download, state))}</ul>`;
}

function pullForm(isPending) {
  return html`<form class="pull" data-action="pull" autocomplete="off">
    <label class="grow"><span>Pull a model</span>
      <textarea name="reference" rows="1" required spellcheck="false" autocapitalize="none" data-enter="submit"
        placeholder="org/name:Q4_K_M" aria-describedby="pull-hint"></textarea>
    </label>
    <label><span>Name it <span class="muted">(if you like)</span></span>
      <input name="name" spellcheck="false" autocapitalize="none" placeholder="as referred to">
    </label>
    <button type="submit" class="primary" ${isPending && html`aria-disabled="true"`}>Pull</button>
    <p id="pull-hint" class="muted hint">A repository on the hub with GGUF files, a colon, and the quantization. Paste several at once if you like.</p>
  </form>`;
}

const emptyState = empty(
  "No downloads yet",
  html`<p>The same works in a terminal:</p>
    <p>${copyable("yard pull REPO:QUANT", { prompt: true })}</p>
    <p class="muted">Every byte is checked against the hub’s hash, and an interrupted download resumes where it stopped.</p>`,
);

function card(download, state) {
  const running = isRunning(download);
  return html`<li class="card download ${download.state}" data-key="${download.download}">
    <div class="card-head">
      <div class="card-title"><h3>${download.model}</h3> ${stateBadge(download.state)}</div>
      ${!running && html`<span class="muted when">${ago(download.changed_at, state.now)}</span>`}
      <div class="row-actions">${verbsOf(download).map((verb) => button(verb, download, state.pending))}</div>
    </div>
    ${download.reference !== download.model && html`<p class="muted reference">${download.reference}</p>`}
    ${running && html`${progressBar(`Download of ${download.model}`, progressOf(download))}
      <p class="numbers">${numbers(download)}</p>`}
    ${download.state === "finished" && html`<p class="muted">${size(download)}, all verified. Ready to use.</p>`}
    ${download.error && html`<p class="problem-text">${download.error.message}</p>`}
    ${["failed", "cancelled"].includes(download.state) && download.bytes_done > 0
      && html`<p class="muted">${bytes(download.bytes_done)} stay on disk.</p>`}
  </li>`;
}

function progressOf(download) {
  return download.state === "transferring" ? percent(download.bytes_done, download.bytes_total) : null;
}

function numbers(download) {
  if (download.problem) return html`<span class="muted">${download.problem}</span>`;
  if (download.state === "paused") return html`<span>${bytes(download.bytes_done)} are here</span>`;
  if (download.state !== "transferring") return html`<span class="muted">Starts in a moment</span>`;
  const done = progressOf(download);
  const ofTotal = download.bytes_total ? ` of ${bytes(download.bytes_total)}` : "";
  const eta = duration(download.eta_s == null ? null : Math.round(download.eta_s));
  return html`${done !== null && html`<strong>${Math.floor(done)} %</strong>`}
    <span>${bytes(download.bytes_done)}${ofTotal}</span>
    ${download.speed_bytes_s != null && html`<span>${speed(download.speed_bytes_s)}</span>`}
    ${eta && html`<span>${eta} left</span>`}
    ${download.files?.length > 1 && html`<span>file ${Math.min(download.files_done + 1, download.files.length)} of
      ${download.files.length}</span>`}`;
}

function size(download) {
  const files = download.files?.length ? ` in ${plural(download.files.length, "file")}` : "";
  return `${bytes(download.bytes_total ?? download.bytes_done)}${files}`;
}

const LABELS = { pause: "Pause", resume: "Resume", move: "Next", cancel: "Cancel", retry: "Retry", forget: "Forget" };

function verbsOf({ state }) {
  if (state === "paused") return ["resume", "cancel"];
  if (state === "queued") return ["move", "pause", "cancel"];
  if (state === "finished") return ["forget"];
  return ["failed", "cancelled"].includes(state) ? ["retry", "forget"] : ["pause", "cancel"];
}

function button(verb, download, pending) {
  return html`<button type="button" class="small" data-action="download" data-verb="${verb}"
    data-download="${download.download}" ${pending[`${verb} ${download.download}`] && html`aria-disabled="true"`}
    aria-label="${LABELS[verb]}: the download of ${download.model}">${LABELS[verb]}</button>`;
}
