/** Usage and cost by model and day, and the use of each budget. */

import { levelBar } from "../components/bar.js";
import { empty, heading, waiting } from "../components/panel.js";
import { count, plural } from "../format.js";
import { html } from "../html.js";

export const needs = ["week", "spending"];

export function view({ week, spending }) {
  const budgets = Object.values(spending).sort((a, b) => a.budget.localeCompare(b.budget));
  const spent = week && Number(week.total.cost) > 0 && `${money(week.total.cost)} ${week.currency} in a week`;
  return html`${heading("accounts", "Usage", spent)}
    ${budgets.map((budget) => budgetBar(budget, week?.currency))}
    ${week === null ? waiting : week.rows.length > 0 ? table(week) : emptyState}`;
}

const emptyState = empty(
  "No requests in the last week",
  html`<p><code>yard price set</code> sets the price of a model, <code>yard budget set</code> a limit.</p>`,
);

function budgetBar(budget, currency) {
  const of = [budget.key && `key ${budget.key}`, budget.model].filter(Boolean).join(", ") || "everything";
  const unit = budget.unit === "money" ? (currency ?? "") : budget.unit;
  const text = `${amount(budget.used)} of ${amount(budget.limit)} ${unit} this ${budget.period}`;
  const left = budget.level === "exhausted" && budget.action === "refuse" ? ", used up: refused until it ends" : "";
  return html`<div class="budget" data-key="${budget.budget}">
    ${levelBar(budget.budget, Math.min(100, 100 * budget.ratio), text, { warns: true })}
    <p class="muted">Of ${of}${left}</p>
  </div>`;
}

function table(week) {
  const models = [...new Set(week.rows.map((row) => row.model))];
  return html`<div class="table-wrap" data-key="week"><table>
    <caption class="sr">Requests, tokens and cost by model and day</caption>
    <thead><tr><th scope="col">Model</th>${week.buckets.map((at) => html`<th scope="col">${day(at, week.tz)}</th>`)}</tr></thead>
    <tbody>${models.map((model) => line(model, week))}</tbody>
  </table></div>`;
}

function line(model, week) {
  const cells = week.buckets.map((at) => cell(week.rows.find((row) => row.model === model && row.at === at), week));
  return html`<tr data-key="${model}"><th scope="row">${model}</th>${cells}</tr>`;
}

function cell(row, { currency }) {
  if (!row) return html`<td class="muted">–</td>`;
  const tokens = row.prompt_tokens + row.completion_tokens;
  const cost = Number(row.cost) > 0 && html`<br>${money(row.cost)} ${currency}`;
  return html`<td title="${plural(row.requests, "request")}, ${tokens} tokens">${count(row.requests)} · ${count(tokens)} tok${cost}</td>`;
}

const amount = (text) => Number(text).toLocaleString("en", { maximumFractionDigits: 2 });

/** Two decimals, or two significant digits below 0.01. */
function money(text) {
  const value = Number(text);
  return value >= 0.01 ? value.toFixed(2) : value.toPrecision(2);
}

function day(at, tz) {
  return new Date(at * 1000).toLocaleDateString("en", { timeZone: tz, weekday: "short", day: "numeric" });
}
