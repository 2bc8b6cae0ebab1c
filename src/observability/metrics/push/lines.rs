//! Lines, gathered into packets.

/// Maximum length of a packet: what fits an Ethernet frame.
const PACKET: usize = 1432;

/// Lines in packets. A line is never split.
#[derive(Default)]
pub(super) struct Packets {
    packets: Vec<Vec<u8>>,
}

impl Packets {
    /// Adds a line, which ends with a line feed. One that is longer than a packet has one of its own.
    pub(super) fn push(&mut self, line: &str) {
        match self.packets.last_mut().filter(|packet| packet.len() + line.len() <= PACKET) {
            Some(packet) => packet.extend_from_slice(line.as_bytes()),
            None => self.packets.push(line.as_bytes().to_vec()),
        }
    }

    /// Returns the packets.
    pub(super) fn finish(self) -> Vec<Vec<u8>> {
        self.packets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_never_split() {
        let mut packets = Packets::default();
        let line = format!("{}\n", "x".repeat(499));
        for _ in 0..3 {
            packets.push(&line);
        }
        packets.push(&"y".repeat(2000));
        let lengths: Vec<usize> = packets.finish().iter().map(Vec::len).collect();
        assert_eq!(lengths, [1000, 500, 2000]);
    }
}
