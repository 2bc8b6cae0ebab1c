#!/usr/bin/env bash
# Fills fuzz/corpus with seeds: the examples of the documentation and the route files of the repository.
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p fuzz/corpus/{rule,labels,route_file,preface,http1_server,http1_client,http1_body,http3,stream,template,settings}
python3 - <<'PYTHON'
import pathlib, re, hashlib

root = pathlib.Path(".")

def seed(target, text):
    data = text if isinstance(text, bytes) else text.encode()
    (root / "fuzz/corpus" / target / hashlib.sha1(data).hexdigest()[:16]).write_bytes(data)

sources = [path for folder in ("src", "wire", "cache", "config", "core", "middlewares", "clients", "acme", "providers", "docs", "tests", "examples")
           for path in (root / folder).rglob("*") if path.suffix in (".rs", ".md", ".yml", ".yaml", ".toml")]
texts = [path.read_text(errors="replace") for path in sources] + [(root / "README.md").read_text()]

matcher = re.compile(r"!?\(?\b(?:Host|HostRegexp|Path|PathPrefix|PathRegexp|Method|Header|HeaderRegexp|Query|QueryRegexp|ClientIP)"
                     r"\([`\"][^\n]*?[`\"]\)(?: ?(?:&&|\|\|) ?[^\n\"]{1,80}\))?")
stream_matcher = re.compile(r"!?\(?\b(?:HostSNI|HostSNIRegexp|ClientIP|ALPN)\([`\"][^\n]*?[`\"]\)(?: ?(?:&&|\|\|) ?[^\n\"]{1,80}\))?")
name = b"a.test"
names = b"\0" + len(name).to_bytes(2, "big") + name
sni = b"\0\0" + (len(names) + 2).to_bytes(2, "big") + len(names).to_bytes(2, "big") + names
extensions = sni + b"\0\x10\0\5\0\3\2h2"
body = b"\3\3" + bytes(32) + b"\0\0\2\x13\1\1\0" + len(extensions).to_bytes(2, "big") + extensions
message = b"\1" + len(body).to_bytes(3, "big") + body
record = lambda part: b"\x16\3\1" + len(part).to_bytes(2, "big") + part
hellos = [record(message), b"".join(record(message[at:at + 9]) for at in range(0, len(message), 9)), record(message)[:40], b"\0\0\0\x08"]
for text in texts:
    for rule in set(stream_matcher.findall(text)):
        seed("stream", rule.encode() + b"\0" + hellos[len(rule) % len(hellos)])
    for rule in set(matcher.findall(text)):
        seed("rule", f"{rule}\na.test\n/api/x?a=1\n1")
    for block in re.findall(r"```(ya?ml|toml)\n(.*?)```", text, re.S):
        seed("route_file", ("#toml\n" if block[0] == "toml" else "") + block[1])
    for yaml in re.findall(r"\"(\{(?:http|tcp|udp|tls)[^\n]*\})\"", text):
        seed("route_file", yaml.replace('\\"', '"'))
    labels = sorted(set(re.findall(r"(?:traefik|tidegate)\.(?:http|tcp|udp|tls|docker|enable)[\w.\[\]=`()/:,@-]*", text)))
    for at in range(0, len(labels), 8):
        seed("labels", "\n".join(label if "=" in label else f"{label}=1" for label in labels[at:at + 8]))
    for template in re.findall(r"\{\{[^\n]{1,100}?\}\}", text):
        seed("template", template)
    for option in set(re.findall(r"--[a-z][\w.]+(?:=[\w:./,-]+)?", text)):
        seed("settings", option)
for path in (path for path in sources if path.suffix != ".rs"):
    if path.suffix in (".yml", ".yaml", ".toml"):
        seed("route_file", ("#toml\n" if path.suffix == ".toml" else "") + path.read_text())

http = [
    "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
    "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n3;a=b\r\nabc\r\n0\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x05hello",
    "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", "GET / HTTP/1.0\r\n\r\n", "GET /\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\n folded\r\nX : y\r\n\r\n",
]
responses = [
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.0 200 OK\nServer: x\n\nok", "HTTP/1.1 204\r\n\r\n",
    "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2 \r\nok\r\n0\r\nX: y\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nraw",
]
bodies = [
    "3\r\nabc\r\n0\r\n\r\n", "3;a=b\r\nabc\r\n00\r\n\r\nGET", "3  \r\nabc\r\n0\r\nX: y\r\nContent-Length: 1\r\n\r\n", "fffffffffffffff\r\nabc",
]
for size in (1, 7, 255):
    for text in http:
        seed("http1_server", bytes([size]) + text.encode("latin-1"))
    for text in responses:
        for asked in (0, 1, 2, 129):
            seed("http1_client", bytes([size, asked]) + text.encode())
    for text in bodies:
        seed("http1_body", bytes([size]) + text.encode())

v2 = b"\r\n\r\n\0\r\nQUIT\n"
h2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
frame = lambda kind, flags, body: len(body).to_bytes(3, "big") + bytes([kind, flags]) + b"\0\0\0\1" + body
prefaces = [text.encode("latin-1") for text in http] + [
    b"PROXY TCP4 192.0.2.1 198.51.100.2 5000 443\r\n" + http[0].encode(), b"PROXY UNKNOWN\r\n", b"PROXY TCP6 ::1 ::2 1 2\r\n",
    v2 + b"\x21\x11\0\x0c" + bytes(12) + http[1].encode(), v2 + b"\x20\0\0\0", v2 + b"\x21\x21\0\x24" + bytes(36),
    h2 + frame(4, 0, b"") + frame(1, 5, b"\x82\x86\x84") + frame(0, 1, b"abc"),
    h2 + frame(1, 0, b"\x82") + frame(9, 4, b"\x84") + frame(3, 0, bytes(4)) + frame(6, 0, bytes(8)),
]
for data in prefaces:
    for size in (1, 7, 255):
        seed("preface", bytes([size]) + data)

h3 = lambda kind, body: bytes([kind, len(body)]) + body
head = b"\0\0\xd1\xd7\x50\x06a.test\xc1"
streams = [
    h3(1, head), h3(1, head) + h3(0, b"abc") + h3(1, b"\0\0\x23x-t\x01y"), h3(0x21, b"x") + h3(1, head + b"\x54\x013") + h3(0, b"abc"),
    h3(1, b"\0\0\xcf\xd7\x50\x06a.test\xc1\x27\x02:protocol\x09websocket"), h3(1, head + b"\x5f\x1d\x83\xf1\xe3\xc2"),
    h3(4, b"\x06\x43\xe8\x08\x01") + h3(7, b"\0") + h3(13, b"\x05"),
]
for data in streams:
    for size in (1, 5, 255):
        seed("http3", bytes([size]) + data)
PYTHON
