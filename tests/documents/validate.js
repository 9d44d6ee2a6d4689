// Reads an AsyncAPI document as its own parser does, and tells in JSON what that finds.
import { readFileSync } from 'node:fs';

import parser from '@asyncapi/parser';

const ERROR = 0;
const { document, diagnostics } = await new parser.Parser().parse(readFileSync(process.argv[2], 'utf8'));
const errors = diagnostics
  .filter(({ severity }) => severity === ERROR)
  .map(({ message, path }) => `${path.join('.')}: ${message}`);
const found = document && {
  version: document.version(),
  channels: document.allChannels().all().map((channel) => channel.address()),
  messages: document.allMessages().all().map((message) => message.name()),
  operations: document.allOperations().all().map((operation) => operation.id()),
};
console.log(JSON.stringify({ errors, ...found }));
