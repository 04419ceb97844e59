"""A broker for tests: decodes batches by kafka-python, and misbehaves on demand.

Arguments: PORT FILE MANNER... Each request to produce is answered as the next MANNER says, the last one lasts:
    ok             takes it
    CODE           refuses the batches of all partitions with this error code
    CODE@N         refuses that of partition N, and takes the others
    hang           reads it, and never answers
    close          closes the connection instead of an answer, and has taken it
    without:PORT   refuses batches with INVALID_RECORD that have a record of this source port
    throttle:MS    takes it, and wants to be left alone for so long
Each message that is taken is a line of FILE, in the form of tests/receivers/kafka_client.py. FILE.requests has a line for each request to produce:
seconds, manner, version, compression, acknowledgments, partitions, connection, and bytes. FILE.connections has a line for each connection.

Variables: PARTITIONS of every topic (3); PRODUCE, the highest version of that request (8); TLS, a file in PEM with certificate and key;
SASL, as in `SCRAM-SHA-256:user:password`; HANG, and no connection is answered.
"""

import base64
import hashlib
import hmac
import itertools
import json
import os
import socketserver
import ssl
import struct
import sys
import threading
import time

from kafka.partitioner.default import murmur2
from kafka.record import MemoryRecords

PORT, FILE, MANNERS = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
PARTITIONS = int(os.environ.get("PARTITIONS", "3"))
PRODUCE = int(os.environ.get("PRODUCE", "8"))
MECHANISM, USER, PASSWORD = os.environ.get("SASL", "::").split(":")
LOCK, CONNECTIONS = threading.Lock(), itertools.count()


class Reader:
    def __init__(self, data):
        self.data = data

    def take(self, count):
        assert len(self.data) >= count >= 0
        taken, self.data = self.data[:count], self.data[count:]
        return taken

    def number(self, form):
        return struct.unpack(">" + form, self.take(struct.calcsize(">" + form)))[0]

    def string(self):
        length = self.number("h")
        return None if length < 0 else self.take(length).decode()


def string(text):
    return struct.pack(">h", -1) if text is None else struct.pack(">h", len(text)) + text.encode()


