"""gRPC's own Python library as server and client: `serve`, and `check ADDRESS [CA]` through whatever is between.

The server prints its port. The client prints a line for each case, `ok NAME` or `bad NAME: why`, with its time.
Messages are plain bytes, so that no code has to be generated.
"""

import base64
import http.client
import ssl
import struct
import sys
import threading
import time
from concurrent import futures
from urllib.parse import unquote

import grpc

SERVICE = "tidegate.Suite"
LARGE = 8 << 20
OPTIONS = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)]


class Suite(grpc.GenericRpcHandler):
    """The methods, by name."""

    def __init__(self):
        self.begun = threading.Semaphore(0)
        self.ended = threading.Semaphore(0)

    def service(self, details):
        kind, _, name = details.method.rpartition("/")
        if kind != "/" + SERVICE:
            return None
        handlers = {
            "Echo": grpc.unary_unary_rpc_method_handler(self.echo),
            "Count": grpc.stream_unary_rpc_method_handler(self.count),
            "Repeat": grpc.unary_stream_rpc_method_handler(self.repeat),
            "Talk": grpc.stream_stream_rpc_method_handler(self.talk),
            "Fail": grpc.unary_unary_rpc_method_handler(self.fail),
            "FailLate": grpc.unary_stream_rpc_method_handler(self.fail_late),
            "Wait": grpc.unary_unary_rpc_method_handler(self.wait),
            "Endless": grpc.unary_stream_rpc_method_handler(self.endless),
            "Begun": grpc.unary_unary_rpc_method_handler(self.has_begun),
            "Ended": grpc.unary_unary_rpc_method_handler(self.has_ended),
        }
        return handlers.get(name)

    def echo(self, message, context):
        sent = [(key, value) for key, value in context.invocation_metadata() if key.startswith("x-")]
        context.send_initial_metadata([("x-initial", "first")] + sent)
        context.set_trailing_metadata([("x-last-bin", b"\x00\xff"), ("x-last", "done")])
        return message

    def count(self, messages, context):
        sizes = [len(message) for message in messages]
        return b"%d %d" % (len(sizes), sum(sizes))

    def repeat(self, message, context):
        for number in range(int(message)):
            yield b"%d" % number

    def talk(self, messages, context):
        for message in messages:
            yield b"re: " + message

    def fail(self, message, context):
        code = next(code for code in grpc.StatusCode if code.value[0] == int(message))
        context.set_trailing_metadata([("x-why", "asked")])
        context.abort(code, "caf\u00e9 100% \u2713")

    def fail_late(self, message, context):
        yield b"one"
        yield b"two"
        context.abort(grpc.StatusCode.DATA_LOSS, "after two")

    def wait(self, message, context):
        left = context.time_remaining()
        gone = self.until_gone(context)
        context.send_initial_metadata([("x-left", "%f" % (left if left is not None else -1))])
        self.begun.release()
        gone.wait(30)
        return b""

    def endless(self, message, context):
        gone = self.until_gone(context)
        yield b"first"
        gone.wait(30)

    def until_gone(self, context):
        """Is set, and notes it, when the call ends. A generator is not resumed after that, so it cannot note it itself."""
        gone = threading.Event()

        def end():
            gone.set()
            self.ended.release()

        if not context.add_callback(end):
            end()
        return gone

    def has_begun(self, message, context):
        """Says whether a call that waits has come."""
        return b"yes" if self.begun.acquire(timeout=10) else b"no"

    def has_ended(self, message, context):
        """Says whether a call that was given up has ended here, too."""
        return b"yes" if self.ended.acquire(timeout=10) else b"no"


def serve(certificate=None, key=None):
    server = grpc.server(futures.ThreadPoolExecutor(64), handlers=[Suite()], options=OPTIONS)
    if certificate:
        with open(key, "rb") as one, open(certificate, "rb") as two:
            credentials = grpc.ssl_server_credentials([(one.read(), two.read())])
        port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    server.stop(None)


