//! The configuration that follows from a Consul agent, beside real Traefik on the same agent.

use std::path::Path;
use std::process::Command;

use crate::support::outside::program;

#[test]
#[ignore = "needs consul and traefik"]
fn registrations_and_keys_make_the_same_configuration_as_in_traefik() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/compare-consul.py");
    let run = || {
        let mut command = Command::new("python3");
        command.arg(&script).arg(program("traefik")).arg(env!("CARGO_BIN_EXE_tidegate"));
        let output = command.arg("--consul").arg(program("consul")).output().unwrap();
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output, text)
    };
    // Somebody else may take a port between its choice and its use, so that a program does not start.
    let (mut output, mut text) = run();
    for _ in 0..2 {
        if text.contains("waited in vain") {
            (output, text) = run();
        }
    }
    eprintln!("{text}");
    assert!(output.status.success(), "{text}");
    assert!(text.matches("objects are equal").count() >= 10, "{text}");
}
