/** A change to one model, or an event that is no row. */
export interface ModelEvent<Row = unknown> {
  /** `{model}_{past tense}`, such as `order_created`; of an event that is no row, its own. */
  kind: string;
  model: string;
  operation: "create" | "createMany" | "update" | "updateMany" | "upsert" | "delete" | "deleteMany";
  event_id: string;
  trace_id: string;
  /** When it was written: ISO 8601, UTC. */
  ts: string;
  idempotency_key?: string;
  /** The keys of its rows; the parts of a composite one with a comma between. */
  keys: string[];
  /** The row; of a bulk operation how many rows there were. */
  payload: Row;
  /** The row before an update, where it is known. */
  before?: Row;
  /** The rows of a bulk operation, where they are known. */
  rows?: { before?: Row; after?: Row }[];
  /** The columns that an update set. */
  changed?: string[];
  /** Of an upsert, whether it inserted, where that is known. */
  inserted?: boolean;
  /** Where the stream is that has this event. */
  cursor: string;
}

/** Which events; an empty or absent list is all. */
export interface Selection {
  models?: string[];
  kinds?: string[];
  keys?: string[];
}

/** Whether it is connected; `"closed"` only after `close()`. */
export type Status = "connecting" | "open" | "closed";

export interface EventStreamOptions {
  select?: Selection;
  /** Where to go on: what the server put into the page (`Stream::cursor`), or where an earlier stream was. */
  cursor?: string;
  /** Events are missing since the cursor: load anew what is shown. Default: `location.reload()`. */
  onReload?: () => void;
  /** Called whenever the status changes. */
  onStatus?: (status: Status) => void;
  /**
   * Milliseconds before the first attempt to connect again, doubled each time, and at most; of each between half
   * and all, by chance. Default 500 and 30,000.
   */
  minDelay?: number;
  maxDelay?: number;
  /** Where there is none of this name, such as in Node before 22. */
  WebSocket?: unknown;
}

/**
 * A stream of events, which connects again by itself and goes on where it was.
 * `Events` maps kinds to events: `new EventStream<{ order_created: ModelEvent<Order> }>("/")`.
 */
export class EventStream<
  Events extends { [Kind in keyof Events]: ModelEvent<any> } = { [kind: string]: ModelEvent<any> },
> {
  /** `url` is where the router is mounted, such as `"/"`, the default, or `"https://shop.example/live"`. */
  constructor(url?: string | URL, options?: EventStreamOptions);
  /** Where it is: the cursor behind the last event that handlers were called with. */
  readonly cursor: string | null;
  readonly status: Status;
  /** Calls `handler` with each event of a kind; `"*"` is every kind. Returns a function that ends it. */
  subscribe<Kind extends keyof Events>(kind: Kind, handler: (event: Events[Kind]) => void): () => void;
  subscribe(kind: "*", handler: (event: Events[keyof Events]) => void): () => void;
  /** From now on only these. */
  select(selection: Selection): void;
  /** Ends it for good. */
  close(): void;
}
