// The gateway of a test, on ports of its own.
//
// Needs the built program: target/debug/halley, or what HALLEY names.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';

import { eventually } from './chromium.js';

export const root = fileURLToPath(new URL('../..', import.meta.url));
const HALLEY = process.env.HALLEY ?? `${process.env.CARGO_TARGET_DIR ?? `${root}target`}/debug/halley`;

/** The gateway, which can go away and come back on the same ports. */
export class Gateway {
  ports = { 'comet.tcp.bind': 0, 'comet.websocket.bind': 0, 'comet.rpcServer.addr': 0, 'logic.httpServer.addr': 0, 'logic.rpcServer.addr': 0 };
  #child;
  #log = '';
  #sets;

  constructor(...sets) {
    this.#sets = ['comet.drain.spread=0s', 'comet.reactor.shards=2', 'comet.reactor.ringEntries=256', ...sets];
  }

  async start() {
    const ports = Object.entries(this.ports).map(([key, port]) => `${key}=127.0.0.1:${port}`);
    const args = [...ports, ...this.#sets].flatMap((set) => ['--set', set]);
    this.#log = '';
    this.#child = spawn(HALLEY, args, { stdio: ['ignore', 'ignore', 'pipe'] });
    this.#child.stderr.on('data', (chunk) => (this.#log += chunk));
    await eventually('the gateway starts', () => {
      assert.equal(this.#child.exitCode, null, this.#log);
      return this.#log.includes('open files');
    });
    const port = (pattern) => Number(pattern.exec(this.#log)?.[1]);
    this.ports = {
      'comet.tcp.bind': port(/TCP .*:(\d+)/),
      'comet.websocket.bind': port(/ws:.*:(\d+)\/sub/),
      'comet.rpcServer.addr': port(/comet [\d.]+:(\d+)/),
      'logic.httpServer.addr': port(/HTTP API .*:(\d+)/),
      'logic.rpcServer.addr': port(/logic [\d.]+:(\d+)/),
    };
    return this;
  }

  get http() {
    return `http://127.0.0.1:${this.ports['logic.httpServer.addr']}`;
  }

  /** The port with TLS, if it has one. */
  get securePort() {
    return Number(/wss:.*:(\d+)\/sub/.exec(this.#log)?.[1]);
  }

  async stop() {
    if (this.#child.exitCode !== null) return;
    const ended = once(this.#child, 'exit');
    this.#child.kill('SIGTERM');
    const [status] = await ended;
    assert.equal(status, 0, this.#log);
  }

  async push(target, body) {
    const answer = await fetch(`${this.http}/goim/push/${target}`, { method: 'POST', body });
    assert.equal(await answer.text(), '{"code":0,"message":""}');
  }
}
