import { EventStream } from "/events/client.js";

const rows = document.getElementById("orders");
const status = document.getElementById("status");

function show({ id, customer, status }) {
  let row = document.getElementById(`order-${id}`);
  if (!row) {
    row = rows.insertRow(0);
    row.id = `order-${id}`;
    for (let cell = 0; cell < 3; cell += 1) row.insertCell();
  }
  // As text: what a customer wrote is no HTML.
  [id, customer, status].forEach((value, cell) => (row.cells[cell].textContent = value));
}

const stream = new EventStream("/", {
  // Where the stream was when the server drew this page.
  cursor: document.body.dataset.cursor,
  select: { models: ["order"] },
  onStatus: (now) => (status.textContent = now),
});
stream.subscribe("order_created", ({ payload }) => show(payload));
stream.subscribe("order_updated", ({ payload }) => show(payload));
