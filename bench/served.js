// What bench/served.py serves, by node, on the descriptor that its command line names.
'use strict';
const http = require('http');

function spin() {
  for (;;) {}
}

function sleepAtImport(seconds) {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, seconds * 1000);
}

sleepAtImport(Number(process.env.BOOT_S || 0));
const server = http.createServer((request, response) => {
  if (request.url === '/spin') spin();
  response.end('ok\n');
});
server.listen({ fd: Number(process.argv[2]) });
process.on('SIGTERM', () => server.close(() => process.exit(0)));
