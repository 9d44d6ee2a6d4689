// A stream of model-change events. No dependencies; an ES module for browsers and Node.

const NOTHING = { models: [], kinds: [], keys: [] };

export class EventStream {
  #url;
  #options;
  #handlers = new Map();
  #socket = null;
  #cursor = null;
  #asked = null;
  #failures = 0;
  #timer = null;
  #silence = null;
  #patience = 40_000;
  #closed = false;
  #status = "connecting";

  /** @param {string | URL} url where the router is mounted, such as "/" or "https://shop.example/live" */
  constructor(url = "/", options = {}) {
    const base = globalThis.location?.href;
    this.#url = new URL(url, base);
    this.#url.protocol = this.#url.protocol.replace(/^http/, "ws");
    this.#url.pathname = this.#url.pathname.replace(/\/*$/, "/ws/events");
    this.#options = { minDelay: 500, maxDelay: 30_000, WebSocket: globalThis.WebSocket, ...options };
    this.#options.select = { ...NOTHING, ...options.select };
    this.#cursor = options.cursor ?? null;
    if (!this.#options.WebSocket) {
      throw new Error("there is no WebSocket here: give one as the option `WebSocket`");
    }
    this.#connect();
  }

  /** Where this stream is: give it to the next one as the option `cursor`. */
  get cursor() {
    return this.#cursor;
  }

  /** "connecting", "open" or "closed". */
  get status() {
    return this.#status;
  }

  /**
   * Calls `handler` with each event of a kind, such as "order_created"; "*" is every kind.
   * Returns a function that ends it.
   */
  subscribe(kind, handler) {
    const handlers = this.#handlers.get(kind) ?? new Set();
    // The same function may be there twice, and each time ends by itself.
    const once = (event) => handler(event);
    this.#handlers.set(kind, handlers.add(once));
    return () => void handlers.delete(once);
  }

  /** From now on only these: `{ models: ["order"], kinds: [], keys: ["42"] }`; an empty list is all. */
  select(selection) {
    this.#options.select = { ...NOTHING, ...selection };
    // What is selected before is sent behind `hello`.
    if (this.#status === "open") this.#ask();
  }

  /** Ends the stream for good. */
  close() {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#leave();
    this.#turn("closed");
  }

  /** Asks for what is selected, unless that is what was asked for. */
  #ask() {
    const text = JSON.stringify({ select: this.#options.select });
    if (text === this.#asked) return;
    this.#asked = text;
    this.#socket.send(text);
  }

  #connect() {
    const url = new URL(this.#url);
    this.#asked = JSON.stringify({ select: this.#options.select });
    for (const [name, values] of Object.entries(this.#options.select)) {
      values.forEach((value) => url.searchParams.append(name.slice(0, -1), value));
    }
    if (this.#cursor) url.searchParams.set("cursor", this.#cursor);
    this.#turn("connecting");
    const socket = new this.#options.WebSocket(url.href);
    this.#socket = socket;
    socket.onmessage = ({ data }) => socket === this.#socket && this.#heard(data);
    // An error is an end, too, and Node 20 says no other where there was no connection yet.
    socket.onclose = socket.onerror = () => socket === this.#socket && this.#again();
    this.#listen();
  }

  /** A connection that says nothing for longer than the server ever does is none. */
  #listen() {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.#again(), this.#patience);
  }

  #leave() {
    clearTimeout(this.#silence);
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }

  #again() {
    this.#leave();
    if (this.#closed) return;
    this.#turn("connecting");
    const { minDelay, maxDelay } = this.#options;
    const delay = Math.min(maxDelay, minDelay * 2 ** this.#failures++);
    this.#timer = setTimeout(() => this.#connect(), delay * (0.5 + Math.random() / 2));
  }

  #heard(text) {
    this.#listen();
    let event;
    try {
      event = JSON.parse(text);
    } catch {
      return;
    }
    // Half of a batch may come after a handler has said `close()`.
    if (this.#closed || typeof event !== "object" || event === null) return;
    if (event.stream === "reload") {
      // Before the page loads what it shows, so that nothing is missing behind that.
      this.#cursor = event.cursor;
      this.#call(this.#options.onReload ?? (() => globalThis.location?.reload()));
      return;
    }
    if (event.stream === "hello") {
      this.#failures = 0;
      this.#patience = event.heartbeat * 2.5;
      this.#listen();
      this.#ask();
      this.#turn("open");
    }
    if (event.stream === undefined) {
      for (const kind of [event.kind, "*"]) {
        this.#handlers.get(kind)?.forEach((handler) => this.#call(handler, event));
      }
    }
    // Behind the handlers: a page that is left in between hears the event again.
    this.#cursor = event.cursor ?? this.#cursor;
  }

  /** A handler that throws stops no other. */
  #call(handler, argument) {
    try {
      handler(argument);
    } catch (error) {
      console.error("an event handler failed:", error);
    }
  }

  #turn(status) {
    if (status === this.#status) return;
    this.#status = status;
    if (this.#options.onStatus) this.#call(this.#options.onStatus, status);
  }
}
