/** Everything the page knows, and how each message changes it. `reduce` is pure; time arrives as a message. */

import { chatHandlers, emptyChat } from "./chat.js";
import { ACTIVITY_TRENDS, DEVICE_TRENDS, follow, withPast } from "./trends.js";

/** What the gateway sends by key; `activity` is no bucket, but comes like one. */
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
  hub: { found: null, offer: null },
  week: null,
  logs: { instance: null, lines: [], next: 0, follow: true },
  chat: emptyChat,
  pending: {},
  toasts: [],
  keyed: false,
  now: 0,
};

function merge(bucket, changes) {
  const merged = { ...bucket, ...changes };
  return Object.fromEntries(Object.entries(merged).filter(([, value]) => value !== null));
}

function appendLines(logs, lines) {
  const fresh = lines.map((line, index) => ({ at: line.at, text: line.text, id: logs.next + index }));
  return { ...logs, lines: [...logs.lines, ...fresh].slice(-LOG_LINES), next: logs.next + fresh.length };
}

const without = (record, name) => Object.fromEntries(Object.entries(record).filter(([key]) => key !== name));

function followed(trends, { devices, activity }) {
  const of = (samples, fields, before) => (samples ? follow(before, samples, fields) : before);
  return of(activity, ACTIVITY_TRENDS, of(devices, DEVICE_TRENDS, trends));
}

const handlers = {
  ...chatHandlers,

  snapshot(state, data) {
    const fresh = Object.fromEntries(BUCKETS.map((name) => [name, data[name] ?? {}]));
    return { ...state, ...fresh, trends: followed({}, fresh), loaded: true };
  },

  delta(state, data) {
    const touched = BUCKETS.filter((name) => data[name]);
    const fresh = Object.fromEntries(touched.map((name) => [name, merge(state[name], data[name])]));
    return { ...state, ...fresh, trends: followed(state.trends, data) };
  },

  past(state, answer) {
    return { ...state, trends: withPast(state.trends, answer) };
  },

  log(state, { instance, lines }) {
    // Lines of an instance that nobody looks at any more may still be on their way.
    if (instance !== state.logs.instance) return state;
    return { ...state, logs: appendLines(state.logs, lines) };
  },

  connection(state, connection) {
    const next = { ...state, connection: { retryAt: null, refused: false, broker: true, ...connection } };
    // The history of the log is sent again on a new connection.
    return connection.status === "open" ? { ...next, logs: { ...state.logs, lines: [] } } : next;
  },

  /** Whether the gateway hears from the broker; else nothing that is shown is of now. */
  broker(state, { there }) {
    return { ...state, connection: { ...state.connection, broker: there } };
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

  hubFound(state, { models }) {
    return { ...state, hub: { found: models, offer: null } };
  },

  hubOffer(state, { offer }) {
    return { ...state, hub: { ...state.hub, offer } };
  },

  sort(state, { by }) {
    return { ...state, sort: by };
  },

  filter(state, { words }) {
    return { ...state, filter: words };
  },

  /** What a person is about to change: `{entry, what, revision}`, with what `describe` or `delete`. */
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

  keyed(state, { keyed }) {
    return { ...state, keyed };
  },

  tick(state, { now }) {
    return { ...state, now };
  },
};

/** Messages of an unknown type change nothing: a newer gateway may say more than this page understands. */
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
