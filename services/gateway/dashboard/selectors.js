/** Values derived from the state: instances of a model, its status, the summary of the yard. Pure. */

export const STARTING = ["starting", "loading", "probing"];
const STOPPING = ["draining", "stopping"];
const ENDED = ["stopped", "failed"];
const DOWNLOAD_ENDED = ["finished", "failed", "cancelled"];

export const isLive = (instance) => !ENDED.includes(instance.state);
export const isRunning = (download) => !DOWNLOAD_ENDED.includes(download.state);

const newestFirst = (a, b) => b.changed_at - a.changed_at;
const byText = (field) => (a, b) => String(a[field]).localeCompare(String(b[field]));

export function sortedModels(state) {
  return Object.values(state.models).sort(byText("name"));
}

/** Models with every word of the filter in a name or alias. */
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

/** Active ones first, then waiting ones in queue order, then ended ones. */
export function sortedDownloads(state) {
  const all = Object.values(state.downloads).sort((a, b) => b.created_at - a.created_at);
  const isWaiting = ({ state }) => state === "queued" || state === "paused";
  const waiting = all.filter(isWaiting).sort((a, b) => (a.order ?? 0) - (b.order ?? 0) || a.created_at - b.created_at);
  return [...all.filter((d) => isRunning(d) && !isWaiting(d)), ...waiting, ...all.filter((d) => !isRunning(d))];
}

/** Sorted by size or date, descending, or by name. */
export function sortedEntries(state) {
  const entries = Object.values(state.library).sort(byText("name"));
  if (state.sort === "size") return entries.sort((a, b) => b.size_bytes - a.size_bytes);
  const dateOf = (entry) => entry.downloaded_at ?? entry.modified_at;
  return state.sort === "date" ? entries.sort((a, b) => dateOf(b) - dateOf(a)) : entries;
}

export function sortedStores(state) {
  return Object.values(state.stores).sort((a, b) => `${a.node}.${a.store}`.localeCompare(`${b.node}.${b.store}`));
}

/** The running check or repair of an entry. */
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

/** Firing alerts, most severe first: those without and those with a silence. */
export function firingAlerts(state) {
  const firing = Object.values(state.alert_states)
    .filter((alert) => alert.state === "firing")
    .sort((a, b) => SEVERITIES.indexOf(a.severity) - SEVERITIES.indexOf(b.severity) || b.since - a.since);
  return { active: firing.filter((alert) => !alert.silenced), silenced: firing.filter((alert) => alert.silenced) };
}

/** The state of a model: that of its best instance, failed while its requests are refused, else stopped. */
export function modelStatus(state, name) {
  const instances = Object.values(state.instances)
    .filter((instance) => instance.model === name)
    .sort(newestFirst);
  const live = instances.filter(isLive);
  const find = (states) => live.find((instance) => states.includes(instance.state));
  const main = find(["ready"]) ?? find(STARTING) ?? find(STOPPING) ?? instances[0] ?? null;
  const waiting = Object.values(state.waiting ?? {}).find((record) => record.model === name);
  const refused = (live.length === 0 && waiting?.refused) || null;
  const modelState = refused ? "failed" : (main?.state ?? "stopped");
  const ready = live.filter((instance) => instance.state === "ready");
  return { state: modelState, main, live, refused, slots: sum(ready, "slots"), busy: sum(live, "busy") };
}

/** The model of the "try it" box: the chosen one, else `demo`, else a ready one, else any. */
export function chatModel(state) {
  const models = chatModels(state);
  const findModel = (name) => models.find((spec) => spec.name === name || spec.aliases?.includes(name));
  const ready = models.find((spec) => modelStatus(state, spec.name).state === "ready");
  const chosen = (state.chat.model && findModel(state.chat.model)) || findModel("demo") || ready || models[0];
  return chosen?.name ?? null;
}

export function chatModels(state) {
  return sortedModels(state).filter((spec) => (spec.mode ?? "chat") === "chat");
}

export function summary(state) {
  const states = sortedModels(state).map((spec) => modelStatus(state, spec.name).state);
  const ready = Object.values(state.instances).filter((instance) => instance.state === "ready");
  return {
    models: states.length,
    ready: states.filter((modelState) => modelState === "ready").length,
    starting: states.filter((modelState) => STARTING.includes(modelState)).length,
    failed: states.filter((modelState) => modelState === "failed").length,
    busy: sum(ready, "busy"),
    slots: sum(ready, "slots"),
    downloads: Object.values(state.downloads).filter(isRunning).length,
  };
}

function sum(records, field) {
  return records.reduce((total, record) => total + (record[field] ?? 0), 0);
}
