//! The field `Date` of responses, formatted once per second.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

thread_local! {
    static LINE: RefCell<(u64, Vec<u8>)> = const { RefCell::new((0, Vec::new())) };
}

/// Adds the field to a head that ends with its empty line.
pub(super) fn add(head: &mut Vec<u8>) {
    let now = SystemTime::now();
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    LINE.with_borrow_mut(|(second, line)| {
        if *second != seconds || line.is_empty() {
            *second = seconds;
            line.clear();
            line.extend_from_slice(b"date: ");
            line.extend_from_slice(httpdate::fmt_http_date(now).as_bytes());
            line.extend_from_slice(b"\r\n\r\n");
        }
        head.truncate(head.len().saturating_sub(2));
        head.extend_from_slice(line);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_comes_before_the_empty_line() {
        let mut head = b"HTTP/1.1 200 OK\r\nx: y\r\n\r\n".to_vec();
        add(&mut head);
        let text = String::from_utf8(head).unwrap();
        let date = text.strip_prefix("HTTP/1.1 200 OK\r\nx: y\r\ndate: ").unwrap();
        assert!(httpdate::parse_http_date(date.strip_suffix("\r\n\r\n").unwrap()).is_ok());
    }
}
