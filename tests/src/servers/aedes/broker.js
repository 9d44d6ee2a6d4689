// The broker aedes on a port of 127.0.0.1: node broker.js PORT
import { createServer } from 'node:net'
import { Aedes } from 'aedes'

const FORBIDDEN = 'prisma/events/forbidden/'

const broker = await Aedes.createBroker({
  authorizePublish: (client, packet, done) =>
    done(packet.topic.startsWith(FORBIDDEN) ? new Error('forbidden') : null),
  // No subscription is the refusal of one.
  authorizeSubscribe: (client, subscription, done) =>
    done(null, subscription.topic.startsWith(FORBIDDEN) ? null : subscription)
})
createServer(broker.handle).listen(Number(process.argv[2]), '127.0.0.1')
