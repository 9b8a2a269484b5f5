/** Library entries with size and users, free space of the stores, and the trash. */

import { levelBar, progressBar } from "../components/bar.js";
import { empty, heading, waiting } from "../components/panel.js";
import { ago, bytes, count, percent, plural } from "../format.js";
import { html } from "../html.js";
import { jobOf, sortedEntries, sortedStores } from "../selectors.js";

export const needs = ["loaded", "library", "stores", "trash", "jobs", "sort", "open", "pending", "now"];

const VERIFY_BADGES = {
  verified: ["checked", "good"],
  unverified: ["not checked here", "calm"],
  unknown: ["never checked", "calm"],
  damaged: ["damaged", "bad"],
};
const SORTS = { name: "by name", size: "largest first", date: "newest first" };
const SHOWN = 200;

export function view(state) {
  const entries = sortedEntries(state);
  const shown = entries.slice(0, SHOWN);
  return html`${heading("library", "Library", entries.length > 0 && plural(entries.length, "model"))}
    ${sortedStores(state).map(storeView)}
    ${!state.loaded ? waiting : entries.length === 0 ? emptyState : table(shown, state)}
    ${entries.length > SHOWN && html`<p class="muted">And ${entries.length - SHOWN} more: <code>yard library</code></p>`}
    ${trash(state)}`;
}

const emptyState = empty(
  "Nothing on disk yet",
  html`<p class="muted">Pulled models appear here, and files that you put into a store’s folder.</p>`,
);

function storeView(store) {
  const used = store.total_bytes - store.free_bytes;
  const parts = [
    `${bytes(store.used_bytes - (store.partial_bytes ?? 0))} of models`,
    store.partial_bytes > 0 && `${bytes(store.partial_bytes)} not complete`,
    store.trash_bytes > 0 && `${bytes(store.trash_bytes)} in the trash`,
  ];
  return html`<div class="store" data-key="${store.node}.${store.store}">
    <p class="device-head"><strong>${store.store}</strong> <span class="muted">on ${store.node}: ${store.path}</span>
      <span class="muted sensors">${parts.filter(Boolean).join(" · ")}</span></p>
    ${levelBar("Disk", percent(used, store.total_bytes), `${bytes(store.free_bytes)} free`, { warns: true })}
    ${store.problem && html`<p class="problem-text">${store.problem}</p>`}
  </div>`;
}

function table(entries, state) {
  return html`<label class="library-sort"><span>Sorted</span>
      <select data-change="sort" data-value="${state.sort}">${Object.entries(SORTS).map(
        ([by, label]) => html`<option value="${by}">${label}</option>`,
      )}</select></label>
    <div class="table-wrap"><table class="library">
    <thead><tr><th scope="col">Model</th><th scope="col">Size</th><th scope="col">Quantization</th>
      <th scope="col">Context</th><th scope="col">Used by</th><th scope="col">Bytes</th><th scope="col"></th></tr></thead>
    <tbody>${entries.map((entry) => row(entry, state))}</tbody></table></div>`;
}

const some = (names) => (names.length > 4 ? `${names.slice(0, 3).join(", ")} and ${names.length - 3} more` : names.join(", "));
const keyOf = (entry) => `${entry.node}.${entry.store}.${entry.entry}`;

function row(entry, state) {
  const key = keyOf(entry);
  const open = state.open?.entry === key ? state.open.what : null;
  const facts = entry.facts ?? {};
  return html`<tr data-key="${key}">
    <th scope="row">${entry.name}
      <small class="muted">${ago(entry.downloaded_at ?? entry.modified_at, state.now)}${entry.mmproj && ", sees images"}</small>
      ${entry.description && open !== "describe" && html`<small class="description">${entry.description}</small>`}
      ${entry.problem && html`<small class="problem-text">${entry.problem}</small>`}
      ${open === "describe" && describeForm(key, entry, state.open.revision)}${open === "delete" && deleteForm(key, entry)}</th>
    <td data-label="Size">${bytes(entry.size_bytes)}</td>
    <td data-label="Quantization">${facts.quant ?? entry.format}
      ${facts.architecture && html`<small class="muted">${facts.architecture} ${count(facts.n_params)}</small>`}</td>
    <td data-label="Context">${count(facts.n_ctx_train)}</td>
    <td data-label="Used by">${some(entry.used_by ?? [])}</td>
    <td data-label="Bytes">${verifyState(entry, jobOf(state, entry))}</td>
    <td>${buttons(key, entry, state)}</td>
  </tr>`;
}

function verifyState(entry, job) {
  if (job) {
    return html`${progressBar(`${job.kind} ${entry.name}`, percent(job.bytes_done, job.bytes_total))}
      <button type="button" class="link-like" data-action="cancel-job" data-job="${job.job}">Cancel</button>`;
  }
  const [label, tone] = VERIFY_BADGES[entry.verified] ?? VERIFY_BADGES.unknown;
  return html`<span class="badge ${tone}">${label}</span>`;
}

function buttons(key, entry, state) {
  const disabled = state.pending[`library ${key}`] && html`aria-disabled="true"`;
  const button = (action, label, what = "") =>
    html`<button type="button" class="small" data-action="${action}" data-entry="${key}" data-what="${what}"
      data-revision="${entry.description_revision}" ${disabled}
      aria-label="${label} ${entry.name}">${label}</button>`;
  return html`<span class="library-buttons">${button("open", "Describe", "describe")}
    ${entry.verified === "damaged" ? button("repair", "Repair") : entry.format !== "link" && button("verify", "Check")}
    ${button("open", "Delete", "delete")}</span>`;
}

/** `revision`: of the description shown; a newer description is not overwritten. */
function describeForm(key, entry, revision) {
  return html`<form class="library-form" data-action="describe">
    <input type="hidden" name="entry" value="${key}">
    <input type="hidden" name="revision" value="${revision}">
    <label><span>Description</span><textarea name="description" rows="2" data-enter="submit">${entry.description}</textarea></label>
    <span><button type="submit" class="small primary">Save</button>
      <button type="button" class="small" data-action="close">Never mind</button></span></form>`;
}

function deleteForm(key, entry) {
  const needed = (entry.used_by ?? []).length > 0;
  return html`<form class="library-form" data-action="delete">
    <input type="hidden" name="entry" value="${key}">
    <p>Delete ${bytes(entry.size_bytes)} on ${entry.node}? It stays in the trash for 24 hours.</p>
    ${needed && html`<label class="check"><input type="checkbox" name="force"> though ${some(entry.used_by)} need it</label>`}
    <span><button type="submit" class="small primary">Delete</button>
      <button type="button" class="small" data-action="close">Never mind</button></span></form>`;
}

function trash(state) {
  const items = Object.values(state.trash).sort((a, b) => b.trashed_at - a.trashed_at);
  if (items.length === 0) return "";
  return html`<details class="past"><summary>In the trash: ${plural(items.length, "model")}</summary>
    <ul class="cards">${items.map((item) => trashItem(item, state))}</ul></details>`;
}

function trashItem(item, state) {
  const key = `${item.node}.${item.store}.${item.item}`;
  return html`<li class="card" data-key="${key}"><div class="card-head">
    <p>${item.name} <span class="muted">${bytes(item.size_bytes)}, deleted ${ago(item.trashed_at, state.now)}</span></p>
    <button type="button" class="small" data-action="restore" data-item="${key}"
      ${state.pending[`library ${key}`] && html`aria-disabled="true"`} aria-label="Restore ${item.name}">Restore</button>
  </div></li>`;
}
