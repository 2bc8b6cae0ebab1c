//! Settings: each line of the input is a flag, or an environment variable when it begins with `TRAEFIK_`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    let (variables, flags): (Vec<&str>, Vec<&str>) =
        input.split('\n').partition(|line| line.starts_with("TRAEFIK_"));
    // No file is read: only what stands in the input counts.
    let wanted = |line: &&str| !line.to_ascii_lowercase().contains("configfile");
    let flags: Vec<String> = flags.into_iter().filter(wanted).map(str::to_owned).collect();
    let variables: Vec<(String, String)> = variables
        .into_iter()
        .filter(wanted)
        .filter_map(|line| line.split_once('='))
        .chain([("TIDEGATE_CONFIGFILE", "")])
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    if let Err(problems) = tidegate::settings::load(&flags, &variables) {
        assert!(!problems.is_empty());
    }
});
