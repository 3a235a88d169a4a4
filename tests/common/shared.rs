//! The real data beside the repository, which is not part of it.

#![allow(dead_code)]

use std::io::Write;
use std::path::{Path, PathBuf};

/// A path in the shared folder (`DDU_SHARED`, else `../shared`); where it is absent the test says
/// on the terminal that it was skipped.
pub fn shared(path: &str) -> Option<PathBuf> {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let root = std::env::var_os("DDU_SHARED").map_or_else(default, PathBuf::from);
    let path = root.join(path);
    if path.exists() {
        return Some(path);
    }
    // The harness captures what the print macros write.
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    let _ = writeln!(std::io::stderr(), "{test} SKIPPED: no {}", path.display());
    None
}
