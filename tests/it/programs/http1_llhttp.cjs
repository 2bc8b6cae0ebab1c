// What llhttp, the parser of Node, makes of connections: one per line in hexadecimal digits, and for each a line of
// JSON with the complete requests, how the bytes end, and why they are refused.
'use strict';
const { HTTPParser, allMethods } = process.binding('http_parser');

function verdict(bytes) {
  const parser = new HTTPParser();
  parser.initialize(HTTPParser.REQUEST, {});
  const messages = [];
  let current = null;
  let closes = false;
  parser[HTTPParser.kOnHeaders] = () => {};
  parser[HTTPParser.kOnHeadersComplete] = (_major, _minor, _fields, method, target, _status, _text, _upgrade, persists) => {
    current = { method: allMethods[method], target: target ?? '', body: [] };
    closes = !persists;
    return 0;
  };
  parser[HTTPParser.kOnBody] = (data) => {
    current.body.push(Buffer.from(data));
  };
  parser[HTTPParser.kOnMessageComplete] = () => {
    messages.push([current.method, current.target, Buffer.concat(current.body).toString('hex')]);
    current = null;
  };
  const read = parser.execute(bytes, 0, bytes.length);
  if (read instanceof Error) {
    // It refuses bytes after the last request, where a server closes the connection.
    const end = read.code === 'HPE_CLOSED_CONNECTION' ? 'closed' : 'refused';
    return { messages, end, why: read.code };
  }
  // What follows another protocol is not parsed.
  if (read < bytes.length || closes && current === null && messages.length > 0) {
    return { messages, end: 'closed', why: '' };
  }
  const finished = parser.finish();
  return { messages, end: finished instanceof Error ? 'partial' : 'complete', why: '' };
}

require('readline').createInterface({ input: process.stdin }).on('line', (line) => {
  process.stdout.write(JSON.stringify(verdict(Buffer.from(line, 'hex'))) + '\n');
});
