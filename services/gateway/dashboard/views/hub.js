/** Hub search, the choices of a repository with the nodes that they fit on, and pull. */

import { empty, heading } from "../components/panel.js";
import { ago, bytes, count, exact } from "../format.js";
import { html } from "../html.js";

export const needs = ["hub", "pending", "now"];

const SORTS = { downloads: "Most downloaded", likes: "Most liked", trending: "Trending", updated: "Updated", created: "New" };
const FORMATS = { gguf: "GGUF", safetensors: "Safetensors", "": "Any format" };

export function view({ hub, pending, now }) {
  return html`${heading("hub", "Find a model", hub.offer && back)}
    ${hub.offer ? offerView(hub.offer, pending) : searchView(hub.results, pending, now)}`;
}

const back = html`<button type="button" class="link-like" data-action="hub-back">Back to the search</button>`;

function searchView(results, pending, now) {
  return html`<form class="find" data-action="hub-search" autocomplete="off">
      <label class="grow"><span>Name on the hub</span>
        <input name="words" type="search" spellcheck="false" autocapitalize="none" placeholder="qwen3 instruct"></label>
      <label><span>Format</span><select name="format">${options(FORMATS)}</select></label>
      <label><span>First</span><select name="sort">${options(SORTS)}</select></label>
      <button type="submit" ${pending.hub && html`aria-disabled="true"`}>Search</button>
    </form>
    ${results?.length === 0 && empty("No such model", html`<p class="muted">Try fewer words, or another format.</p>`)}
    <ul class="cards">${(results ?? []).map((model) => card(model, pending, now))}</ul>`;
}

function options(labels) {
  return Object.entries(labels).map(([value, label]) => html`<option value="${value}">${label}</option>`);
}

function card(model, pending, now) {
  return html`<li class="card" data-key="${model.repo}">
    <div class="card-head">
      <div class="card-title"><h3>${model.repo}</h3></div>
      <button type="button" class="small" data-action="hub-offer" data-reference="${model.repo}"
        ${pending.hub && html`aria-disabled="true"`} aria-label="What ${model.repo} offers">Choose</button>
    </div>
    <p class="facts">${model.task && html`<span class="chip">${model.task}</span>`}
      ${(model.formats ?? []).map((format) => html`<span class="chip">${format}</span>`)}
      ${model.gated && html`<span class="chip">gated</span>`}
      ${model.n_params && html`<span class="chip">${weights(model.n_params)}</span>`}
      <span class="muted">${[
        model.downloads != null && `${count(model.downloads)} downloads`,
        model.likes != null && `${count(model.likes)} likes`,
        model.updated_at && `updated ${ago(model.updated_at, now)}`,
      ]
        .filter(Boolean)
        .join(" · ")}</span></p>
    ${model.models?.length > 0 && html`<p class="muted">Here as ${model.models.join(", ")}.</p>`}
  </li>`;
}

function offerView(offer, pending) {
  return html`<div class="find-offer"><h3>${offer.repo}</h3>
    <p class="facts">${offer.mode && html`<span class="chip">${offer.mode}</span>`}
      ${offer.architecture && html`<span class="chip">${offer.architecture}</span>`}
      ${offer.license && html`<span class="chip">${offer.license}</span>`}
      ${offer.gated && html`<span class="chip">gated</span>`}
      ${offer.mmprojs?.length > 0 && html`<span class="chip">sees images</span>`}
      ${offer.n_ctx_train && html`<span class="muted">trained for ${exact(offer.n_ctx_train)} tokens</span>`}</p>
    ${offer.problem && html`<p class="problem-text">${offer.problem}</p>`}
    <ul class="cards">${(offer.choices ?? []).map((choice) => choiceCard(choice, pending))}</ul></div>`;
}

function choiceCard(choice, pending) {
  const here = choice.models?.length ? `Here as ${choice.models.join(", ")}.` : choice.is_here && "Its files are here.";
  return html`<li class="card" data-key="${choice.reference}">
    <div class="card-head">
      <div class="card-title"><h3>${choice.label}</h3> <span class="muted">${bytes(choice.size_bytes)}</span>
        ${choice.is_default && html`<span class="chip">usual</span>`}</div>
      <button type="button" class="small ${choice.is_default && "primary"}" data-action="hub-pull"
        data-reference="${choice.reference}" ${pending.pull && html`aria-disabled="true"`}
        aria-label="Pull ${choice.reference}">Pull</button>
    </div>
    <ul class="fits">${(choice.fits ?? []).map((fit) => html`<li class="fit ${tone(fit)}">${fit.sentence}</li>`)}</ul>
    ${here && html`<p class="muted">${here}</p>`}
  </li>`;
}

/** The sentence has the same information as the colour. */
function tone(fit) {
  if (!fit.devices?.length) return "bad";
  return fit.devices.includes("cpu") ? "busy" : "good";
}

function weights(number) {
  if (number < 1e9) return `${Math.round(number / 1e6)}M weights`;
  return `${(number / 1e9).toFixed(number < 1e10 ? 1 : 0)}B weights`;
}
