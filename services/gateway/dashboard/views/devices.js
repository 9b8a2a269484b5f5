/** Devices by node: memory, load, sensors, and the models on them. */

import { levelBar } from "../components/bar.js";
import { empty, heading, waiting } from "../components/panel.js";
import { spark } from "../components/spark.js";
import { bytes, percent } from "../format.js";
import { html } from "../html.js";
import { nodesWithDevices } from "../selectors.js";
import { SPAN_S } from "../trends.js";

export const needs = ["loaded", "devices", "adapters", "trends", "nodes", "instances"];

export function view(state) {
  const nodes = nodesWithDevices(state);
  return html`${heading("devices", "Hardware")}
    ${!state.loaded ? waiting : nodes.length === 0 ? emptyState : nodes.map((entry) => nodeView(entry, state))}`;
}

const emptyState = empty(
  "No node has reported yet",
  html`<p>The monitor reports memory and processors once a second. If this stays empty, look at
    <code>yard nodes</code>.</p>`,
);

function nodeView({ name, node, devices }, state) {
  return html`<section class="node" data-key="${name}">
    <h3>${name} ${node?.version && html`<small class="muted">Modelyard ${node.version}</small>`}</h3>
    ${devices.map((device) => deviceView(device, state))}
    ${adapterProblems(state, name)}
    ${node?.workers?.length > 0 && html`<p class="device-use muted">Holds ${node.workers.map(part).join(", ")}</p>`}
    ${node?.engines?.length > 0 && html`<ul class="engines" aria-label="Engines on ${name}">${node.engines.map(engine)}</ul>`}
  </section>`;
}

function deviceView(device, state) {
  const used = percent(device.memory_used_bytes, device.memory_total_bytes);
  const busy = device.utilization_pct ?? null;
  const memory = `${bytes(device.memory_used_bytes)} of ${bytes(device.memory_total_bytes)}`;
  return html`<div class="device" data-key="${device.device}">
    <p class="device-head"><span class="chip">${device.kind.toUpperCase()}</span> <strong>${device.name}</strong>
      ${device.simulated && html`<span class="chip alias">simulated</span>`}
      ${device.partitioned && html`<span class="chip">in parts</span>`}
      ${device.throttled_by?.length > 0 && html`<span class="badge busy">${device.throttled_by.join(", ")}</span>`}
      <span class="muted sensors">${facts(device)}</span></p>
    ${levelBar("Memory", used, memory, { warns: true, line: line(device, state, "Memory", "memory_used_bytes", device.memory_total_bytes) })}
    ${levelBar("Busy", busy === null ? null : percent(busy, 100), `${Math.round(busy)} %`, { line: line(device, state, "Busy", "utilization_pct", 100) })}
    ${sensor(device, state, "Heat", "temperature_c", "°C", 100)}
    ${sensor(device, state, "Power", "power_w", "W", device.power_limit_w)}
    ${deviceInstances(device, state)}
  </div>`;
}

function line(device, state, label, field, top) {
  const points = state.trends[`${device.node}.${device.device}`]?.[field] ?? [];
  return spark(label, points, { now: device.sampled_at, spanS: SPAN_S, top });
}

/** A sensor without an upper bound, or with one that may be exceeded, is a line instead of a bar. */
function sensor(device, state, label, field, unit, top) {
  const value = device[field];
  if (value == null) return "";
  const limit = field === "power_w" && top ? ` of ${Math.round(top)}` : "";
  return html`<div class="level">
    <span class="level-label">${label}</span><span class="level-bar">${line(device, state, label, field, top)}</span>
    <span class="level-text">${Math.round(value)}${limit} ${unit}</span>
  </div>`;
}

function facts(device) {
  const link = device.pcie_generation != null && device.pcie_width != null;
  const parts = [
    device.clock_mhz != null && `${Math.round(device.clock_mhz)} MHz`,
    device.fan_pct != null && `fan ${Math.round(device.fan_pct)} %`,
    link && `PCIe ${device.pcie_generation} x${device.pcie_width}`,
  ];
  return parts.filter(Boolean).join(" · ");
}

function adapterProblems(state, node) {
  const broken = Object.values(state.adapters).filter((adapter) => adapter.node === node && adapter.problem);
  return broken.map((adapter) => html`<p class="problem-text">${adapter.adapter}: ${adapter.problem}</p>`);
}

/** The processes on a device that belong to instances; others are not shown. */
function deviceInstances(device, state) {
  const uses = (device.processes ?? []).flatMap((process) => {
    const instance = process.instance && state.instances[process.instance];
    return instance ? [`${instance.model} ${bytes(process.memory_bytes)}`.trim()] : [];
  });
  return uses.length > 0 ? html`<p class="device-use muted">In use by ${uses.join(", ")}</p>` : "";
}

const part = ({ model, memory_bytes }) => `a part of ${model} (${bytes(memory_bytes)})`;

function engine({ engine: name, version, problem }) {
  if (problem) {
    return html`<li class="no"><span aria-hidden="true">○</span> ${name} <span class="muted">${problem}</span></li>`;
  }
  return html`<li class="yes"><span aria-hidden="true">●</span> ${name} <span class="muted">${version}</span></li>`;
}
