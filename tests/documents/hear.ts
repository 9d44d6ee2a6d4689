// A program that knows the events of a Rust node by the types that were made of its models.
import mqtt from 'mqtt';

import { topics, type AnyEvent, type ShopOrderEvent, type Events } from './events.js';

function nothing(event: never): never {
  throw new Error(`no such event: ${JSON.stringify(event)}`);
}

// What `tsc` would not let pass, if a type were not what is said here.
function orderTold(event: ShopOrderEvent): string {
  switch (event.operation) {
    case 'create': {
      const { id, customerName, note, tags, paid, lines, placedOn } = event.result;
      const total: number = lines.reduce((sum, [, price]) => sum + Number(price), 0);
      const words: string[] = tags;
      return `created ${id} ${customerName} ${note ?? '-'} ${words.join('+')} ${paid} ${total} ${placedOn ?? '-'}`;
    }
    case 'update': {
      const before: string = event.before ? event.before.customerName : '?';
      const changed: ('id' | 'customerName' | 'note' | 'tags' | 'paid' | 'lines' | 'weight' | 'extra' | 'placedOn' | 'card' | 'iban')[] =
        event.changed ?? [];
      return `updated ${event.result.id} ${before} ${changed.join('+')}`;
    }
    case 'updateMany':
      return `updatedMany ${event.result.count} ${(event.rows ?? []).map((row) => row.after?.id ?? '?').join('+')}`;
    case 'delete':
      return `deleted ${event.result.id}`;
    default:
      return nothing(event);
  }
}

function told(event: AnyEvent): string {
  switch (event.model) {
    case 'shopOrder':
      return orderTold(event);
    case 'login_failed':
      return `login ${event.result.username} ${event.result.attempts}`;
    default:
      return nothing(event);
  }
}

const client = mqtt.connect(process.argv[2] ?? '');
client.on('message', (topic, payload) => {
  const known: readonly string[] = Object.values(topics);
  if (!known.includes(topic)) throw new Error(`no such topic: ${topic}`);
  const event = JSON.parse(payload.toString()) as Events[keyof Events];
  console.log(`${told(event)} by ${event.origin.service}/${event.origin.node}`);
});
client.on('connect', () => {
  client.subscribe(Object.values(topics), { qos: 1 }, (error) => {
    if (error) throw error;
    console.log('listening');
  });
});
