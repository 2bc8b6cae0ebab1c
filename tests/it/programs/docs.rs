//! Compose files of the repository, read by Docker Compose.

use crate::docs::{COMPOSE, root};
use crate::support::outside::compose;

#[test]
#[ignore = "needs Docker Compose"]
fn the_compose_files_are_read_by_compose() {
    for file in COMPOSE {
        let output = compose().arg("-f").arg(root().join(file)).arg("config").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{file}: {said}");
    }
}
