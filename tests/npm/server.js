// A server that runs the npm package prisma-extension-emitter, unmodified, with Prisma and a SQLite of its own.
// The Rust side (tests/src/npm.rs) drives it with one JSON value a line, which it answers with one line.

'use strict';

const readline = require('node:readline');
const { PrismaLibSQL } = require('@prisma/adapter-libsql');
const { listenerExtensionConfig, logger, prismaEventListener } = require('prisma-extension-emitter');

const { broker, client, database } = JSON.parse(process.argv[2]);
const { PrismaClient } = require(client);

/** What each listener was handed, in its order. */
const heard = { all: [], active: [], named: [], visited: [], seventh: [], tenths: [] };

/** What Prisma answered to each write that it was ordered. */
const results = [];

/** The package tells nobody when it is connected, but for its log. */
function logged(...texts) {
  return Promise.all(
    texts.map(
      (text) =>
        new Promise((resolve) => {
          const before = logger.info.bind(logger);
          logger.info = (line, ...more) => {
            if (String(line).startsWith(text)) resolve();
            before(line, ...more);
          };
        }),
    ),
  );
}

function listen(name, filters) {
  prismaEventListener('Member', {
    ...filters,
    allowRemote: true,
    remoteOnly: true,
    listener: (event) => {
      heard[name].push(event);
    },
  });
}

async function start() {
  const connected = logged('MQTT client connected', 'MQTT subscriber connected', 'Subscribed to MQTT topic');
  const emitting = listenerExtensionConfig({ emit: true, mqtt: { enabled: true, brokerUrl: broker } });
  const prisma = new PrismaClient({ adapter: new PrismaLibSQL({ url: `file:${database}` }) }).$extends(emitting);
  await prisma.$queryRawUnsafe('PRAGMA journal_mode = WAL');
  await prisma.$queryRawUnsafe('PRAGMA synchronous = OFF');
  await prisma.$executeRawUnsafe(
    `CREATE TABLE Member (id INTEGER PRIMARY KEY, name TEXT NOT NULL, status TEXT NOT NULL,
       visits INTEGER NOT NULL, score REAL, seenAt DATETIME)`,
  );

  listen('all', {});
  listen('active', { data: { status: ['ACTIVE', 'BLOCKED'] } });
  listen('named', { data: { name: true } });
  listen('visited', { data: { visits: (visits) => visits > 100 } });
  listen('seventh', { where: { id: 7 } });
  listen('tenths', { where: { id: (id) => id % 10 === 0 } });
  await connected;
  return prisma;
}

async function write(prisma, writes) {
  for (const { operation, args } of writes) {
    results.push(await prisma.member[operation]({ ...args, emit: true }));
    // This database answers without ever waiting: else nothing would be sent or heard until all is written.
    await new Promise(setImmediate);
  }
}

function counts() {
  const lengths = Object.entries(heard).map(([name, events]) => [name, events.length]);
  return { written: results.length, heard: Object.fromEntries(lengths) };
}

function answer(value) {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

start().then((prisma) => {
  const orders = readline.createInterface({ input: process.stdin });
  orders.on('line', (line) => {
    const order = JSON.parse(line);
    // What fails in it ends the process, and so the test.
    if (order.write) write(prisma, order.write);
    answer(order.account ? { results, heard } : counts());
  });
  // The end of its input is the end of the test.
  orders.on('close', () => process.exit(0));
  answer(counts());
});
