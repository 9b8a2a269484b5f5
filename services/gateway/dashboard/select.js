/** What follows from the state: which instances serve a model, how the model is, what the yard does. Pure. */

export const COMING = ["starting", "loading", "probing"];
const LEAVING = ["draining", "stopping"];
const ENDED = ["stopped", "failed"];
const DOWNLOAD_ENDED = ["finished", "failed", "cancelled"];

export const isLive = (instance) => !ENDED.includes(instance.state);
export const isRunning = (download) => !DOWNLOAD_ENDED.includes(download.state);

const newestFirst = (a, b) => b.changed_at - a.changed_at;
const byText = (field) => (a, b) => String(a[field]).localeCompare(String(b[field]));

export function sortedModels(state) {
  return Object.values(state.models).sort(byText("name"));
}

/** Those whose name or alias has every word. */
export function filteredModels(state) {
  const words = state.filter.toLowerCase().split(/\s+/);
  const text = (spec) => [spec.name, ...(spec.aliases ?? [])].join(" ").toLowerCase();
  return sortedModels(state).filter((spec) => words.every((word) => text(spec).includes(word)));
}

/** Running ones first; the newest first in each group. */
export function sortedInstances(state) {
  const all = Object.values(state.instances).sort(newestFirst);
  return [...all.filter(isLive), ...all.filter((instance) => !isLive(instance))];
}

/** At work first, then those that wait in the order of their turns, then the ended ones. */
export function sortedDownloads(state) {
  const all = Object.values(state.downloads).sort((a, b) => b.created_at - a.created_at);
  const waits = ({ state }) => state === "queued" || state === "paused";
  const waiting = all.filter(waits).sort((a, b) => (a.order ?? 0) - (b.order ?? 0) || a.created_at - b.created_at);
  return [...all.filter((d) => isRunning(d) && !waits(d)), ...waiting, ...all.filter((d) => !isRunning(d))];
}

/** The largest or the newest first, or by name. */
export function sortedEntries(state) {
  const entries = Object.values(state.library).sort(byText("name"));
  if (state.sort === "size") return entries.sort((a, b) => b.size_bytes - a.size_bytes);
  const written = (entry) => entry.downloaded_at ?? entry.modified_at;
  return state.sort === "date" ? entries.sort((a, b) => written(b) - written(a)) : entries;
}

export function sortedStores(state) {
  return Object.values(state.stores).sort((a, b) => `${a.node}.${a.store}`.localeCompare(`${b.node}.${b.store}`));
}

/** The check or repair that is at an entry now. */
export function jobOf(state, entry) {
  const running = Object.values(state.jobs).filter((job) => ["queued", "running"].includes(job.state));
  return running.find((job) => job.node === entry.node && job.store === entry.store && job.subject === entry.path) ?? null;
}

/** Nodes with their devices, GPUs first; a device may be known before its node is. */
export function nodesWithDevices(state) {
  const devices = Object.values(state.devices);
  const known = Object.values(state.nodes);
  const names = new Set([...known, ...devices].map((record) => record.node));
  return [...names].sort().map((name) => ({
    name,
    node: known.find((node) => node.node === name) ?? null,
    devices: devices
      .filter((device) => device.node === name)
      .sort((a, b) => (a.kind === b.kind ? byText("name")(a, b) : a.kind === "gpu" ? -1 : 1)),
  }));
}

const SEVERITIES = ["critical", "warning", "info"];

/** What fires: those to be seen, the worst first, and those that a silence covers. */
export function firingAlerts(state) {
  const firing = Object.values(state.alert_states)
    .filter((alert) => alert.state === "firing")
    .sort((a, b) => SEVERITIES.indexOf(a.severity) - SEVERITIES.indexOf(b.severity) || b.since - a.since);
  return { loud: firing.filter((alert) => !alert.silenced), silent: firing.filter((alert) => alert.silenced) };
}

/** How a model is, as one word, and the instances behind it. */
export function modelStatus(state, name) {
  const instances = Object.values(state.instances)
    .filter((instance) => instance.model === name)
    .sort(newestFirst);
  const live = instances.filter(isLive);
  const find = (states) => live.find((instance) => states.includes(instance.state));
  const main = find(["ready"]) ?? find(COMING) ?? find(LEAVING) ?? instances[0] ?? null;
  const waiting = Object.values(state.waiting ?? {}).find((record) => record.model === name);
  const refused = (live.length === 0 && waiting?.refused) || null;
  const word = refused ? "failed" : main === null || main.state === "stopped" ? "idle" : main.state;
  const ready = live.filter((instance) => instance.state === "ready");
  return { word, main, live, refused, slots: sum(ready, "slots"), busy: sum(live, "busy") };
}

/** The model of the "try it" box: what was chosen, else `demo`, else one that is ready, else any. */
export function chatModel(state) {
  const models = chatModels(state);
  const named = (name) => models.find((spec) => spec.name === name || spec.aliases?.includes(name));
  const ready = models.find((spec) => modelStatus(state, spec.name).word === "ready");
  const chosen = (state.chat.model && named(state.chat.model)) || named("demo") || ready || models[0];
  return chosen?.name ?? null;
}

export function chatModels(state) {
  return sortedModels(state).filter((spec) => (spec.mode ?? "chat") === "chat");
}

export function summary(state) {
  const words = sortedModels(state).map((spec) => modelStatus(state, spec.name).word);
  const ready = Object.values(state.instances).filter((instance) => instance.state === "ready");
  return {
    models: words.length,
    ready: words.filter((word) => word === "ready").length,
    coming: words.filter((word) => COMING.includes(word)).length,
    failed: words.filter((word) => word === "failed").length,
    busy: sum(ready, "busy"),
    slots: sum(ready, "slots"),
    downloads: Object.values(state.downloads).filter(isRunning).length,
  };
}

function sum(records, field) {
  return records.reduce((total, record) => total + (record[field] ?? 0), 0);
}