class Client:
    """The cases. Each is a method whose name begins with `case_`."""

    def __init__(self, address, authority):
        self.address, self.ca = address, authority
        options = OPTIONS + [("grpc.ssl_target_name_override", "grpc.test"), ("grpc.default_authority", "grpc.test")]
        if authority:
            with open(authority, "rb") as file:
                credentials = grpc.ssl_channel_credentials(file.read())
            self.channel = grpc.secure_channel(address, credentials, options)
        else:
            self.channel = grpc.insecure_channel(address, options)

    def unary(self, name):
        return self.channel.unary_unary("/%s/%s" % (SERVICE, name))

    def case_unary_with_metadata(self):
        answer, call = self.unary("Echo").with_call(b"hello", metadata=[("x-a", "1"), ("x-b-bin", b"\x00\x01\xfe")])
        assert answer == b"hello", answer
        initial, last = dict(call.initial_metadata()), dict(call.trailing_metadata())
        assert (initial["x-initial"], initial["x-a"], initial["x-b-bin"]) == ("first", "1", b"\x00\x01\xfe"), initial
        assert (last["x-last"], last["x-last-bin"]) == ("done", b"\x00\xff"), last

    def case_empty_message(self):
        assert self.unary("Echo")(b"") == b""

    def case_client_stream(self):
        count = self.channel.stream_unary("/%s/Count" % SERVICE)
        assert count(iter([b"x" * size for size in range(500)])) == b"500 124750"
        assert count(iter([])) == b"0 0"

    def case_server_stream(self):
        repeat = self.channel.unary_stream("/%s/Repeat" % SERVICE)
        assert list(repeat(b"1000")) == [b"%d" % number for number in range(1000)]
        assert list(repeat(b"0")) == []

    def case_both_streams_in_step(self):
        """Each message is only sent when the answer to the one before has come: nothing is held back."""
        turn = threading.Semaphore(1)

        def messages():
            for number in range(100):
                assert turn.acquire(timeout=10), "an answer was held back"
                yield b"%d" % number

        answers = []
        for answer in self.channel.stream_stream("/%s/Talk" % SERVICE)(messages(), timeout=60):
            answers.append(answer)
            turn.release()
        assert answers == [b"re: %d" % number for number in range(100)], answers[:3]

    def case_a_conversation_may_be_quiet(self):
        """Both sides are silent for longer than the gateway's `readTimeout`."""

        def messages():
            for word in (b"one", b"two"):
                yield word
                time.sleep(4)

        answers = list(self.channel.stream_stream("/%s/Talk" % SERVICE)(messages(), timeout=60))
        assert answers == [b"re: one", b"re: two"], answers

    def case_all_codes_without_a_message(self):
        for code in grpc.StatusCode:
            if code is grpc.StatusCode.OK:
                continue
            try:
                self.unary("Fail")(b"%d" % code.value[0])
                raise AssertionError("no error for %s" % code)
            except grpc.RpcError as error:
                assert error.code() is code, (error.code(), code)
                assert error.details() == "caf\u00e9 100% \u2713", error.details()
                assert dict(error.trailing_metadata())["x-why"] == "asked"

    def case_an_error_after_messages(self):
        got = []
        try:
            for message in self.channel.unary_stream("/%s/FailLate" % SERVICE)(b""):
                got.append(message)
            raise AssertionError("no error")
        except grpc.RpcError as error:
            assert (error.code(), error.details()) == (grpc.StatusCode.DATA_LOSS, "after two"), error
        assert got == [b"one", b"two"], got

    def case_unknown_method(self):
        try:
            self.unary("Nothing")(b"")
            raise AssertionError("no error")
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.UNIMPLEMENTED, error

    def case_deadline(self):
        """The server is told the time that is left, and that the client has given up."""
        call = self.unary("Wait").future(b"", timeout=1)
        try:
            call.result()
            raise AssertionError("no error")
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED, error
        left = float(dict(call.initial_metadata() or []).get("x-left", "0.5"))
        assert 0 < left <= 1.1, left
        assert self.unary("Begun")(b"") == b"yes"
        assert self.unary("Ended")(b"") == b"yes"

    def case_cancellation_before_and_within_the_answer(self):
        waiting = self.unary("Wait").future(b"")
        assert self.unary("Begun")(b"") == b"yes"
        waiting.cancel()
        assert self.unary("Ended")(b"") == b"yes"
        stream = self.channel.unary_stream("/%s/Endless" % SERVICE)(b"")
        assert next(stream) == b"first"
        stream.cancel()
        assert self.unary("Ended")(b"") == b"yes"

    def case_large_messages_both_ways(self):
        message = bytes(range(256)) * (LARGE // 256)
        assert self.unary("Echo")(message) == message
        count = self.channel.stream_unary("/%s/Count" % SERVICE)
        assert count(iter([message] * 4)) == b"4 %d" % (4 * LARGE)

    def case_compressed(self):
        message = b"a" * 100_000
        assert self.unary("Echo")(message, compression=grpc.Compression.Gzip) == message

    def case_many_at_once(self):
        calls = [self.unary("Echo").future(b"%d" % number) for number in range(400)]
        assert [call.result() for call in calls] == [b"%d" % number for number in range(400)]

    def web(self, text):
        """One call as a browser makes it (gRPC-Web): its trailers stand in the body."""
        host, port = self.address.rsplit(":", 1)
        if self.ca:
            context = ssl.create_default_context(cafile=self.ca)
            context.check_hostname = False
            connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=20)
        else:
            connection = http.client.HTTPConnection(host, int(port), timeout=20)
        kind = "application/grpc-web-text" if text else "application/grpc-web+proto"

        def call(method, message):
            body = b"\0" + struct.pack(">I", len(message)) + message
            headers = {"Host": "web.test", "Content-Type": kind, "X-Grpc-Web": "1", "Origin": "https://page.test"}
            path = "/%s/%s" % (SERVICE, method)
            connection.request("POST", path, base64.b64encode(body) if text else body, headers)
            answer = connection.getresponse()
            got = answer.read()
            assert answer.status == 200, answer.status
            assert answer.getheader("Content-Type", "").startswith(kind.split("+")[0]), answer.getheaders()
            assert answer.getheader("Access-Control-Allow-Origin") == "https://page.test", answer.getheaders()
            return answer, frames(decoded(got) if text else got)

        answer, got = call("Echo", b"hello")
        assert got[0] == (0, b"hello"), got
        assert got[-1][0] == 0x80 and b"grpc-status: 0" in got[-1][1].lower().replace(b":0", b": 0"), got
        answer, got = call("Repeat", b"20")
        assert [message for flag, message in got if flag == 0] == [b"%d" % number for number in range(20)], got
        # An error before anything else is one block of headers (Trailers-Only), and stays that: no body.
        for method, message, status in (("Fail", b"5", "5"), ("Nothing", b"", "12")):
            answer, got = call(method, message)
            assert got == [], got
            assert answer.getheader("Grpc-Status") == status, answer.getheaders()
            assert answer.getheader("Grpc-Message"), answer.getheaders()
            exposed = answer.getheader("Access-Control-Expose-Headers").lower().split(", ")
            assert exposed.count("grpc-status") == exposed.count("grpc-message") == 1, exposed
        assert unquote(call("Fail", b"5")[0].getheader("Grpc-Message")) == "caf\u00e9 100% \u2713"
        # After a message it comes as trailers, and then stands in the body.
        answer, got = call("FailLate", b"")
        assert [message for flag, message in got if flag == 0] == [b"one", b"two"], got
        assert answer.getheader("Grpc-Status") is None and b"grpc-status: 15" in got[-1][1], got

    def case_grpc_web(self):
        self.web(False)

    def case_grpc_web_text(self):
        self.web(True)


def decoded(text):
    """Base64 of which each piece may have an end of its own."""
    whole, piece = b"", b""
    for start in range(0, len(text), 4):
        piece += text[start : start + 4]
        if piece.endswith(b"="):
            whole, piece = whole + base64.b64decode(piece), b""
    return whole + base64.b64decode(piece)


def frames(body):
    got = []
    while body:
        flag, length = struct.unpack(">BI", body[:5])
        got.append((flag, body[5 : 5 + length]))
        assert len(got[-1][1]) == length, "a message that breaks off"
        body = body[5 + length :]
    return got


def check(address, authority=None):
    client = Client(address, authority)
    bad = 0
    for name in sorted(name for name in dir(client) if name.startswith("case_")):
        started = time.monotonic()
        try:
            getattr(client, name)()
            print("ok  %-50s %6.0f ms" % (name[5:], 1000 * (time.monotonic() - started)), flush=True)
        except Exception as error:
            bad += 1
            print("bad %s: %s: %s" % (name[5:], type(error).__name__, error), flush=True)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    {"serve": serve, "check": check}[sys.argv[1]](*sys.argv[2:])
