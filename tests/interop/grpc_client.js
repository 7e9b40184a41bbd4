// The same as grpc_client.py, with gRPC's own implementation in JavaScript.
//
// node grpc_client.js xds:///app.shop:80     lines of JSON in: {"method", "headers", "timeout", "count", "wait"}; out: [[code, text], …]

const readline = require("node:readline");
const grpc = require("@grpc/grpc-js");
require("@grpc/grpc-js-xds").register();

const same = (bytes) => bytes;

function call(client, { method, headers = {}, timeout = 20, wait = true }) {
  const metadata = new grpc.Metadata({ waitForReady: wait });
  for (const [name, value] of Object.entries(headers)) metadata.set(name, value);
  const options = { deadline: Date.now() + timeout * 1000 };
  return new Promise((answer) => {
    client.makeUnaryRequest(method, same, same, Buffer.alloc(0), metadata, options, (error, reply) => {
      answer(error ? [grpc.status[error.code], error.details] : ["OK", reply.toString()]);
    });
  });
}

async function main(target) {
  const client = new grpc.Client(target, grpc.credentials.createInsecure());
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const wanted = JSON.parse(line);
    const answers = [];
    for (let number = 0; number < (wanted.count ?? 1); number++) {
      answers.push(call(client, wanted));
      // A limit of calls counts those that have begun, and none begins before the turn of the loop in which it was made is over.
      await new Promise(setImmediate);
    }
    process.stdout.write(JSON.stringify(await Promise.all(answers)) + "\n");
  }
  client.close();
  process.exit(0);
}

main(process.argv[2]);
