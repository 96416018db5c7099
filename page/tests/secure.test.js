// A real browser over wss://, to the port that has TLS.
//
// Needs the built program, Chromium (tests/services/chromium.sh install) and openssl.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash, X509Certificate } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';

import { Browser, eventually, isInstalled } from './chromium.js';
import { Gateway } from './gateway.js';

const skip = process.env.CI !== 'true' && !isInstalled() && 'no Chromium: tests/services/chromium.sh install';

/** A certificate for localhost and its key, in files; and what a browser knows the key by. */
function certificate(folder) {
  const [chain, key] = [join(folder, 'site.crt'), join(folder, 'site.key')];
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '30',
    '-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost', '-keyout', key, '-out', chain], { stdio: 'pipe' });
  const { publicKey } = new X509Certificate(readFileSync(chain));
  const pin = createHash('sha256').update(publicKey.export({ type: 'spki', format: 'der' })).digest('base64');
  return { chain, key, pin };
}

test('a browser logs in over wss and is pushed to, and trusts nobody else', { skip, timeout: 120_000 }, async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'halley-wss-'));
  const { chain, key, pin } = certificate(folder);
  const gateway = await new Gateway('comet.websocket.tlsOpen=true', 'comet.websocket.tlsBind=127.0.0.1:0',
    `comet.websocket.certFile=${chain}`, `comet.websocket.privateFile=${key}`).start();
  const [trusting, stranger] = [new Browser(`--ignore-certificate-errors-spki-list=${pin}`), new Browser()];
  t.after(async () => {
    await Promise.all([trusting.close(), stranger.close(), gateway.stop()]);
    rmSync(folder, { recursive: true, force: true });
  });
  // Pages of the same host may connect, and the certificate is for its name.
  const address = gateway.http.replace('127.0.0.1', 'localhost');
  const [page, other] = await Promise.all([trusting.page(address), stranger.page(address)]);
  const connect = (page, name) => page.eval(`import('/_/goim.js').then(({ Client }) => {
    window.got = [];
    window.states = [];
    window.client = new Client('wss://localhost:${gateway.securePort}/sub', {
      mid: 7, key: '${name}', rooms: ['live://1000'], accepts: [1000],
      onmessage: ({ text }) => window.got.push(text),
      onstate: (state) => window.states.push(state.name),
    });
    window.client.connect();
  })`);
  // Twice: the second time with a ticket.
  for (const name of ['first', 'second']) {
    await connect(page, name);
    await eventually(`${name} is connected`, () => page.eval("window.states.includes('open')"));
    await gateway.push(`keys?operation=1000&keys=${name}`, `hello ${name}`);
    await eventually('the push', async () => (await page.eval('window.got.join()')) === `hello ${name}`);
    await page.eval('window.client.close()');
  }
  await connect(other, 'stranger');
  await eventually('the stranger has tried', () => other.eval("window.states.includes('waiting')"));
  assert.equal(await other.eval("window.states.includes('open')"), false);
  await eventually('its alert is counted', async () => {
    const metrics = await (await fetch(`${gateway.http}/metrics`)).text();
    return /halley_bad_input_total\{proto="tls",reason="alert"\} [1-9]/.test(metrics);
  });
  const metrics = await (await fetch(`${gateway.http}/metrics`)).text();
  const handshakes = (kind) => Number(new RegExp(`halley_tls_handshakes_total\\{version="1.3",kind="${kind}"\\} (\\d+)`).exec(metrics)?.[1]);
  assert.ok(handshakes('full') >= 1 && handshakes('full') + handshakes('resumed') >= 2, metrics);
});
