//! The form of a file: blocks of the body, each with its checksum, then the head, then a footer of fixed size.
//!
//! Because the footer comes last, a truncated file is detected, and a body can be written before its length is known.
//! The checksums contain a number that is chosen for each file, and the place of the block: blocks of another file, or
//! in another order, are not accepted.

use std::fs::File;
use std::io::{self, IoSliceMut, Write};
use std::os::unix::fs::FileExt;

use bytes::{Bytes, BytesMut};
use rustix::io::{ReadWriteFlags, preadv2};

use super::record;
use crate::head::Head;
use crate::key::Key;

/// Bytes of the body in a block; the last one has fewer.
pub(super) const BLOCK: usize = 64 * 1024;
/// The largest head that is read.
const MAX_HEAD: u64 = 1 << 20;
const MAGIC: [u8; 8] = *b"TGCACHE1";
const FOOTER: usize = 36;
const CHECKSUM: usize = 4;
/// In the place of a block's number, for the head.
const HEAD: u64 = u64::MAX;

fn checksum(nonce: u64, place: u64, data: &[u8]) -> [u8; CHECKSUM] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&nonce.to_le_bytes());
    hasher.update(&place.to_le_bytes());
    hasher.update(data);
    hasher.finalize().to_le_bytes()
}

/// Appends a block of the body. All but the last have [`BLOCK`] bytes.
pub(super) fn write_block(file: &mut File, nonce: u64, number: u64, data: &[u8]) -> io::Result<()> {
    let mut block = Vec::with_capacity(data.len() + CHECKSUM);
    block.extend_from_slice(data);
    block.extend_from_slice(&checksum(nonce, number, data));
    file.write_all(&block)
}

/// Appends head and footer. `length`: bytes of the body.
pub(super) fn write_end(file: &mut File, nonce: u64, length: u64, key: &Key, head: &Head) -> io::Result<u64> {
    let mut end = record::encode(key, head);
    let size = u32::try_from(end.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let sum = checksum(nonce, HEAD, &end);
    let start = end.len();
    end.extend_from_slice(&nonce.to_le_bytes());
    end.extend_from_slice(&length.to_le_bytes());
    end.extend_from_slice(&size.to_le_bytes());
    end.extend_from_slice(&sum);
    let footer = checksum(0, 0, &end[start..]);
    end.extend_from_slice(&footer);
    end.extend_from_slice(&MAGIC);
    file.write_all(&end)?;
    Ok(end.len() as u64)
}

/// Bytes that a body takes in a file.
pub(super) fn body_size(length: u64) -> u64 {
    length + length.div_ceil(BLOCK as u64) * CHECKSUM as u64
}

/// What is at the end of a file.
pub(super) struct End {
    pub(super) nonce: u64,
    /// Bytes of the body.
    pub(super) length: u64,
    /// Bytes of head and footer.
    pub(super) size: u64,
    pub(super) key: Key,
    pub(super) head: Head,
}

/// Reads the end of a file. `Ok(None)` if it is not valid.
pub(super) fn read_end(file: &File) -> io::Result<Option<End>> {
    let total = file.metadata()?.len();
    let Some(start) = total.checked_sub(FOOTER as u64) else { return Ok(None) };
    let mut footer = [0; FOOTER];
    file.read_exact_at(&mut footer, start)?;
    let Some((nonce, length, size, sum)) = parse_footer(&footer) else { return Ok(None) };
    let Some(head_start) = start.checked_sub(size).filter(|_| size <= MAX_HEAD) else { return Ok(None) };
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    file.read_exact_at(&mut bytes, head_start)?;
    if checksum(nonce, HEAD, &bytes) != sum {
        return Ok(None);
    }
    let Some((key, head)) = record::decode(&bytes) else { return Ok(None) };
    Ok(Some(End { nonce, length, size: size + FOOTER as u64, key, head }))
}

fn parse_footer(footer: &[u8; FOOTER]) -> Option<(u64, u64, u64, [u8; CHECKSUM])> {
    let (fields, rest) = footer.split_at(FOOTER - MAGIC.len() - CHECKSUM);
    let (sum, magic) = rest.split_at(CHECKSUM);
    if magic != MAGIC || sum != checksum(0, 0, fields) {
        return None;
    }
    let number = |at: usize| fields.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
    let size = fields.get(16..20)?.try_into().ok().map(u32::from_le_bytes)?;
    Some((number(0)?, number(8)?, u64::from(size), fields.get(20..24)?.try_into().ok()?))
}

/// Reads a block of the body. `Ok(None)` if its checksum is wrong.
pub(super) fn read_block(file: &File, nonce: u64, length: u64, number: u64) -> io::Result<Option<Bytes>> {
    let mut block = buffer(length, number);
    file.read_exact_at(&mut block, offset(number))?;
    Ok(checked(nonce, number, block))
}

/// The same, if the system has all of it in memory. `None` also if its checksum is wrong, or if the file system cannot
/// tell whether it has to wait.
pub(super) fn block_in_memory(file: &File, nonce: u64, length: u64, number: u64) -> Option<Bytes> {
    let mut block = buffer(length, number);
    let size = block.len();
    let read = preadv2(file, &mut [IoSliceMut::new(&mut block)], offset(number), ReadWriteFlags::NOWAIT);
    if read != Ok(size) {
        return None;
    }
    checked(nonce, number, block)
}

fn buffer(length: u64, number: u64) -> BytesMut {
    let rest = length.saturating_sub(number * BLOCK as u64);
    BytesMut::zeroed(usize::try_from(rest).unwrap_or(BLOCK).min(BLOCK) + CHECKSUM)
}

fn offset(number: u64) -> u64 {
    number * (BLOCK + CHECKSUM) as u64
}

fn checked(nonce: u64, number: u64, mut block: BytesMut) -> Option<Bytes> {
    let sum = block.split_off(block.len() - CHECKSUM);
    (sum[..] == checksum(nonce, number, &block)).then(|| block.freeze())
}
