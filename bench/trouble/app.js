// What goes wrong in a server, on request: bench/trouble/app.py's paths that have a meaning in node, on the descriptor of its command line.
'use strict';
const fs = require('fs');
const http = require('http');

const REPORT_MS = 6000;

function until(milliseconds, step) {
  const end = Date.now() + milliseconds;
  while (Date.now() < end) step();
}

function forever(step) {
  for (;;) step();
}

const numbers = Array.from({ length: 500000 }, (_, n) => n);
let kept = [];
const acts = {
  '/spin/constant': () => { for (;;) {} },
  '/spin/arithmetic': () => { let total = 490; for (;;) total = (total * 31) % 1009; },
  '/spin/pattern': () => /^(a+)+$/.test('a'.repeat(64) + '!'),
  '/spin/deadline': () => forever(() => Date.now()),
  '/spin/files': () => forever(() => fs.existsSync('/nonexistent/flag')),
  '/spin/logs': () => forever(() => fs.writeSync(2, 'attempt\n')),
  '/spin/allocate': () => forever(() => { kept.push({ price: kept.length }); if (kept.length > 10000) kept = []; }),
  '/deadlock': () => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0),
  '/report': () => until(REPORT_MS, () => {}),
  '/collect': () => until(REPORT_MS, () => { kept = numbers.map((n) => ({ n })); }),
  '/document': () => until(REPORT_MS, () => JSON.stringify(numbers)),
  '/work': () => until(20, () => {}),
};

until(1000 * Number(process.env.BOOT_BUSY_S || 0), () => {});
Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1000 * Number(process.env.BOOT_IDLE_S || 0));
http.createServer((request, response) => {
  if (acts[request.url]) acts[request.url]();
  response.end('ok\n');
}).listen({ fd: Number(process.argv[2]) });
