//! The heap profile of jemalloc, in the format of pprof.
//!
//! jemalloc samples allocations if it starts with `prof:true`, and writes them to a file as text (`heap_v2`).

use std::path::PathBuf;
use std::time::Duration;
use std::{fs, io};

use http::StatusCode;

use super::pprof::{self, Builder};

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeapError {
    #[cfg(not(feature = "jemalloc"))]
    #[error("this program does not use jemalloc")]
    NoAllocator,
    #[cfg(feature = "jemalloc")]
    #[error(
        "heap profiling is off: start the gateway with the environment variable _RJEM_MALLOC_CONF=prof:true"
    )]
    Off,
    #[cfg(feature = "jemalloc")]
    #[error("the allocator wrote no profile: {0}")]
    Dump(String),
    #[error("the profile of the allocator cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("the profile of the allocator has another format than `heap_v2`")]
    Format,
}

impl HeapError {
    /// Returns the status of the response.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            #[cfg(feature = "jemalloc")]
            Self::Dump(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Read(_) | Self::Format => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::NOT_IMPLEMENTED,
        }
    }
}

/// Returns the allocations that are in use. Blocks. There must be one call at a time.
pub(super) fn dump() -> Result<Vec<u8>, HeapError> {
    let file = write()?;
    let text = fs::read_to_string(&file);
    // The file of the next call has the same name.
    let _ = fs::remove_file(&file);
    convert(&text?, &fs::read_to_string("/proc/self/maps")?).ok_or(HeapError::Format)
}

#[cfg(feature = "jemalloc")]
fn write() -> Result<PathBuf, HeapError> {
    use std::os::unix::ffi::OsStrExt;
    use std::sync::OnceLock;

    /// The file, and its path as jemalloc wants it: with a zero at the end, and for ever.
    static PLACE: OnceLock<(PathBuf, &'static [u8])> = OnceLock::new();

    if !tikv_jemalloc_ctl::profiling::prof::read().unwrap_or(false) {
        return Err(HeapError::Off);
    }
    let (file, path) = match PLACE.get() {
        Some(place) => place,
        None => {
            let file = private_folder()?.join("heap");
            let path = [file.as_os_str().as_bytes(), b"\0"].concat();
            PLACE.get_or_init(|| (file, path.leak()))
        }
    };
    let written = tikv_jemalloc_ctl::raw::write_str(b"prof.dump\0", path);
    written.map_err(|error| HeapError::Dump(error.to_string()))?;
    Ok(file.clone())
}

#[cfg(not(feature = "jemalloc"))]
fn write() -> Result<PathBuf, HeapError> {
    Err(HeapError::NoAllocator)
}

/// Creates a folder that only this user can read.
#[cfg(feature = "jemalloc")]
fn private_folder() -> io::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;

    let name = format!("tidegate-{}-{:016x}", std::process::id(), fastrand::u64(..));
    let folder = std::env::temp_dir().join(name);
    fs::DirBuilder::new().mode(0o700).create(&folder)?;
    Ok(folder)
}

/// Converts a profile of jemalloc; `None` if it has another format. `maps` is `/proc/self/maps`.
fn convert(text: &str, maps: &str) -> Option<Vec<u8>> {
    let mut lines = text.lines();
    let rate: u64 = lines.next()?.strip_prefix("heap_v2/")?.parse().ok()?;
    let mut builder = Builder::new(
        &[("inuse_objects", "count"), ("inuse_space", "bytes")],
        (("space", "bytes"), i64::try_from(rate).ok()?),
    );
    builder.map_files(maps);
    let mut stack = Vec::new();
    for line in lines.take_while(|line| !line.starts_with("MAPPED_LIBRARIES")) {
        if let Some(addresses) = line.strip_prefix('@') {
            let addresses = addresses.split_whitespace().filter_map(pprof::hexadecimal);
            stack = addresses.map(|address| builder.return_address(address)).collect();
        } else if let Some(counts) = line.trim_start().strip_prefix("t*:")
            && !stack.is_empty()
        {
            let (objects, bytes) = in_use(counts)?;
            let values = unsampled(objects, bytes, rate);
            builder.sample(std::mem::take(&mut stack), values.into());
        }
    }
    Some(builder.finish(Duration::ZERO))
}

/// Parses `13: 6688 [0: 0]`.
fn in_use(counts: &str) -> Option<(u64, u64)> {
    let (objects, rest) = counts.split_once(':')?;
    let bytes = rest.split_whitespace().next()?;
    Some((objects.trim().parse().ok()?, bytes.parse().ok()?))
}

/// Estimates the numbers of objects and bytes from those that were sampled, once per `rate` bytes on average: an object
/// is sampled with a probability that grows with its size.
fn unsampled(objects: u64, bytes: u64, rate: u64) -> [i64; 2] {
    if objects == 0 || rate == 0 {
        return [0; 2];
    }
    let size = bytes as f64 / objects as f64;
    let scale = 1.0 / (1.0 - (-size / rate as f64).exp());
    [objects, bytes].map(|number| (number as f64 * scale).round() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocations_are_scaled_by_their_probability() {
        // Objects much larger than the interval are all sampled, and of small ones few.
        assert_eq!(unsampled(3, 3 << 30, 512 << 10), [3, 3 << 30]);
        let [objects, bytes] = unsampled(1, 1024, 512 << 10);
        assert!(
            (510..515).contains(&objects) && (objects - 1) * 1024 < bytes && bytes < (objects + 1) * 1024
        );
        assert_eq!(unsampled(0, 0, 512 << 10), [0, 0]);
    }

    #[test]
    fn only_profiles_of_jemalloc_are_read() {
        let text = "heap_v2/524288\n  t*: 2: 10 [0: 0]\n@ 0x1005 0x2005\n  t*: 1: 9 [0: 0]\n  t0: 1: 9 [0: 0]\n\nMAPPED_LIBRARIES:\n";
        let maps = "1000-2000 r-xp 00000000 08:01 1 /bin/a\n2000-3000 rw-p 00000000 00:00 0\n";
        assert!(convert(text, maps).is_some_and(|profile| profile.starts_with(&[0x1f, 0x8b])));
        for broken in ["", "heap profile:", "heap_v2/x\n", "heap_v2/1\n@ 0x1\n  t*: x\n"] {
            assert!(convert(broken, maps).is_none(), "{broken}");
        }
    }
}
