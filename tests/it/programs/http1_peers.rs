//! The same bytes to the codec of HTTP/1, to llhttp (Node) and to h11 (Python): where they differ, a rule says why.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::Deserialize;
use tidegate_wire::http1::ErrorKind;

use corpus::{End, Random, Verdict, connection, is_refused_later, verdict};

#[path = "../../../wire/tests/http1/corpus.rs"]
#[expect(dead_code, reason = "the tests of the codec use the rest")]
mod corpus;

/// Number of connections.
const COUNT: u64 = 20_000;

/// What another parser makes of a connection.
#[derive(Debug, Deserialize)]
struct Other {
    /// Method, target and body in hexadecimal digits.
    messages: Vec<(String, String, String)>,
    end: String,
    why: String,
}

/// Asks a program that answers each line with a line.
fn ask(command: &mut Command, connections: &[Vec<u8>]) -> Vec<Other> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let lines: String = connections.iter().map(|bytes| hex(bytes) + "\n").collect();
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let answers: Vec<Other> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(answers.len(), connections.len());
    answers
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Why this codec refuses what another parser accepts, by the violation.
fn why_refused(kind: ErrorKind) -> Option<&'static str> {
    use ErrorKind::*;
    Some(match kind {
        LineEnd => "a line ends with CR LF, which stand nowhere else",
        RequestLine => "one space, and only one, is between the parts of a request line",
        NoHost => "HTTP/1.1 requires Host",
        RepeatedHost => "two hosts can be routed in two ways",
        Host => "a host has the form of RFC 3986",
        ContentLength => "a length has no zeros before it, and is not repeated",
        TransferEncoding => "the only coding is chunked",
        OldTransferEncoding => "HTTP/1.0 has no transfer codings",
        TwoLengths => "a message has one length",
        ChunkSize => "a chunk size ends with CR LF, without spaces before it",
        Extension => "a chunk extension has no control characters",
        FieldValue => "a value has no control characters",
        Folded => "a field is one line",
        Trailer => "trailers have the line ends and the names of fields",
        Version => "there is HTTP/1.0 and HTTP/1.1",
        Fragment => "a target has no fragment",
        Target => "a target has a form of RFC 9112 that suits its method, and valid escapes",
        _ => return None,
    })
}

/// Why this codec accepts what another parser refuses, by what that one says.
fn why_accepted(why: &str) -> Option<&'static str> {
    let rules = [
        ("HPE_INVALID_METHOD", "a method is any token"),
        ("HPE_INVALID_TRANSFER_ENCODING", "white space around a value does not belong to it"),
        ("HPE_STRICT", "chunk extensions are dropped, with any printable characters"),
        ("Missing mandatory Host: header", "CONNECT needs no Host, as in Go"),
        ("no request line received", "a few empty lines before a request are ignored"),
    ];
    rules.iter().find(|(begin, _)| why.starts_with(begin)).map(|(_, rule)| *rule)
}

/// Returns the rule by which two verdicts differ; `None` if they are the same.
fn difference(bytes: &[u8], ours: &Verdict, theirs: &Other) -> Option<Result<&'static str, String>> {
    let messages: Vec<_> =
        ours.messages.iter().map(|message| (message.method.clone(), hex(&message.body))).collect();
    let others: Vec<_> =
        theirs.messages.iter().map(|(method, _, body)| (method.clone(), body.clone())).collect();
    let common = messages.len().min(others.len());
    let (more, less) = (messages.len() > others.len(), messages.len() < others.len());
    let rule = match (&ours.end, theirs.end.as_str()) {
        (_, "closed" | "complete") if is_connect(theirs) => Some("CONNECT has a body if its fields say so"),
        _ if messages[..common] != others[..common] => None,
        (End::Refused(_), "refused") | (End::Complete, "complete") | (End::Partial, "partial")
            if !more && !less =>
        {
            return None;
        }
        (End::Closed, "closed") if !more && !less => return None,
        (End::Closed, _) if !more => closed(ours),
        (_, "closed") if !less && has(bytes, "HTTP/1.0") => {
            Some("HTTP/1.0 persists if the client wants it to")
        }
        (End::Refused(_), "partial") if !more && !less => Some("a line is refused as soon as it is complete"),
        (End::Partial, "complete") if !more && !less && bytes.ends_with(b"\r") => {
            Some("a carriage return may begin an empty line")
        }
        (End::Partial, "refused") if !more && !less && is_refused_later(bytes) => {
            Some("incomplete lines are not refused before their end")
        }
        (End::Refused(Some(kind)), _) if !more => why_refused(*kind),
        (_, "refused") if !less => why_accepted(&theirs.why),
        _ => None,
    };
    let unexplained = || format!("{}\n  ours {ours:?}\n  theirs {theirs:?}", bytes.escape_ascii());
    Some(rule.ok_or_else(unexplained))
}

/// Why this codec closes a connection where another parser reads on.
fn closed(ours: &Verdict) -> Option<&'static str> {
    let last = ours.messages.last()?;
    let has = |name: &str| last.fields.iter().any(|(field, _)| field == name);
    if last.method == "CONNECT" || has("upgrade") {
        return Some("what follows CONNECT or Upgrade may be another protocol");
    }
    has("connection").then_some("close wins over keep-alive")
}

fn has(bytes: &[u8], part: &str) -> bool {
    bytes.windows(part.len()).any(|window| window == part.as_bytes())
}

/// Returns true if the last request is for a tunnel.
fn is_connect(theirs: &Other) -> bool {
    theirs.messages.last().is_some_and(|(method, ..)| method == "CONNECT")
}

/// Compares with a parser.
fn compare(command: &mut Command) {
    let connections: Vec<_> = (0..COUNT).map(|seed| connection(&mut Random::new(seed))).collect();
    let mut by_rule = BTreeMap::new();
    let mut unexplained = Vec::new();
    for (bytes, theirs) in connections.iter().zip(ask(command, &connections)) {
        match difference(bytes, &verdict(bytes, &[usize::MAX]), &theirs) {
            None => *by_rule.entry("same").or_insert(0) += 1,
            Some(Ok(rule)) => *by_rule.entry(rule).or_insert(0) += 1,
            Some(Err(shown)) => unexplained.push(shown),
        }
    }
    let shown: Vec<_> = unexplained.iter().take(20).map(String::as_str).collect();
    assert!(
        shown.is_empty(),
        "{} differences without a rule, such as:\n{}",
        unexplained.len(),
        shown.join("\n")
    );
    // Otherwise the connections would show nothing.
    assert!(by_rule["same"] > COUNT as usize / 2 && by_rule.len() > 10, "{by_rule:#?}");
}

fn script(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/programs").join(name)
}

#[test]
#[ignore = "needs Node"]
fn llhttp_differs_by_rules_only() {
    let node = crate::support::outside::program("node");
    compare(Command::new(node).arg("--no-deprecation").arg(script("http1_llhttp.cjs")));
}

#[test]
#[ignore = "needs h11"]
fn h11_differs_by_rules_only() {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/h11/bin/python");
    compare(Command::new(python).arg(script("http1_h11.py")));
}
