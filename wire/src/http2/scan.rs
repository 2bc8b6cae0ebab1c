//! Watches the frames of an HTTP/2 client for unfinished header blocks and floods of useless frames.
//!
//! HTTP libraries bound memory. This bounds time (a header block that never ends) and work (endless reset,
//! ping, settings, priority and empty frames). Frames: RFC 9113 sections 4.1 and 6.10; floods: section 10.5,
//! CVE-2019-9511 to 9518, CVE-2023-44487, CVE-2024-27316.

use std::time::{Duration, Instant};

/// Length of the client's preface.
const PREFACE: usize = 24;
/// Maximum number of CONTINUATION frames per header block: enough for 1 MiB in frames of the smallest maximum
/// size.
const MAX_CONTINUATIONS: u32 = 80;
/// Maximum number of frames that cost work, per interval and connection.
const MAX_COSTLY: u32 = 1500;
/// Maximum number of stream resets by the client, per interval and connection.
const MAX_RESETS: u32 = 500;
/// The interval of the limits.
const INTERVAL: Duration = Duration::from_secs(5);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const END_STREAM: u8 = 1;

/// A limit that a client exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flood {
    /// A header block has too many CONTINUATION frames.
    #[error("too many CONTINUATION frames")]
    Continuations,
    /// Too many streams were reset within an interval.
    #[error("too many streams reset")]
    Resets,
    /// Too many frames without content within an interval.
    #[error("too many control frames")]
    ControlFrames,
}

/// A scan of the bytes from an HTTP/2 client.
#[derive(Debug)]
pub struct FrameScan {
    header: [u8; 9],
    filled: usize,
    /// Bytes left of the current frame, or of the preface.
    remaining: usize,
    in_block: bool,
    blocks: u64,
    /// Bytes of the current or last header block.
    block: usize,
    continuations: u32,
    costly: u32,
    resets: u32,
    since: Option<Instant>,
}

impl Default for FrameScan {
    fn default() -> Self {
        Self {
            header: [0; 9],
            filled: 0,
            remaining: PREFACE,
            in_block: false,
            blocks: 0,
            block: 0,
            continuations: 0,
            costly: 0,
            resets: 0,
            since: None,
        }
    }
}

impl FrameScan {
    /// Scans the next bytes, which arrived at `now`.
    ///
    /// # Errors
    /// [`Flood`] if a limit was exceeded: the connection should be closed.
    pub fn feed(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), Flood> {
        while !bytes.is_empty() {
            if self.remaining > 0 {
                let skip = self.remaining.min(bytes.len());
                self.remaining -= skip;
                bytes = &bytes[skip..];
                continue;
            }
            let take = (9 - self.filled).min(bytes.len());
            self.header[self.filled..self.filled + take].copy_from_slice(&bytes[..take]);
            self.filled += take;
            bytes = &bytes[take..];
            if self.filled == 9 {
                self.filled = 0;
                self.frame(now)?;
            }
        }
        Ok(())
    }

    /// Returns true between the first and the last frame of a header block.
    pub fn in_header_block(&self) -> bool {
        self.in_block
    }

    /// Returns the number of complete header blocks.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Returns the declared length of the current or last header block, in bytes.
    pub fn block_bytes(&self) -> usize {
        self.block
    }

    /// Returns true within the preface or a frame.
    pub fn in_frame(&self) -> bool {
        self.remaining > 0 || self.filled > 0
    }

    fn frame(&mut self, now: Instant) -> Result<(), Flood> {
        let length = u32::from_be_bytes([0, self.header[0], self.header[1], self.header[2]]) as usize;
        let (kind, flags) = (self.header[3], self.header[4]);
        self.remaining = length;
        match kind {
            HEADERS => {
                self.in_block = flags & END_HEADERS == 0;
                self.blocks += u64::from(!self.in_block);
                self.continuations = 0;
                self.block = length;
            }
            CONTINUATION => {
                self.block = self.block.saturating_add(length);
                self.continuations += 1;
                if self.in_block && flags & END_HEADERS != 0 {
                    self.in_block = false;
                    self.blocks += 1;
                }
                if self.continuations > MAX_CONTINUATIONS {
                    return Err(Flood::Continuations);
                }
            }
            RST_STREAM => return self.count(now, true),
            SETTINGS | PING | PRIORITY => return self.count(now, false),
            DATA if length == 0 && flags & END_STREAM == 0 => return self.count(now, false),
            _ => {}
        }
        Ok(())
    }

    fn count(&mut self, now: Instant, reset: bool) -> Result<(), Flood> {
        if self.since.is_none_or(|since| now.duration_since(since) > INTERVAL) {
            self.since = Some(now);
            (self.costly, self.resets) = (0, 0);
        }
        self.costly += 1;
        self.resets += u32::from(reset);
        if self.resets > MAX_RESETS {
            return Err(Flood::Resets);
        }
        if self.costly > MAX_COSTLY { Err(Flood::ControlFrames) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![0, (length >> 8) as u8, length as u8, kind, flags, 0, 0, 0, 1];
        bytes.resize(9 + length, 0);
        bytes
    }

    fn started() -> FrameScan {
        let mut scan = FrameScan::default();
        scan.feed(&[0; PREFACE], Instant::now()).unwrap();
        scan
    }

    #[test]
    fn header_blocks_open_and_close() {
        let (mut scan, now) = (started(), Instant::now());
        scan.feed(&frame(HEADERS, 0, 3), now).unwrap();
        assert!(scan.in_header_block() && !scan.in_frame());
        scan.feed(&frame(CONTINUATION, 0, 300)[..20], now).unwrap();
        assert!(scan.in_header_block() && scan.in_frame());
        scan.feed(&[0; 289], now).unwrap();
        scan.feed(&frame(CONTINUATION, END_HEADERS, 0), now).unwrap();
        assert!(!scan.in_header_block() && !scan.in_frame());
    }

    #[test]
    fn floods_are_detected_and_old_ones_forgotten() {
        for (kind, limit) in [(RST_STREAM, MAX_RESETS), (PING, MAX_COSTLY), (DATA, MAX_COSTLY)] {
            let (mut scan, now) = (started(), Instant::now());
            for _ in 0..limit {
                scan.feed(&frame(kind, 0, 0), now).unwrap();
            }
            let mut patient = FrameScan { header: scan.header, ..started() };
            patient.costly = scan.costly;
            patient.since = scan.since;
            let flood = if kind == RST_STREAM { Flood::Resets } else { Flood::ControlFrames };
            assert_eq!(scan.feed(&frame(kind, 0, 0), now), Err(flood), "{kind}");
            assert!(patient.feed(&frame(kind, 0, 0), now + INTERVAL * 2).is_ok(), "{kind}");
        }
        let mut scan = started();
        scan.feed(&frame(HEADERS, 0, 0), Instant::now()).unwrap();
        let flood = frame(CONTINUATION, 0, 0).repeat(MAX_CONTINUATIONS as usize + 1);
        assert_eq!(scan.feed(&flood, Instant::now()), Err(Flood::Continuations));
    }

    proptest! {
        #[test]
        fn splitting_the_input_makes_no_difference(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..300) {
            let now = Instant::now();
            let (mut whole, mut pieces) = (FrameScan::default(), FrameScan::default());
            let cut = cut.min(bytes.len());
            let first = whole.feed(&bytes, now);
            let second = pieces.feed(&bytes[..cut], now).and_then(|()| pieces.feed(&bytes[cut..], now));
            prop_assert_eq!(first, second);
            prop_assert_eq!(whole.in_header_block(), pieces.in_header_block());
        }
    }
}