def messages(partition, data):
    """The messages of a batch, checked as a broker does."""
    found, records = [], MemoryRecords(data)
    batch = records.next_batch()
    assert not records.has_next() and batch.validate_crc() and batch.magic == 2 and not batch.has_producer_id()
    for offset, record in enumerate(batch):
        assert record.offset == offset and not record.headers
        found.append({
            "partition": partition,
            "expected": None if record.key is None else (murmur2(record.key) & 0x7FFFFFFF) % PARTITIONS,
            "key": None if record.key is None else record.key.decode(),
            "time": record.timestamp,
            "text": record.value.decode(),
        })
    assert batch.records_count == len(found) and batch.max_timestamp == max(it["time"] for it in found)
    return found, batch.compression_type


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        connection = next(CONNECTIONS)
        with LOCK, open(FILE + ".connections", "a") as file:
            file.write(f"{connection}\n")
        if "HANG" in os.environ:
            time.sleep(3600)
        if "TLS" in os.environ:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(os.environ["TLS"])
            try:
                self.request = context.wrap_socket(self.request, server_side=True)
            except (OSError, ssl.SSLError):
                return
        stream = self.request.makefile("rwb")
        self.may_enter, self.scram = not MECHANISM, None
        while len(head := stream.read(4)) == 4:
            request = Reader(stream.read(struct.unpack(">i", head)[0]))
            key, version, number = request.number("h"), request.number("h"), request.number("i")
            assert request.string() == "tracker"
            answer = self.answer(key, version, request, connection)
            if answer is None:
                return
            assert not request.data, "more than the request"
            stream.write(struct.pack(">ii", len(answer) + 4, number) + answer)
            stream.flush()

    def answer(self, key, version, request, connection):
        if key == 18:
            ranges = [(0, 3, PRODUCE), (3, 0, 9), (17, 0, 1), (18, 0, 0), (36, 0, 1)]
            return struct.pack(">hi", 0, len(ranges)) + b"".join(struct.pack(">hhh", *it) for it in ranges)
        if key == 17:
            error = 0 if request.string() == MECHANISM else 33
            return struct.pack(">hi", error, 1) + string(MECHANISM or "none")
        if key == 36:
            outcome = self.authenticate(request.take(request.number("i")))
            if outcome is None:
                return struct.pack(">h", 58) + string("no\x1b such user or password") + struct.pack(">i", 0)
            return struct.pack(">h", 0) + string(None) + struct.pack(">i", len(outcome)) + outcome
        if not self.may_enter:
            return None
        if key == 3:
            assert version == 4 and request.number("i") == 1
            topic, makes = request.string(), request.number("b")
            assert makes == 0
            brokers = struct.pack(">iii", 0, 1, 7) + string("127.0.0.1") + struct.pack(">i", PORT) + string(None)
            partitions = b"".join(
                struct.pack(">hiiiiii", 0, number, 7, 1, 7, 1, 7) for number in reversed(range(PARTITIONS))
            )
            topics = struct.pack(">ih", 1, 0) + string(topic) + struct.pack(">bi", 0, PARTITIONS) + partitions
            return brokers + string("cluster") + struct.pack(">i", 7) + topics
        assert key == 0
        return self.produce(version, request, connection)

    def produce(self, version, request, connection):
        assert request.string() is None
        acks, _, topics = request.number("h"), request.number("i"), request.number("i")
        assert topics == 1
        size = len(request.data)
        topic, batches, kinds = request.string(), {}, set()
        for _ in range(request.number("i")):
            partition = request.number("i")
            batches[partition], kind = messages(partition, request.take(request.number("i")))
            kinds.add(kind)
        with LOCK:
            manner = MANNERS.pop(0) if len(MANNERS) > 1 else MANNERS[0]
            with open(FILE + ".requests", "a") as file:
                names = {0: "none", 1: "gzip", 3: "lz4"}
                kinds = ",".join(names[kind] for kind in sorted(kinds))
                numbers = ",".join(map(str, sorted(batches)))
                file.write(f"{time.monotonic()} {manner} {version} {kinds} {acks} {numbers} {connection} {size}\n")
        if manner == "hang":
            time.sleep(3600)
        word, _, argument = manner.partition(":")
        answers, taken = b"", []
        for partition, found in batches.items():
            code = 0
            if word == "without":
                code = 87 if any(json.loads(it["text"]).get("sport") == int(argument) for it in found) else 0
            elif word not in ("ok", "close", "throttle"):
                refused, _, only = word.partition("@")
                code = int(refused) if only in ("", str(partition)) else 0
            taken += [] if code else found
            answers += struct.pack(">ihqq", partition, code, 0, -1)
            answers += struct.pack(">q", 0) if version >= 5 else b""
            if version >= 8:
                answers += struct.pack(">i", 0) + string("wrong\x1b\nrecord" if code else None)
        with LOCK, open(FILE, "a") as file:
            file.write("".join(json.dumps(it) + "\n" for it in taken))
        if word == "close":
            return None
        throttle = int(argument) if word == "throttle" else 0
        return struct.pack(">i", 1) + string(topic) + struct.pack(">i", len(batches)) + answers + struct.pack(">i", throttle)

    def authenticate(self, step):
        """The answer to a step of SASL, by RFC 4616 and RFC 5802; None where it is not the user."""
        if MECHANISM == "PLAIN":
            self.may_enter = step.decode().split("\0") == ["", USER, PASSWORD]
            return b"" if self.may_enter else None
        name = MECHANISM.removeprefix("SCRAM-").replace("-", "").lower()
        if self.scram is None:
            bare = step.decode().removeprefix("n,,")
            fields = dict(field.split("=", 1) for field in bare.split(","))
            if fields["n"] != USER:
                return None
            first = f"r={fields['r']}server,s={base64.b64encode(b'salt').decode()},i=4096"
            self.scram = bare, first
            return first.encode()
        bare, first = self.scram
        last, _, proof = step.decode().rpartition(",p=")
        assert last == "c=biws," + first.split(",")[0]
        text = f"{bare},{first},{last}".encode()
        salted = hashlib.pbkdf2_hmac(name, PASSWORD.encode(), b"salt", 4096)
        client = hmac.digest(salted, b"Client Key", name)
        signature = hmac.digest(hashlib.new(name, client).digest(), text, name)
        if base64.b64decode(proof) != bytes(a ^ b for a, b in zip(client, signature)):
            return None
        self.may_enter = True
        server = hmac.digest(hmac.digest(salted, b"Server Key", name), text, name)
        return b"v=" + base64.b64encode(server)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address, daemon_threads = True, True


Server(("127.0.0.1", PORT), Handler).serve_forever()
