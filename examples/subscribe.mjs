// Logs in over TCP, joins a room, sends heartbeats and prints what it receives. For node 18 and newer, no packages.
//
//     node examples/subscribe.mjs [HOST:PORT] [ROOM] [MID]
//
// For browsers: browser.html.

import { connect } from 'node:net';

const [HEARTBEAT, HEARTBEAT_REPLY, DISCONNECT, AUTH, AUTH_REPLY] = [2, 3, 6, 7, 8];
const HEADER_LEN = 16;
const HEARTBEAT_MS = 25_000; // the server waits for minutes, but proxies and NAT forget sooner
const SILENCE_MS = 60_000; // heartbeats are answered, so this long without a byte is a dead connection

const [address = '127.0.0.1:3101', room = 'live://1000', mid = '1'] = process.argv.slice(2);
const colon = address.lastIndexOf(':');
if (!(Number(address.slice(colon + 1)) > 0 && colon > 0)) {
  console.error('usage: node examples/subscribe.mjs [HOST:PORT] [ROOM] [MID]');
  process.exit(2);
}
const socket = connect(Number(address.slice(colon + 1)), address.slice(0, colon));
socket.setTimeout(SILENCE_MS, () => socket.destroy(new Error('the server is silent')));

function send(op, seq, body = '') {
  const bytes = Buffer.from(body);
  const header = Buffer.alloc(HEADER_LEN);
  header.writeInt32BE(HEADER_LEN + bytes.length, 0); // packLen
  header.writeInt16BE(HEADER_LEN, 4);
  header.writeInt16BE(1, 6); // ver
  header.writeInt32BE(op, 8);
  header.writeInt32BE(seq, 12);
  socket.write(Buffer.concat([header, bytes]));
}

socket.on('connect', () => {
  const login = {
    mid, // the user
    key: `node-${mid}`, // the device: one connection each
    room_id: room,
    platform: 'node',
    accepts: [1000], // operations of pushes to devices, users and everybody; rooms do not ask
    features: ['reasons'], // Halley says why before it closes; goim ignores this
  };
  // The user as a number with all its digits: above 2^53 JavaScript's numbers have not that many.
  send(AUTH, 1, JSON.stringify(login).replace(/"mid":"(\d+)"/, '"mid":$1'));
});

// A read holds any part of any number of frames.
let input = Buffer.alloc(0);
socket.on('data', (chunk) => {
  input = Buffer.concat([input, chunk]);
  while (input.length >= HEADER_LEN) {
    const packLen = input.readInt32BE(0);
    if (packLen < HEADER_LEN || input.readInt16BE(4) !== HEADER_LEN) {
      socket.destroy(new Error(`not a frame: packLen ${packLen}`));
      return;
    }
    if (input.length < packLen) return;
    received(input.readInt32BE(8), input.subarray(HEADER_LEN, packLen));
    input = input.subarray(packLen);
  }
});

let seq = 1;
let timer;
function heartbeat() {
  send(HEARTBEAT, ++seq);
  timer = setTimeout(heartbeat, HEARTBEAT_MS);
}

function received(op, body) {
  if (op === AUTH_REPLY) {
    console.log(`logged in as ${mid}, in ${room}`);
    heartbeat();
  } else if (op === HEARTBEAT_REPLY) {
    console.log('people in the room:', body.readInt32BE(0));
  } else if (op === DISCONNECT) {
    console.log('the server closes:', body.toString());
  } else {
    console.log(op, body.toString());
  }
}

socket.on('error', (error) => console.error(error.message));
socket.on('close', () => {
  clearTimeout(timer);
  console.error('the connection ended');
  process.exitCode = 1;
});
