/** The live feed: one WebSocket that comes back by itself, each time with a fresh snapshot. */

const UNAUTHORIZED = 4401;
const FIRST_MS = 500;
const LONGEST_MS = 10_000;

/** How long to wait before try number `attempt` (from 0). */
export function backoff(attempt) {
  return Math.min(LONGEST_MS, FIRST_MS * 2 ** attempt);
}

export class Feed {
  #socket = null;
  #timer = null;
  #attempt = 0;

  /** `protocols` is asked anew for every connection: the key may have changed. */
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
      // Only an answer counts as success: a gateway that accepts and hangs up must not be hammered.
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
