"""A service that trusts only the gateway's signed identity: PyJWT verifies it with the keys of the JWKS endpoint.

    identity_service.py FILE-WITH-THE-ADDRESS-OF-THE-KEYS ISSUER AUDIENCE

Prints its port. Answers with the claims as JSON, or with 401 and the reason."""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt

place, issuer, audience = sys.argv[1:]
clients = {}


def verified(token):
    with open(place) as file:
        address = file.read().strip()
    # It keeps the keys and asks again when a token has another one.
    client = clients.setdefault(address, jwt.PyJWKClient(address))
    key = client.get_signing_key_from_jwt(token)
    required = {"require": ["exp", "iat", "iss", "aud", "sub"]}
    return jwt.decode(token, key, algorithms=["ES256"], issuer=issuer, audience=audience, options=required)


class Service(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        tokens = self.headers.get_all("X-Identity-Token", [])
        try:
            if len(tokens) != 1:
                raise ValueError(f"{len(tokens)} tokens")
            status, answer = 200, verified(tokens[0])
        except Exception as error:
            status, answer = 401, f"{type(error).__name__}: {error}"
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
print(server.server_port, flush=True)
server.serve_forever()
