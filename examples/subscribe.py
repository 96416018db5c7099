"""Logs in over TCP, joins a room, sends heartbeats and prints what it receives.

    python3 examples/subscribe.py [HOST:PORT] [ROOM] [MID]
"""

import json
import socket
import struct
import sys
import threading
import time

HEARTBEAT, HEARTBEAT_REPLY, DISCONNECT, AUTH, AUTH_REPLY = 2, 3, 6, 7, 8
HEADER = struct.Struct(">ihhii")  # packLen, headerLen, ver, op, seq: big-endian
HEARTBEAT_S = 25  # the server waits for minutes, but proxies and NAT forget sooner
SILENCE_S = 60  # heartbeats are answered, so this long without a byte is a dead connection


def encode(op, seq, body=b""):
    return HEADER.pack(HEADER.size + len(body), HEADER.size, 1, op, seq) + body


def frames(reader):
    while True:
        header = reader.read(HEADER.size)
        if len(header) < HEADER.size:
            return  # the server closed
        pack_len, header_len, _ver, op, seq = HEADER.unpack(header)
        if header_len != HEADER.size or pack_len < HEADER.size:
            sys.exit(f"not a frame: packLen {pack_len}, headerLen {header_len}; is this the TCP port (3101)?")
        yield op, seq, reader.read(pack_len - HEADER.size)


def main(address="127.0.0.1:3101", room="live://1000", mid="1"):
    host, port = address.rsplit(":", 1)
    connection = socket.create_connection((host, int(port)), timeout=SILENCE_S)
    login = {
        "mid": int(mid),  # the user
        "key": f"python-{mid}",  # the device: one connection each
        "room_id": room,
        "platform": "python",
        "accepts": [1000],  # operations of pushes to devices, users and everybody; rooms do not ask
        "features": ["reasons"],  # Halley says why before it closes; goim ignores this
    }
    connection.sendall(encode(AUTH, 1, json.dumps(login).encode()))

    def heartbeats():
        try:
            for seq in range(2, 2**31):
                connection.sendall(encode(HEARTBEAT, seq))
                time.sleep(HEARTBEAT_S)
        except OSError:
            pass  # the reader meets the same end

    for op, _seq, body in frames(connection.makefile("rb")):
        if op == AUTH_REPLY:
            print(f"logged in as {mid}, in {room}", flush=True)
            threading.Thread(target=heartbeats, daemon=True).start()
        elif op == HEARTBEAT_REPLY:
            print("people in the room:", int.from_bytes(body[:4], "big"), flush=True)
        elif op == DISCONNECT:
            print("the server closes:", body.decode(), flush=True)
        else:
            print(op, body.decode(errors="replace"), flush=True)
    sys.exit("the connection ended")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
    except (TypeError, ValueError):  # no port, no number
        sys.exit(f"usage: {__doc__.splitlines()[2].strip()}")
    except OSError as error:  # refused, reset, silent
        sys.exit(f"the connection failed: {error}")
