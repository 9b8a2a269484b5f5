/** The state of the page and its reducer. `reduce` is pure; time arrives as a message. */

import { chatHandlers, emptyChat } from "./chat.js";
import { ACTIVITY_TRENDS, DEVICE_TRENDS, appendSamples, prependHistory } from "./trends.js";

/** Sent by the gateway by key; `activity` is not a bucket but has the same shape. */
export const BUCKETS = [
  ...["models", "instances", "activity", "waiting", "nodes", "devices", "adapters"],
  ...["downloads", "library", "stores", "trash", "jobs", "spending", "alert_states", "silences"],
];
export const LOG_LINES = 600;

export const initialState = {
  connection: { status: "connecting", retryAt: null, refused: false, broker: true },
  loaded: false,
  models: {},
  instances: {},
  waiting: {},
  nodes: {},
  devices: {},
  adapters: {},
  activity: {},
  trends: {},
  downloads: {},
  alert_states: {},
  silences: {},
  library: {},
  stores: {},
  trash: {},
  jobs: {},
  sort: "name",
  filter: "",
  open: null,
  spending: {},
  usage: {},
  hub: { results: null, offer: null },
  week: null,
  logs: { instance: null, lines: [], next: 0, follow: true },
  chat: emptyChat,
  pending: {},
  toasts: [],
  hasKey: false,
  now: 0,
};

function merge(bucket, changes) {
  const merged = { ...bucket, ...changes };
  return Object.fromEntries(Object.entries(merged).filter(([, value]) => value !== null));
}

function appendLines(logs, lines) {
  const added = lines.map((line, index) => ({ at: line.at, text: line.text, id: logs.next + index }));
  return { ...logs, lines: [...logs.lines, ...added].slice(-LOG_LINES), next: logs.next + added.length };
}

const without = (record, name) => Object.fromEntries(Object.entries(record).filter(([key]) => key !== name));

function updateTrends(trends, { devices, activity }) {
  const append = (before, samples, fields) => (samples ? appendSamples(before, samples, fields) : before);
  return append(append(trends, devices, DEVICE_TRENDS), activity, ACTIVITY_TRENDS);
}

const handlers = {
  ...chatHandlers,

  snapshot(state, data) {
    const fresh = Object.fromEntries(BUCKETS.map((name) => [name, data[name] ?? {}]));
    return { ...state, ...fresh, trends: updateTrends({}, fresh), loaded: true };
  },

  delta(state, data) {
    const changed = BUCKETS.filter((name) => data[name]);
    const fresh = Object.fromEntries(changed.map((name) => [name, merge(state[name], data[name])]));
    return { ...state, ...fresh, trends: updateTrends(state.trends, data) };
  },

  history(state, series) {
    return { ...state, trends: prependHistory(state.trends, series) };
  },

  log(state, { instance, lines }) {
    // Lines of an instance that is no longer selected may still arrive.
    if (instance !== state.logs.instance) return state;
    return { ...state, logs: appendLines(state.logs, lines) };
  },

  connection(state, connection) {
    const next = { ...state, connection: { retryAt: null, refused: false, broker: true, ...connection } };
    // The gateway sends the log history again on a new connection.
    return connection.status === "open" ? { ...next, logs: { ...state.logs, lines: [] } } : next;
  },

  /** Whether the gateway is connected to the broker; without it the state shown is stale. */
  broker(state, { connected }) {
    return { ...state, connection: { ...state.connection, broker: connected } };
  },

  logs(state, { instance }) {
    if (instance === state.logs.instance) return state;
    return { ...state, logs: { ...initialState.logs, next: state.logs.next, instance } };
  },

  follow(state, { follow }) {
    return follow === state.logs.follow ? state : { ...state, logs: { ...state.logs, follow } };
  },

  usage(state, { rows }) {
    return { ...state, usage: Object.fromEntries(rows.map((usage) => [usage.model, usage])) };
  },

  week(state, week) {
    return { ...state, week };
  },

  hubResults(state, { models }) {
    return { ...state, hub: { results: models, offer: null } };
  },

  hubOffer(state, { offer }) {
    return { ...state, hub: { ...state.hub, offer } };
  },

  sort(state, { by }) {
    return { ...state, sort: by };
  },

  filter(state, { text }) {
    return { ...state, filter: text };
  },

  /** The open form of the library: `{entry, what, revision}`; `what` is `describe` or `delete`. */
  open(state, { open }) {
    return { ...state, open };
  },

  pending(state, { name }) {
    return { ...state, pending: { ...state.pending, [name]: true } };
  },

  settled(state, { name }) {
    return { ...state, pending: without(state.pending, name) };
  },

  toast(state, toast) {
    return { ...state, toasts: [...state.toasts.filter((old) => old.text !== toast.text), toast].slice(-4) };
  },

  dismiss(state, { id }) {
    return { ...state, toasts: state.toasts.filter((toast) => toast.id !== id) };
  },

  hasKey(state, { hasKey }) {
    return { ...state, hasKey };
  },

  tick(state, { now }) {
    return { ...state, now };
  },
};

/** Messages of unknown type are ignored: the gateway may be newer than this page. */
export function reduce(state, message) {
  return Object.hasOwn(handlers, message.type) ? handlers[message.type](state, message.data) : state;
}

export function createStore(onChange) {
  let state = initialState;
  return {
    get state() {
      return state;
    },
    dispatch(type, data) {
      state = reduce(state, { type, data });
      onChange();
    },
  };
}
