// The client against a server that is a few lines of this file: bytes are compared whole, time is made by hand.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';

import { BODY_MAX, Client, OP, WireError, backoff, decode, encode, verdict } from '../goim.js';

const hex = (bytes) => Buffer.from(bytes).toString('hex');
const unhex = (text) => new Uint8Array(Buffer.from(text.replaceAll(/\s/g, ''), 'hex'));
const text = (bytes) => Buffer.from(bytes).toString();
const join = (...parts) => new Uint8Array(Buffer.concat(parts));

/** Lets promises that are ready go on. */
const settle = () => new Promise((resolve) => setImmediate(resolve));

/** Timers that fire when the test says so. */
class Clock {
  now = 1_000_000;
  #timers = new Map();
  #next = 1;

  set = (call, ms) => {
    this.#timers.set(this.#next, { at: this.now + ms, call });
    return this.#next++;
  };

  clear = (id) => this.#timers.delete(id);

  get waiting() {
    return this.#timers.size;
  }

  async pass(ms) {
    const end = this.now + ms;
    for (;;) {
      await settle();
      const due = [...this.#timers].filter(([, timer]) => timer.at <= end).sort(([, a], [, b]) => a.at - b.at)[0];
      if (!due) break;
      this.#timers.delete(due[0]);
      this.now = due[1].at;
      due[1].call();
    }
    this.now = end;
    await settle();
  }
}

/** Server and socket in one. */
class World {
  clock = new Clock();
  sockets = [];
  states = [];
  messages = [];
  people = [];
  random = 0.5;
  /** Answers logins and heartbeats by itself. */
  answers = true;

  client(options = {}) {
    const world = this;
    class FakeWebSocket {
      sent = [];
      closed = null;

      constructor(url) {
        this.url = url;
        world.sockets.push(this);
      }

      send(bytes) {
        const frame = { ...decode(bytes)[0], hex: hex(bytes) };
        this.sent.push(frame);
        if (!world.answers) return;
        if (frame.op === OP.AUTH) this.push(encode(OP.AUTH_REPLY, frame.seq));
        if (frame.op === OP.HEARTBEAT) this.push(encode(3, frame.seq, unhex('00000007')));
      }

      close(code) {
        this.closed ??= code;
      }

      // What the server does.

      push(bytes) {
        queueMicrotask(() => this.onmessage({ data: bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length) }));
      }

      end(code, reason = '') {
        this.onclose({ code, reason });
      }

      last(op) {
        return this.sent.findLast((frame) => frame.op === op);
      }
    }
    return new Client('ws://x/sub', {
      WebSocket: FakeWebSocket,
      now: () => this.clock.now,
      setTimeout: this.clock.set,
      clearTimeout: this.clock.clear,
      random: () => this.random,
      onstate: (state) => this.states.push(state),
      onmessage: ({ op, text }) => this.messages.push([op, text]),
      onpeople: (people) => this.people.push(people),
      ...options,
    });
  }

  get socket() {
    return this.sockets.at(-1);
  }

  /** A client that is logged in. */
  async open(options) {
    const client = this.client(options);
    client.connect();
    await settle();
    this.socket.onopen();
    await this.clock.pass(0);
    assert.equal(client.state.name, 'open');
    return client;
  }
}

// Frames

test('a frame is sixteen bytes of header and a body, big-endian', () => {
  assert.equal(hex(encode(7, 5, '{}')), '00000012' + '0010' + '0001' + '00000007' + '00000005' + '7b7d');
  assert.equal(hex(encode(OP.JOIN_ROOM, -1, unhex('ff'), 3)), '00000011' + '0010' + '0003' + '77359400' + 'ffffffff' + 'ff');
});

test('what is encoded is decoded, wherever it lies in memory', () => {
  const bytes = join(unhex('0000'), encode(1000, 0, 'Grüße'), encode(3, 9, unhex('00000002'))).subarray(2);
  const [first, second, ...more] = decode(bytes);
  assert.deepEqual([first.op, first.seq, first.ver, text(first.body)], [1000, 0, 1, 'Grüße']);
  assert.deepEqual([second.op, second.seq, hex(second.body), more.length], [3, 9, '00000002', 0]);
  assert.deepEqual(decode(new ArrayBuffer(0)), []);
});

test('a batch is split into its frames, in their order and among others', () => {
  // docs/PROTOCOL.md section 6, byte for byte.
  const one = unhex('00000027 0010 0001 00000009 00000000 00000017 0010 0001 000003e8 00000000 7b2261223a317d');
  assert.deepEqual(decode(one).map(({ op, body }) => [op, text(body)]), [[1000, '{"a":1}']]);
  const batch = encode(OP.RAW, 0, join(encode(1000, 0, 'a'), encode(1001, 0, ''), encode(5, 0, 'c')));
  const frames = decode(join(encode(8, 1), batch, encode(3, 2, unhex('00000000')), encode(OP.RAW, 0)));
  assert.deepEqual(frames.map(({ op, body }) => [op, text(body)]), [
    [8, ''],
    [1000, 'a'],
    [1001, ''],
    [5, 'c'],
    [3, '\0\0\0\0'],
  ]);
});

