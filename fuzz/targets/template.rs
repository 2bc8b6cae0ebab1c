//! Go templates, as route files and default rules have them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_providers::template::{Dialect, Template, Value};

fuzz_target!(|input: &str| {
    for dialect in [Dialect::File, Dialect::Rule] {
        if let Ok(template) = Template::parse(input, dialect) {
            let data = Value::Text("web".into());
            if let Ok(text) = template.render(&data, 10_000) {
                assert!(text.len() <= 10_000);
            }
        }
    }
});
