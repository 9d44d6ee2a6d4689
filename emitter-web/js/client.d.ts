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

export interface EventStreamOptions {
  select?: Selection;
  /** Where an earlier stream was: `stream.cursor`. */
  cursor?: string;
  /** Events are missing since the cursor: load anew what is shown. Default: `location.reload()`. */
  onReload?: () => void;
  onState?: (state: "connecting" | "open" | "closed") => void;
  /** Milliseconds before the first attempt to connect again, and at most. Default 500 and 30,000. */
  minDelay?: number;
  maxDelay?: number;
  /** Where there is none of this name, such as in Node before 22. */
  WebSocket?: unknown;
}

/**
 * A stream of events, which connects again by itself and goes on where it was.
 * `Events` maps kinds to events: `new EventStream<{ order_created: ModelEvent<Order> }>("/")`.
 */
export class EventStream<Events extends { [kind: string]: ModelEvent<any> } = { [kind: string]: ModelEvent<any> }> {
  constructor(url?: string | URL, options?: EventStreamOptions);
  /** Where it is: the cursor behind the last event that handlers were called with. */
  readonly cursor: string | null;
  readonly state: "connecting" | "open" | "closed";
  /** Calls `handler` with each event of a kind; `"*"` is every kind. Returns a function that ends it. */
  subscribe<Kind extends keyof Events>(kind: Kind, handler: (event: Events[Kind]) => void): () => void;
  subscribe(kind: "*", handler: (event: Events[keyof Events]) => void): () => void;
  select(selection: Selection): void;
  close(): void;
}