test('bytes that are no whole frames are refused, all of them', () => {
  const good = encode(1000, 0, 'abc');
  for (let length = 1; length < good.length; length++) {
    assert.throws(() => decode(join(good, good.subarray(0, length))), WireError, `${length} bytes`);
    assert.throws(() => decode(encode(OP.RAW, 0, good.subarray(0, length))), WireError, `${length} bytes in a batch`);
  }
  for (const header of ['0000000f 0010', 'ffffffff 0010', '00000011 0010', '00000010 0011']) {
    assert.throws(() => decode(unhex(`${header} 0001 00000008 00000000`)), WireError, header);
  }
  assert.throws(() => decode(encode(OP.RAW, 0, encode(OP.RAW, 0, good))), /batch inside/);
});

// Decisions

test('close codes decide whether to come back, and how soon', () => {
  const advice = (code) => {
    const { again, slowly } = verdict(code);
    return again ? (slowly ? 'slowly' : 'again') : 'never';
  };
  for (const code of [1002, 1003, 1007, 1009, 4401, 4403, 4409, 4420]) assert.equal(advice(code), 'never', `${code}`);
  for (const code of [1008, 1013]) assert.equal(advice(code), 'slowly', `${code}`);
  for (const code of [1000, 1001, 1005, 1006, 1011, 1012, 4408, 4410, 4413, 4999]) assert.equal(advice(code), 'again', `${code}`);
});

test('the advice is the one of the protocol’s table', () => {
  const protocol = readFileSync(new URL('../../docs/PROTOCOL.md', import.meta.url), 'utf8');
  const rows = [...protocol.matchAll(/^\| (\d{4}) \| `(\w+)` \| (yes|no) \|/gm)];
  assert.ok(rows.length >= 15, `${rows.length} rows`);
  for (const [, code, label, advice] of rows) {
    assert.equal(verdict(Number(code)).again, advice === 'yes', label);
    assert.doesNotMatch(verdict(Number(code)).why, /code/, `${label} has words of its own`);
  }
});

test('operation 6 knows better than the code', () => {
  assert.equal(verdict(4420, '', { code: 4420, reconnect: true }).again, true);
  assert.equal(verdict(1006, '', { code: 4409, reason: 'replaced', reconnect: false }).again, false);
  assert.equal(verdict(1006, '', { code: 1013 }).slowly, true);
  assert.deepEqual(verdict(1001, 'going away', { code: 1001, reason: 'going away', reconnect: true, delay_ms: 420 }), {
    code: 1001,
    again: true,
    slowly: false,
    delayMs: 420,
    why: 'the server is going away',
  });
  for (const delay_ms of [-1, 'soon', null, NaN]) assert.equal(verdict(1001, '', { delay_ms }).delayMs, 0);
  assert.equal(verdict(1001, '', { delay_ms: 1e12 }).delayMs, 600_000);
  assert.match(verdict(4401, 'mid is not a number').why, /login was refused: mid is not a number/);
});

