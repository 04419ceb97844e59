"""An OTLP/HTTP receiver for tests: decodes requests with the messages of the package opentelemetry-proto, and misbehaves on demand.

Arguments: PORT FILE MANNER... Each request is answered as the next MANNER says, the last one lasts:
    ok            takes it
    STATUS[:N]    refuses it with this status, and `Retry-After: N`
    partial:N     takes it but for N records, which it drops, as partial_success says
    hang          reads it, and never answers
    without:PORT  refuses a request with 400 if it has a record of this source port
Each record that is taken is a line of FILE, in JSON. FILE.requests has a line for each request: seconds, manner, compression and bytes.
The variable TLS names a file in PEM with a certificate and its key, and then it takes nothing but TLS.
"""

import gzip
import json
import os
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)

FILE, MANNERS = sys.argv[2], sys.argv[3:]
LOCK = threading.Lock()


def attributes(message):
    """The attributes of a message as a dictionary. A key that is there twice is an error of the sender."""
    found = {}
    for attribute in message.attributes:
        assert attribute.key not in found, attribute.key
        value = attribute.value
        kind = value.WhichOneof("value")
        found[attribute.key] = (
            [one.string_value for one in value.array_value.values] if kind == "array_value" else getattr(value, kind)
        )
    return found


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path != "/v1/logs" or self.headers["Content-Type"] != "application/x-protobuf":
            return self.answer(404, b"", {})
        request = ExportLogsServiceRequest.FromString(body)
        with LOCK:
            manner = MANNERS.pop(0) if len(MANNERS) > 1 else MANNERS[0]
            with open(FILE + ".requests", "a") as file:
                file.write(f"{time.monotonic()} {manner} {self.headers.get('Content-Encoding')} {length}\n")
        word, _, number = manner.partition(":")
        if word == "hang":
            time.sleep(3600)
        if word == "without":
            ports = [
                attributes(record).get("source.port")
                for logs in request.resource_logs
                for scope in logs.scope_logs
                for record in scope.log_records
            ]
            if int(number) in ports:
                # google.rpc.Status
                return self.answer(400, b"\x08\x03\x12\x0bwrong\x1b\nport", {})
            word = "ok"
        if word.isdigit():
            return self.answer(int(word), b"", {"Retry-After": number} if number else {})
        response = ExportLogsServiceResponse()
        dropped = int(number) if word == "partial" else 0
        if dropped:
            response.partial_success.rejected_log_records = dropped
            response.partial_success.error_message = "too old"
        lines = []
        for logs in request.resource_logs:
            for scope in logs.scope_logs:
                for record in scope.log_records:
                    line = {
                        "headers": dict(self.headers),
                        "resource": attributes(logs.resource),
                        "scope": MessageToDict(scope.scope),
                        "attributes": attributes(record),
                        "time": record.time_unix_nano,
                        "severity": record.severity_text,
                        "severity_number": record.severity_number,
                        "body": record.body.string_value,
                        "event_name": record.event_name,
                    }
                    lines.append(json.dumps(line) + "\n")
        with LOCK, open(FILE, "a") as file:
            file.write("".join(lines[dropped:]))
        self.answer(200, response.SerializeToString(), {})

    def answer(self, status, body, headers):
        self.send_response(status)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
if "TLS" in os.environ:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(os.environ["TLS"])
    server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
