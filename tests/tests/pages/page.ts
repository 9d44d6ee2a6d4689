// A page that shows orders, in Node: `node page.js URL CURSOR`. It loads anew when it is told to, and prints what the
// test waits for, a line for each.
import { EventStream } from "./client.js";
import type { ModelEvent, Status } from "./client.js";

declare const process: { argv: string[]; exit(code: number): void };

interface Order {
  id: number;
  note: string;
}

interface Events {
  order_created: ModelEvent<Order>;
  done: ModelEvent<{ orders: number }>;
}

const [, , url = "", cursor = ""] = process.argv;
const shown = new Set<number>();
const told = new Set<string>();
let reloads = 0;
let twice = 0;
let loading = Promise.resolve();

async function load(): Promise<void> {
  for (;;) {
    try {
      const answer = await fetch(`${url}/orders`);
      const ids = (await answer.json()) as number[];
      ids.forEach((id) => shown.add(id));
      return;
    } catch {
      await new Promise((again) => setTimeout(again, 10)); // the node is being restarted
    }
  }
}

const stream = new EventStream<Events>(url, {
  cursor,
  minDelay: 5,
  maxDelay: 50,
  select: { models: ["order", "done"] },
  onReload: () => {
    reloads += 1;
    loading = loading.then(load);
    console.log("reload");
  },
  onStatus: (status: Status) => console.log(status),
});

const count = stream.subscribe("*", ({ event_id }) => {
  if (told.has(event_id)) twice += 1;
  told.add(event_id);
});
stream.subscribe("order_created", ({ payload, keys }) => {
  if (keys[0] === String(payload.id)) shown.add(payload.id);
  if (payload.id % 50 === 0) console.log(`at ${payload.id}`);
});
stream.subscribe("done", async ({ payload }) => {
  // Between models there is no order: the last orders may come behind it.
  for (let wait = 0; wait < 1000 && shown.size < payload.orders; wait += 1) {
    await new Promise((later) => setTimeout(later, 10));
  }
  count();
  stream.close();
  await loading;
  let missing = 0;
  for (let id = 0; id < payload.orders; id += 1) missing += shown.has(id) ? 0 : 1;
  console.log(JSON.stringify({ shown: shown.size, told: told.size, missing, twice, reloads }));
  process.exit(0);
});

// What does not compile: tsc says so where one of these does. Nobody calls it.
export function mistakes(): void {
  // @ts-expect-error no such kind
  stream.subscribe("order_deleted", () => {});
  // @ts-expect-error an order's number is no text
  stream.subscribe("order_created", ({ payload }) => payload.id.length);
  // @ts-expect-error what is changed is perhaps not known
  stream.subscribe("order_created", ({ changed }) => changed.length);
  // @ts-expect-error it is read only
  stream.cursor = "";
  // @ts-expect-error there is no such status
  const never: Status = "broken";
  // Kinds that nobody names are any.
  new EventStream("/").subscribe("anything", ({ payload }) => payload.whatever);
}