test('the back-off grows to its cap and is anything below it', () => {
  const bounds = { baseMs: 500, factor: 2, capMs: 30_000 };
  const ceilings = [0, 1, 2, 3, 4, 5, 6, 7, 500].map((attempt) => backoff(attempt, bounds, () => 1));
  assert.deepEqual(ceilings, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
  assert.equal(backoff(9, bounds, () => 0), 0);
  const drawn = Array.from({ length: 1000 }, () => backoff(3, bounds));
  assert.ok(drawn.every((ms) => ms >= 0 && ms < 4000));
  assert.ok(Math.max(...drawn) - Math.min(...drawn) > 2000, 'full jitter uses the whole range');
});

// The client

test('the login names device, rooms and features', async () => {
  const world = new World();
  const credentials = async () => ({ token: 't1' });
  const client = await world.open({ mid: 7, key: 'k', rooms: ['live://1', 'live://2'], accepts: [1000], credentials });
  const [login] = world.socket.sent;
  assert.deepEqual([login.op, login.seq, login.ver], [7, 1, 1]);
  assert.deepEqual(JSON.parse(text(login.body)), {
    mid: 7,
    key: 'k',
    room_id: 'live://1',
    platform: 'web',
    accepts: [1000],
    features: ['reasons'],
    rooms: ['live://2'],
    token: 't1',
  });
  assert.deepEqual(world.states.map(({ name }) => name), ['connecting', 'open']);
  assert.deepEqual(client.rooms, ['live://1', 'live://2']);
});

test('a user above 2^53 keeps every digit, as the number that goim asks for', async () => {
  for (const mid of ['725653563933458435', '9223372036854775807', '7']) {
    const world = new World();
    await world.open({ mid, key: 'k' });
    assert.match(text(world.socket.sent[0].body), new RegExp(`^\\{"mid":${mid},"key":"k"`));
  }
});

test('pushes arrive one by one, joined or not', async () => {
  const world = new World();
  await world.open();
  world.socket.push(encode(OP.RAW, 0, join(encode(1000, 0, 'a'), encode(1001, 0, 'b'))));
  world.socket.push(join(encode(OP.RAW, 0, encode(5, 0, 'c')), encode(1000, 0, 'd')));
  await settle();
  assert.deepEqual(world.messages, [[1000, 'a'], [1001, 'b'], [5, 'c'], [1000, 'd']]);
});

test('what one says comes back once, as a message; an empty answer is an error', async () => {
  const world = new World();
  const client = await world.open({ rooms: ['live://1'] });
  const said = client.send('hello');
  const { seq, hex: bytes } = world.socket.last(OP.SEND);
  assert.equal(bytes, hex(encode(4, seq, 'hello')));
  world.socket.push(encode(5, seq, 'hello'));
  await said;
  assert.deepEqual(world.messages, [[5, 'hello']]);
  const refused = assert.rejects(client.send('x'), /no room/);
  world.socket.push(encode(5, world.socket.last(OP.SEND).seq));
  await refused;
  assert.equal(world.messages.length, 1);
  await assert.rejects(client.send('x'.repeat(BODY_MAX + 1)), RangeError);
});

test('rooms are joined beside the first, and joined again after a loss', async () => {
  const world = new World();
  const client = await world.open();
  const answered = async (promise, op, body) => {
    const { seq } = world.socket.last(op);
    world.socket.push(encode(op + 1, seq, body));
    return promise;
  };
  await answered(client.join('a://1'), OP.CHANGE_ROOM, 'a://1');
  await answered(client.join('a://2'), OP.JOIN_ROOM, 'a://2');
  await assert.rejects(answered(client.join('a://3'), OP.JOIN_ROOM, ''), /refused/);
  assert.deepEqual(client.rooms, ['a://1', 'a://2']);
  const speaking = client.speakIn('a://2');
  await answered(Promise.resolve(), OP.CHANGE_ROOM, 'a://2');
  await settle();
  await answered(speaking, OP.JOIN_ROOM, 'a://1');
  assert.deepEqual(client.rooms, ['a://2', 'a://1']);
  world.socket.end(1006);
  await world.clock.pass(500);
  world.socket.onopen();
  const login = JSON.parse(text(world.socket.last(OP.AUTH).body));
  assert.deepEqual([login.room_id, login.rooms], ['a://2', ['a://1']]);
  await settle();
  await answered(client.leave('a://1'), OP.LEAVE_ROOM, 'a://1');
  await answered(client.leave('a://2'), OP.CHANGE_ROOM, '');
  assert.deepEqual(client.rooms, []);
});

test('heartbeats bring the people, and their silence ends the connection', async () => {
  const world = new World();
  const client = await world.open({ heartbeatMs: 1000, answerMs: 300 });
  assert.deepEqual(world.people, [7]);
  await world.clock.pass(2500);
  assert.deepEqual(world.people, [7, 7, 7]);
  world.answers = false;
  await world.clock.pass(1000);
  assert.equal(client.state.name, 'waiting');
  assert.match(client.state.why, /heartbeat/);
  assert.equal(world.socket.closed, 1000);
  // The dead socket's own end comes late, and is nobody's business any more.
  const { state } = client;
  world.sockets[0].end(4409);
  assert.equal(client.state, state);
});

test('a loss is waited out, longer each time, until a connection has held', async () => {
  const world = new World();
  const client = world.client();
  client.connect();
  const waits = [];
  for (let loss = 0; loss < 8; loss++) {
    await settle();
    world.socket.end(1006);
    assert.deepEqual([client.state.name, client.state.attempt], ['waiting', loss]);
    const wait = client.state.until - world.clock.now;
    waits.push(wait);
    await world.clock.pass(wait - 1);
    assert.equal(world.sockets.length, loss + 1, 'not too early');
    await world.clock.pass(1);
    assert.equal(world.sockets.length, loss + 2, 'not too late');
  }
  assert.deepEqual(waits, [250, 500, 1000, 2000, 4000, 8000, 15_000, 15_000]);
  // Open, but not for long.
  world.socket.onopen();
  await world.clock.pass(9_000);
  world.socket.end(1006);
  assert.equal(client.state.attempt, 8);
  await world.clock.pass(15_000);
  world.socket.onopen();
  await world.clock.pass(11_000);
  world.socket.end(1006);
  assert.equal(client.state.attempt, 0);
});

test('a connection that never was is not called lost', async () => {
  const world = new World();
  const client = world.client();
  client.connect();
  await settle();
  world.socket.end(1006);
  assert.deepEqual([client.state.why, client.state.code], ['could not connect', 1006]);
  await world.clock.pass(30_000);
  world.socket.onopen();
  await settle();
  world.socket.end(1006);
  assert.equal(client.state.why, 'the connection was lost');
});

test('what fails before there is a socket is waited out too', async () => {
  for (const [options, why] of [
    [{ credentials: () => Promise.reject(new Error('no token')) }, 'no token'],
    [{ WebSocket: class { constructor() { throw new SyntaxError('a wrong address'); } } }, 'a wrong address'],
  ]) {
    const world = new World();
    const client = world.client(options);
    client.connect();
    await settle();
    assert.deepEqual([client.state.name, client.state.why], ['waiting', why]);
    client.close();
    assert.equal(world.clock.waiting, 0);
  }
});

test('the jitter is drawn anew for each attempt', async () => {
  const world = new World();
  const draws = [0.9, 0.1, 0.6];
  const client = world.client({ random: () => draws.shift() });
  client.connect();
  const waits = [];
  for (let loss = 0; loss < 3; loss++) {
    await settle();
    world.socket.end(1006);
    waits.push(client.state.until - world.clock.now);
    await world.clock.pass(waits.at(-1));
  }
  assert.deepEqual(waits, [450, 100, 1200]);
});

test('codes that say so end it for good', async () => {
  for (const code of [1002, 1007, 1009, 4401, 4403, 4409, 4420]) {
    const world = new World();
    const client = await world.open();
    world.socket.end(code, 'words');
    assert.deepEqual([client.state.name, client.state.code], ['closed', code]);
    assert.match(client.state.why, /words/);
    await world.clock.pass(3_600_000);
    assert.equal(world.sockets.length, 1, `${code}`);
    assert.equal(world.clock.waiting, 0);
    client.connect();
    await settle();
    assert.equal(world.sockets.length, 2, 'unless somebody asks');
  }
});

test('a server that asks for mercy gets it', async () => {
  for (const code of [1008, 1013]) {
    const world = new World();
    world.random = 0;
    const client = await world.open();
    world.socket.end(code);
    assert.equal(client.state.until - world.clock.now, 15_000, `${code}`);
  }
});

test('operation 6 says when to come back', async () => {
  const world = new World();
  const client = await world.open();
  world.socket.push(encode(6, 0, '{"code":1001,"reason":"going away","reconnect":true,"delay_ms":4200}'));
  await settle();
  world.socket.end(1001, 'going away');
  assert.equal(client.state.until - world.clock.now, 4200 + 250);
  await world.clock.pass(4450);
  assert.equal(world.sockets.length, 2);
  // It was said about that connection, not about the next.
  world.socket.end(1006);
  assert.equal(client.state.until - world.clock.now, 500);
});

test('a login without an answer is given up', async () => {
  const world = new World();
  world.answers = false;
  const client = world.client({ answerMs: 3000 });
  client.connect();
  await settle();
  world.socket.onopen();
  await world.clock.pass(3000);
  assert.equal(client.state.name, 'waiting');
  assert.match(client.state.why, /login/);
});

test('a server that speaks something else is not hurried back to', async () => {
  const world = new World();
  const client = await world.open();
  world.socket.push(unhex('00000010'));
  await settle();
  assert.equal(client.state.name, 'waiting');
  assert.ok(client.state.until - world.clock.now >= 15_000);
});

test('leaving ends everything, also while it waits', async () => {
  const world = new World();
  const client = await world.open();
  const asked = assert.rejects(client.request(1000, 'x'), /connection ended/);
  client.close();
  await asked;
  assert.deepEqual([client.state.name, world.socket.closed, world.clock.waiting], ['closed', 1000, 0]);
  client.connect();
  await settle();
  world.socket.end(1006);
  assert.equal(client.state.name, 'waiting');
  client.close();
  await world.clock.pass(3_600_000);
  assert.equal(world.sockets.length, 2);
  await assert.rejects(client.send('x'), /not connected/);
});

test('connecting by hand does not wait, and keeps the count of attempts', async () => {
  const world = new World();
  const client = await world.open();
  world.socket.end(1006);
  client.connect();
  await settle();
  assert.equal(world.sockets.length, 2);
  assert.equal(client.state.attempt, 1);
  assert.equal(world.clock.waiting, 1, 'only the deadline of the login');
});
