// A page in Node: `node page.mjs URL [SELECTION]`. Prints what it is told, a line for each.
import { EventStream } from "../../js/client.js";

const [url, selection] = process.argv.slice(2);
const say = (...words) => console.log(words.join(" "));
const stream = new EventStream(url, {
  minDelay: 10,
  maxDelay: 50,
  onStatus: (status) => say("status", status),
  onReload: () => say("reload"),
});
// It is not connected yet.
if (selection) stream.select(JSON.parse(selection));
stream.subscribe("order_created", () => {
  throw new Error("a handler of somebody else");
});
const end = stream.subscribe("order_created", (event) => say("order", event.payload.id));
stream.subscribe("*", (event) => say("any", event.kind));
stream.subscribe("alarm_raised", ({ payload }) => {
  if (payload.level === 1) end();
  if (payload.level === 2) stream.select({ kinds: ["alarm_raised"] });
  if (payload.level === 3) stream.close();
});
