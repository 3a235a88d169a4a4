//! Class names: a text file with one name per line, in index order.

use std::path::Path;

use super::read_file;
use crate::error::{Error, Result};

/// Reads class names; blank lines at the end do not count.
///
/// # Errors
/// A file that is no text, a blank line between names, a name given twice.
pub fn read_class_names(path: &Path) -> Result<Vec<String>> {
    let expected = "text with one class name per line";
    let bytes = read_file(path, expected, 1 << 20)?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Error::invalid(path.display(), expected, "bytes that are no UTF-8"))?;
    let names: Vec<String> = text.trim_end().lines().map(|line| line.trim().to_owned()).collect();
    for (i, name) in names.iter().enumerate() {
        let found = if name.is_empty() {
            format!("nothing on line {}", i + 1)
        } else if names[..i].contains(name) {
            format!("{} a second time on line {}", name.escape_debug(), i + 1)
        } else {
            continue;
        };
        return Err(Error::invalid(path.display(), expected, found));
    }
    Ok(names)
}
