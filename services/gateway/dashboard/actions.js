/** What buttons, forms and selects do. Each takes the element's data set, or the fields of a form. */

import { command, saveKey } from "./api.js";
import { copyText } from "./clipboard.js";

/** `app` has `store`, `feed`, `chatSession` and `toast`; actions reach the outside only through it. */
export function createActions(app) {
  const { store, feed, chatSession, toast } = app;

  /** Runs `work` unless `name` is pending already; an error becomes a toast. Resolves to whether `work` succeeded. */
  async function once(name, work) {
    if (store.state.pending[name]) return false;
    store.dispatch("pending", { name });
    try {
      await work();
      return true;
    } catch (error) {
      app.showError(error);
      return false;
    } finally {
      store.dispatch("settled", { name });
    }
  }

  async function pull(reference, name, form) {
    if (/[\s,;]/.test(reference)) return pullMany(reference, form);
    const started = await once("pull", () => command("download", "start", { reference, name: name || null }));
    if (!started) return;
    form?.reset();
    toast("good", `Pulling ${reference}`);
  }

  async function pullMany(text, form) {
    let added = [];
    if (!(await once("pull", async () => ({ added } = await command("download", "add", { text }))))) return;
    form?.reset();
    const refused = added.filter(({ error }) => error);
    if (added.length > refused.length) toast("good", `Pulling ${added.length - refused.length} models`);
    for (const { reference, error } of refused) toast("bad", `${reference}: ${error.message}`);
  }

  /** A library command; on success the open form is closed. */
  async function library(verb, body, done) {
    const succeeded = await once(`library ${body.entry ?? body.item}`, () => command("library", verb, body));
    if (!succeeded) return;
    store.dispatch("open", { open: null });
    if (done) toast("good", done);
  }

  function chooseLog(instance) {
    store.dispatch("logs", { instance: instance || null });
    feed.send({ type: "logs", instance: instance || null });
  }

  return {
    start: ({ model }) => once(`start ${model}`, () => command("model", "start", { model })),
    stop: ({ model }) => once(`stop ${model}`, () => command("model", "stop", { model })),
    download: ({ verb, download }) => once(`${verb} ${download}`, () => command("download", verb, { download })),
    pull: ({ reference, name }, form) => pull(reference.trim(), name.trim(), form),

    "hub-search": ({ words, sort, format }) =>
      once("hub", async () => {
        const results = await command("hub", "search", { words: words.trim(), sort, format: format || null });
        store.dispatch("hubResults", results);
      }),
    "hub-offer": ({ reference }) =>
      once("hub", async () => store.dispatch("hubOffer", { offer: await command("hub", "offer", { reference }) })),
    "hub-back": () => store.dispatch("hubOffer", { offer: null }),
    "hub-pull": ({ reference }) => pull(reference, null),
    sort: ({ value }) => store.dispatch("sort", { by: value }),
    filter: ({ value }) => store.dispatch("filter", { text: value }),
    open: ({ entry, what, revision }) => store.dispatch("open", { open: { entry, what, revision } }),
    close: () => store.dispatch("open", { open: null }),
    describe: ({ entry, revision, description }) => library("describe", { entry, revision, description }),
    verify: ({ entry }) => library("verify", { entry }, "Checking every byte"),
    repair: ({ entry }) => library("repair", { entry }, "Fetching the damaged files again"),
    delete: ({ entry, force }) => library("delete", { entry, force: force === "on" }, "In the trash for 24 hours"),
    "cancel-job": ({ job }) => once(`cancel ${job}`, () => command("library", "cancel", { job })),
    restore: ({ item }) => library("restore", { item }, "Restored"),

    logs({ instance, value }) {
      chooseLog(instance ?? value);
      const panel = document.getElementById("logs");
      if (instance) panel.scrollIntoView({ block: "nearest" });
    },
    follow: () => store.dispatch("follow", { follow: true }),

    chatModel: ({ value }) => store.dispatch("chatModel", { model: value }),
    "chat-clear": () => store.dispatch("chatClear"),
    "chat-stop": () => chatSession.stop(),
    "chat-send"({ prompt, text }, form) {
      if (store.state.chat.busy) return;
      const question = (prompt ?? text).trim();
      if (!question) return;
      form?.reset();
      chatSession.send(question);
    },

    silence: ({ alert, rule, labels }) =>
      once(`silence ${alert}`, () =>
        command("alert", "silence", { rule, labels: JSON.parse(labels), for_s: 3600, reason: "Silenced on the page." }),
      ),
    unsilence: ({ silence }) => once(`unsilence ${silence}`, () => command("alert", "unsilence", { silence })),

    async copy({ text }) {
      if (await copyText(text)) toast("good", "Copied");
      else toast("bad", "The browser does not allow copying here. Select the text and copy it by hand.");
    },
    dismiss: ({ id }) => store.dispatch("dismiss", { id: Number(id) }),

    reconnect: () => feed.connect(),
    "use-key"({ key }, form) {
      saveKey(key.trim());
      store.dispatch("hasKey", { hasKey: true });
      form.reset();
      feed.connect();
    },
    "forget-key"() {
      saveKey(null);
      store.dispatch("hasKey", { hasKey: false });
      feed.connect();
    },
  };
}
