"""What h11 makes of connections: one per line in hexadecimal digits, and for each a line of JSON with the complete
requests, how the bytes end, and why they are refused."""

import json
import sys

import h11


def verdict(received):
    connection = h11.Connection(h11.SERVER)
    messages, head, body = [], None, b""

    def ends(how, why=""):
        return {"messages": messages, "end": how, "why": why}

    try:
        connection.receive_data(received)
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                idle = connection.their_state is h11.IDLE and not connection._receive_buffer
                return ends("complete" if idle else "partial")
            # No bytes at all are the end of a connection.
            if event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                return ends("closed" if messages else "complete")
            if isinstance(event, h11.Request):
                head, body = event, b""
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                messages.append([head.method.decode(), head.target.decode("latin-1"), body.hex()])
                status = 501 if head.method == b"CONNECT" else 200
                length = [] if head.method == b"HEAD" else [("content-length", "0")]
                connection.send(h11.Response(status_code=status, headers=length))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE:
                    return ends("closed")
                connection.start_next_cycle()
    except h11.RemoteProtocolError as error:
        return ends("refused", str(error))


for line in sys.stdin:
    print(json.dumps(verdict(bytes.fromhex(line))))
