// What is made of the gateway's counters.

import assert from 'node:assert/strict';
import test from 'node:test';

import { History, amount, between, ceiling, clock, decades, duration, path, percentile, span } from '../live.js';

test('a percentile is the upper bound of its bucket', () => {
  const counts = Array(26).fill(0);
  assert.equal(percentile(counts, 0.5), null);
  counts[3] = 98; // 4 to 7 µs
  counts[10] = 1;
  counts[25] = 1;
  assert.equal(percentile(counts, 0.5), 8);
  assert.equal(percentile(counts, 0.98), 8);
  assert.equal(percentile(counts, 0.99), 1024);
  assert.equal(percentile(counts, 0.999), Infinity);
});

test('numbers are written to be read', () => {
  assert.deepEqual([null, 0.5, 8, 1024, 2048, 131_072, 2 ** 21, Infinity].map(duration), ['–', '0.5 µs', '8 µs', '1.0 ms', '2.0 ms', '131 ms', '2.1 s', '> 16 s']);
  assert.deepEqual([null, 0, 0.25, 1.004, 7, 12.4, 999, 1000, 1_234_567, 12_345_678].map(amount), ['–', '0', '0.3', '1', '7', '12', '999', '1,000', '1,234,567', '12.3 M']);
  assert.deepEqual([0.4, 59, 60, 3723, 90_000].map(span), ['0 s', '59 s', '1 min', '1 h 2 min', '1 d 1 h']);
  assert.equal(clock(new Date(2026, 0, 2, 3, 4, 5)), '03:04:05');
});

test('an axis ends at a round number above what it shows', () => {
  assert.deepEqual([0, 0.3, 1, 1.1, 4, 7, 10, 11, 353, 500, 501, 123_456].map(ceiling), [1, 1, 1, 2, 5, 10, 10, 20, 500, 500, 1000, 200_000]);
  assert.deepEqual(decades([]), [2, 5]);
  assert.deepEqual(decades([null, Infinity]), [2, 5]);
  assert.deepEqual(decades([1024, null, 8192]), [3, 5], 'two decades at least');
  assert.deepEqual(decades([128, 2 ** 20, Infinity]), [2, 7]);
});

const stats = (uptime_ms, deliveries, bucket) => ({ uptime_ms, deliveries, stages: { s: [0, 0, bucket, 0] } });

test('rates are differences by the gateway’s own clock, with gaps where it was silent', () => {
  const history = new History();
  history.add(0, stats(1000, 10, 0));
  history.add(1, stats(3000, 30, 1));
  history.add(2, null);
  history.add(3, stats(5000, 50, 1));
  history.add(4, stats(5500, 60, 4));
  assert.deepEqual(history.rates((s) => s.deliveries), [null, 10, null, null, 20]);
  assert.deepEqual(history.values((s) => s.deliveries), [10, 30, null, 50, 60]);
  assert.equal(history.latency('s', 0.5), 4);
  assert.equal(history.latency('s', 0.5, 3, 1), null, 'nothing to compare with');
  assert.deepEqual(between([1, 2], [3, 2]), [2, 0]);
});

test('a gateway that was restarted begins anew', () => {
  const history = new History();
  history.add(0, stats(9000, 100, 5));
  history.add(1, null);
  history.add(2, stats(500, 3, 1));
  assert.deepEqual(history.rates((s) => s.deliveries), [null, null, null]);
  assert.equal(history.latency('s', 0.5), null);
  history.add(3, stats(1500, 5, 2));
  assert.equal(history.rates((s) => s.deliveries).at(-1), 2);
});

test('two minutes are kept', () => {
  const history = new History();
  for (let n = 0; n < 500; n++) history.add(n, stats(n * 1000, n, 0));
  assert.equal(history.samples.length, 121);
});

test('a line breaks where values are missing and ends at the right', () => {
  assert.deepEqual(path([0, 0.5, null, 1]), [[[117, 40], [118, 20]], [[119.5, 0], [120, 0]]]);
  assert.deepEqual(path([2, -1]), [[[119, 0], [120, 40]]], 'nothing leaves the plot');
  assert.deepEqual(path([null]), []);
});
