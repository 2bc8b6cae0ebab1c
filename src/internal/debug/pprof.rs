//! The format of profiles: `perftools.profiles.Profile` (pprof, `profile.proto`), compressed with gzip.

use std::collections::HashMap;
use std::ffi::c_void;
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;

/// A profile that is being built.
pub(super) struct Builder {
    profile: Profile,
    strings: HashMap<String, i64>,
    functions: HashMap<String, u64>,
    locations: HashMap<u64, u64>,
    named: HashMap<String, u64>,
}

/// A type of values: what is counted, and its unit.
pub(super) type Kind<'a> = (&'a str, &'a str);

impl Builder {
    /// Starts a profile with these types of values, and one sample per `period`.
    pub(super) fn new(kinds: &[Kind<'_>], (period_type, period): (Kind<'_>, i64)) -> Self {
        let mut builder = Self {
            profile: Profile::default(),
            strings: HashMap::new(),
            functions: HashMap::new(),
            locations: HashMap::new(),
            named: HashMap::new(),
        };
        // The first string is empty.
        builder.string("");
        builder.profile.sample_type = kinds.iter().map(|kind| builder.value_type(*kind)).collect();
        builder.profile.period_type = Some(builder.value_type(period_type));
        builder.profile.period = period;
        builder
    }

    fn string(&mut self, text: &str) -> i64 {
        if let Some(index) = self.strings.get(text) {
            return *index;
        }
        let index = i64::try_from(self.profile.string_table.len()).unwrap_or(i64::MAX);
        self.profile.string_table.push(text.to_owned());
        self.strings.insert(text.to_owned(), index);
        index
    }

    fn value_type(&mut self, (kind, unit): Kind<'_>) -> ValueType {
        ValueType { r#type: self.string(kind), unit: self.string(unit) }
    }

    /// Adds the files with code that are mapped into memory. `maps` is `/proc/self/maps`.
    pub(super) fn map_files(&mut self, maps: &str) {
        for (start, limit, offset, file) in maps.lines().filter_map(parse_mapping) {
            let id = self.profile.mapping.len() as u64 + 1;
            let filename = self.string(file);
            self.profile.mapping.push(Mapping {
                id,
                memory_start: start,
                memory_limit: limit,
                file_offset: offset,
                filename,
            });
        }
    }

    /// Returns the location of a call by the address where it continues, with the names of its functions as far as this
    /// program has them. The tool finds others in a program that is not stripped.
    pub(super) fn return_address(&mut self, address: u64) -> u64 {
        // The call is before it.
        let address = address.saturating_sub(1);
        if let Some(id) = self.locations.get(&address) {
            return *id;
        }
        let is_inside = |mapping: &&Mapping| (mapping.memory_start..mapping.memory_limit).contains(&address);
        let mapping_id = self.profile.mapping.iter().find(is_inside).map_or(0, |mapping| mapping.id);
        let id = self.profile.location.len() as u64 + 1;
        // Inlined functions come first.
        let line = names_at(address).iter().map(|name| Line { function_id: self.function(name) }).collect();
        self.profile.location.push(Location { id, mapping_id, address, line });
        self.locations.insert(address, id);
        id
    }

    fn function(&mut self, name: &str) -> u64 {
        if let Some(id) = self.functions.get(name) {
            return *id;
        }
        let id = self.profile.function.len() as u64 + 1;
        let text = self.string(name);
        self.profile.function.push(Function { id, name: text, system_name: text });
        self.functions.insert(name.to_owned(), id);
        id
    }

    /// Returns the location of something that has a name and no address.
    pub(super) fn named(&mut self, name: &str) -> u64 {
        if let Some(id) = self.named.get(name) {
            return *id;
        }
        let line = vec![Line { function_id: self.function(name) }];
        let id = self.profile.location.len() as u64 + 1;
        self.profile.location.push(Location { id, mapping_id: 0, address: 0, line });
        self.named.insert(name.to_owned(), id);
        id
    }

    /// Returns true if this is a location in a function with this name.
    pub(super) fn is_named(&self, location: u64, function: &str) -> bool {
        let place = usize::try_from(location).ok().and_then(|id| id.checked_sub(1));
        let location = place.and_then(|place| self.profile.location.get(place));
        let function = self.functions.get(function);
        location.zip(function).is_some_and(|(location, function)| {
            location.line.iter().any(|line| line.function_id == *function)
        })
    }

    /// Adds a sample: locations from the innermost outwards, and a value of each type.
    pub(super) fn sample(&mut self, locations: Vec<u64>, values: Vec<i64>) {
        self.profile.sample.push(Sample { location_id: locations, value: values });
    }

    /// Returns the profile, which was recorded for this long until now.
    pub(super) fn finish(mut self, duration: Duration) -> Vec<u8> {
        let nanoseconds = |duration: Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.profile.time_nanos = nanoseconds(now.saturating_sub(duration));
        self.profile.duration_nanos = nanoseconds(duration);
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        // Writing to memory cannot fail.
        let _ = encoder.write_all(&self.profile.encode_to_vec());
        encoder.finish().unwrap_or_default()
    }
}

/// Parses a file with code: `55d0a000-55d0b000 r-xp 00001000 08:01 123  /usr/bin/tidegate`. Returns start, limit,
/// offset and name.
fn parse_mapping(line: &str) -> Option<(u64, u64, u64, &str)> {
    let mut fields = line.split_whitespace();
    let (range, mode, offset) = (fields.next()?, fields.next()?, fields.next()?);
    let (start, limit) = range.split_once('-')?;
    let file = fields.nth(2).filter(|file| file.starts_with('/') && mode.contains('x'))?;
    Some((hexadecimal(start)?, hexadecimal(limit)?, hexadecimal(offset)?, file))
}

/// Parses a hexadecimal number with or without `0x`.
pub(super) fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
}

/// Returns the names of the functions at an address, the innermost first; none in a program without symbols.
fn names_at(address: u64) -> Vec<String> {
    let mut names = Vec::new();
    backtrace::resolve(address as *mut c_void, |symbol| {
        // Without the hash at the end.
        names.extend(symbol.name().map(|name| format!("{name:#}")));
    });
    names
}

#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    mapping: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    r#type: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Mapping {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    memory_start: u64,
    #[prost(uint64, tag = "3")]
    memory_limit: u64,
    #[prost(uint64, tag = "4")]
    file_offset: u64,
    #[prost(int64, tag = "5")]
    filename: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    mapping_id: u64,
    #[prost(uint64, tag = "3")]
    address: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
}
