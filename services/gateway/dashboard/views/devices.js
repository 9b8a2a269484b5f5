/** What the hardware is doing, node by node, and which models sit on it. */

import { levelBar } from "../components/bar.js";
import { empty, heading, waiting } from "../components/panel.js";
import { bytes, percent } from "../format.js";
import { html } from "../html.js";
import { nodesWithDevices } from "../select.js";

export const needs = ["loaded", "devices", "nodes", "instances"];

export function view(state) {
  const nodes = nodesWithDevices(state);
  return html`${heading("devices", "Hardware")}
    ${!state.loaded ? waiting : nodes.length === 0 ? nothing : nodes.map((entry) => nodeView(entry, state))}`;
}

const nothing = empty(
  "No node has reported yet",
  html`<p>The monitor says once a second how memory and processors are doing. If this stays empty, ask
    <code>yard status</code> whether it runs.</p>`,
);

function nodeView({ name, node, devices }, state) {
  return html`<section class="node" data-key="${name}">
    <h3>${name} ${node?.version && html`<small class="muted">Modelyard ${node.version}</small>`}</h3>
    ${devices.map((device) => deviceView(device, state))}
    ${node?.workers?.length > 0 && html`<p class="tenants muted">Holds ${node.workers.map(part).join(", ")}</p>`}
    ${node?.engines?.length > 0 && html`<ul class="engines" aria-label="Engines on ${name}">${node.engines.map(engine)}</ul>`}
  </section>`;
}

function deviceView(device, state) {
  const used = percent(device.memory_used_bytes, device.memory_total_bytes);
  const busy = device.utilization_pct ?? null;
  return html`<div class="device" data-key="${device.device}">
    <p class="device-head"><span class="chip">${device.kind.toUpperCase()}</span> <strong>${device.name}</strong>
      <span class="muted sensors">${sensors(device)}</span></p>
    ${levelBar("Memory", used, `${bytes(device.memory_used_bytes)} of ${bytes(device.memory_total_bytes)}`, { warns: true })}
    ${levelBar("Busy", busy === null ? null : percent(busy, 100), `${Math.round(busy)} %`)}
    ${tenants(device, state)}
  </div>`;
}

function sensors(device) {
  const parts = [
    device.temperature_c != null && `${Math.round(device.temperature_c)} °C`,
    device.power_w != null && `${Math.round(device.power_w)} W`,
  ];
  return parts.filter(Boolean).join(" · ");
}

/** The engines among the processes on a device; the others are nobody's business here. */
function tenants(device, state) {
  const here = Object.values(state.instances).filter((instance) => instance.node === device.node);
  const found = (device.processes ?? []).flatMap((process) => {
    const instance = here.find(({ engine_pid }) => engine_pid != null && engine_pid === process.pid);
    return instance ? [`${instance.model} ${bytes(process.memory_bytes)}`.trim()] : [];
  });
  return found.length > 0 ? html`<p class="tenants muted">In use by ${found.join(", ")}</p>` : "";
}

const part = ({ model, memory_bytes }) => `a part of ${model} (${bytes(memory_bytes)})`;

function engine({ engine: name, version, problem }) {
  if (problem) {
    return html`<li class="no"><span aria-hidden="true">○</span> ${name} <span class="muted">${problem}</span></li>`;
  }
  return html`<li class="yes"><span aria-hidden="true">●</span> ${name} <span class="muted">${version}</span></li>`;
}
