/** The live feed: one WebSocket that reconnects, each time with a new snapshot. */

const UNAUTHORIZED = 4401;
const BACKOFF_MIN_MS = 500;
const BACKOFF_MAX_MS = 10_000;

/** Milliseconds before reconnect `attempt`, counted from 0. */
export function backoff(attempt) {
  return Math.min(BACKOFF_MAX_MS, BACKOFF_MIN_MS * 2 ** attempt);
}

export class Feed {
  #socket = null;
  #timer = null;
  #attempt = 0;

  /** `protocols` is called for every connection: the key may have changed. */
  constructor({ url, protocols, onMessage, onStatus }) {
    Object.assign(this, { url, protocols, onMessage, onStatus });
  }

  connect() {
    this.close();
    this.onStatus({ status: "connecting" });
    const socket = new WebSocket(this.url, this.protocols());
    this.#socket = socket;
    socket.onopen = () => this.onStatus({ status: "open" });
    socket.onmessage = ({ data }) => {
      // Only a message counts as success: a gateway that accepts and closes at once must not reset the back-off.
      this.#attempt = 0;
      this.onMessage(JSON.parse(data));
    };
    socket.onclose = ({ code }) => this.#closed(code);
  }

  send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  close() {
    clearTimeout(this.#timer);
    if (!this.#socket) return;
    this.#socket.onclose = null;
    this.#socket.onmessage = null;
    this.#socket.onopen = null;
    this.#socket.close();
    this.#socket = null;
  }

  #closed(code) {
    this.#socket = null;
    if (code === UNAUTHORIZED) {
      this.onStatus({ status: "locked" });
      return;
    }
    const wait = backoff(this.#attempt);
    this.#attempt += 1;
    this.#timer = setTimeout(() => this.connect(), wait);
    this.onStatus({ status: "waiting", retryAt: Date.now() / 1000 + wait / 1000 });
  }
}
