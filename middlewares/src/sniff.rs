//! Guesses a content type from the first bytes, like the WHATWG MIME Sniffing standard and Go.

/// Maximum number of bytes to inspect.
pub(crate) const SNIFF_LEN: usize = 512;

const TEXT: &str = "text/plain; charset=utf-8";

/// Tags that identify HTML, in upper case.
const TAGS: [&str; 17] = [
    "<!DOCTYPE HTML",
    "<HTML",
    "<HEAD",
    "<SCRIPT",
    "<IFRAME",
    "<H1",
    "<DIV",
    "<FONT",
    "<TABLE",
    "<A",
    "<STYLE",
    "<TITLE",
    "<B",
    "<BODY",
    "<BR",
    "<P",
    "<!--",
];

/// Signatures of content types.
const MAGIC: [(&[u8], &str); 15] = [
    (b"%PDF-", "application/pdf"),
    (b"%!PS-Adobe-", "application/postscript"),
    (b"\xef\xbb\xbf", TEXT),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"BM", "image/bmp"),
    (b"\x00\x00\x01\x00", "image/vnd.microsoft.icon"),
    (b"OggS\x00", "application/ogg"),
    (b"\x1a\x45\xdf\xa3", "video/webm"),
    (b"Rar \x1a\x07\x00", "application/x-rar-compressed"),
    (b"Rar!\x1a\x07\x00", "application/x-rar-compressed"),
    (b"PK\x03\x04", "application/zip"),
    (b"\x1f\x8b\x08", "application/x-gzip"),
];

/// Returns the type of content that starts with these bytes; `application/octet-stream` if it is unknown.
pub(crate) fn content_type(data: &[u8]) -> &'static str {
    let data = &data[..data.len().min(SNIFF_LEN)];
    let text = data.trim_ascii_start();
    if is_html(text) {
        return "text/html; charset=utf-8";
    }
    if text.starts_with(b"<?xml") {
        return "text/xml; charset=utf-8";
    }
    match data {
        [0xfe, 0xff, _, _, ..] => return "text/plain; charset=utf-16be",
        [0xff, 0xfe, _, _, ..] => return "text/plain; charset=utf-16le",
        _ => {}
    }
    if let Some((_, kind)) = MAGIC.iter().find(|(magic, _)| data.starts_with(magic)) {
        return kind;
    }
    if data.starts_with(b"RIFF") && data.len() >= 12 {
        match &data[8..] {
            [b'W', b'E', b'B', b'P', b'V', b'P', ..] => return "image/webp",
            [b'W', b'A', b'V', b'E', ..] => return "audio/wave",
            _ => {}
        }
    }
    if is_mp4(data) {
        return "video/mp4";
    }
    let is_binary = |byte: &u8| matches!(byte, 0..=0x08 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f);
    if text.iter().any(is_binary) { "application/octet-stream" } else { TEXT }
}

fn is_html(text: &[u8]) -> bool {
    TAGS.iter().any(|tag| {
        let head = text.get(..tag.len()).is_some_and(|head| head.eq_ignore_ascii_case(tag.as_bytes()));
        head && matches!(text.get(tag.len()), Some(b' ' | b'>'))
    })
}

/// Returns true for an ISO media file with an mp4 brand.
fn is_mp4(data: &[u8]) -> bool {
    let [a, b, c, d, b'f', b't', b'y', b'p', rest @ ..] = data else { return false };
    let size = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
    if !size.is_multiple_of(4) || size < 12 || data.len() < size {
        return false;
    }
    // Four-byte brands; the second position is a version number.
    rest[..size - 8].chunks(4).enumerate().any(|(i, brand)| i != 1 && brand.starts_with(b"mp4"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_signatures_are_recognised() {
        for (data, kind) in [
            (&b""[..], TEXT),
            (b"hello hello", TEXT),
            (b"{\"a\": 1}", TEXT),
            (b"\n <!doctype html><p>", "text/html; charset=utf-8"),
            (b"<htmlx>", TEXT),
            (b" <?xml version", "text/xml; charset=utf-8"),
            (b"%PDF-1.4", "application/pdf"),
            (b"\x89PNG\r\n\x1a\n\x00", "image/png"),
            (b"RIFF\x01\x02\x03\x04WEBPVP8 ", "image/webp"),
            (b"RIFF\x01\x02\x03\x04WAVEfmt", "audio/wave"),
            (b"\x00\x00\x00\x14ftypisom\x00\x00\x02\x00mp41", "video/mp4"),
            (b"\xff\xfea\x00", "text/plain; charset=utf-16le"),
            (b"\xef\xbb\xbfabc", TEXT),
            (b"\x00\x01\x02", "application/octet-stream"),
            (b"\x1f\x8b\x08\x00", "application/x-gzip"),
        ] {
            assert_eq!(content_type(data), kind, "{data:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(data in proptest::collection::vec(any::<u8>(), 0..64), size in any::<[u8; 4]>()) {
            content_type(&data);
            content_type(&[&size[..], b"ftyp", &data].concat());
        }
    }
}
