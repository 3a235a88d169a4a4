//! The one error type of the library: every message is one line that says which file or thing,
//! what was expected, what was found and, where it helps, what to do.
//!
//! File names, metadata and decoders' words come from outside: what would break the line or steer a
//! terminal is escaped, and what is long is shortened in its middle.

use std::fmt::{Display, Write};
use std::path::{Path, PathBuf};

/// Most characters of a part of a message, and of a message.
const PART: usize = 400;
const LINE: usize = 2000;

/// A message as one line of bounded length without control characters, for warnings and notes;
/// errors are such lines already.
pub fn line(message: impl Display) -> String {
    shown(message, LINE)
}

fn part(text: impl Display) -> String {
    shown(text, PART)
}

fn shown(text: impl Display, limit: usize) -> String {
    let mut line = String::new();
    for c in text.to_string().chars() {
        // Also what reverses the direction of text, and Unicode's other line ends.
        let steers = matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || steers {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    let length = line.chars().count();
    if length <= limit {
        return line;
    }
    let (head, tail) = (limit * 3 / 5, limit * 2 / 5);
    let mut short: String = line.chars().take(head).collect();
    let _ = write!(short, " [{} characters] ", length - head - tail);
    short.extend(line.chars().skip(length - tail));
    short
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("{}: cannot {action}: {source}", part(path.display()))]
    Io {
        path: PathBuf,
        /// A verb: "read", "create", "write".
        action: &'static str,
        source: std::io::Error,
    },
    /// A file or value is not what it should be.
    #[error(
        "{}: expected {}, found {}{}",
        part(what),
        part(expected),
        part(found),
        fix.as_ref().map(|fix| format!("; {}", part(fix))).unwrap_or_default()
    )]
    Invalid {
        /// The file, tensor or option.
        what: String,
        expected: String,
        found: String,
        /// What the user can do about it.
        fix: Option<String>,
    },
    /// A kernel failed on its device: which, where, why.
    #[error("{}", line(.0))]
    Kernel(String),
    /// The command line asks for something that does not exist or contradicts itself.
    #[error("{}", line(.0))]
    Usage(String),
    /// A run would not fit the memory of its device.
    #[error(
        "{}: needs {} MiB, {} MiB are available; {fix}",
        part(what),
        needed.div_ceil(1 << 20),
        available >> 20
    )]
    Memory { what: String, needed: u64, available: u64, fix: String },
}

impl Error {
    pub fn io(path: impl AsRef<Path>, action: &'static str, source: std::io::Error) -> Self {
        Error::Io { path: path.as_ref().to_owned(), action, source }
    }

    pub fn invalid(what: impl ToString, expected: impl ToString, found: impl ToString) -> Self {
        Error::Invalid {
            what: what.to_string(),
            expected: expected.to_string(),
            found: found.to_string(),
            fix: None,
        }
    }

    /// Adds what the user can do about an [`Error::Invalid`].
    pub fn fix(mut self, advice: impl ToString) -> Self {
        if let Error::Invalid { fix, .. } = &mut self {
            *fix = Some(advice.to_string());
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_outside_cannot_break_a_line_or_steer_a_terminal() {
        let name = "a\nwarning: all well\x1b[31m\u{202e}gnp\u{9b}\tb\u{2028}.png";
        let errors = [
            Error::io(name, "read", std::io::ErrorKind::NotFound.into()),
            Error::invalid(name, name, name).fix(name),
            Error::Usage(name.into()),
            Error::Kernel(name.into()),
            Error::Memory { what: name.into(), needed: 1, available: 0, fix: "wait".into() },
        ];
        let messages = errors.iter().map(Error::to_string).chain([line(name)]);
        for message in messages {
            let steers = |c: char| c.is_control() || "\u{202e}\u{2028}".contains(c);
            assert!(!message.contains(steers), "{message:?}");
            assert!(message.contains(r"a\nwarning: all well\u{1b}[31m\u{202e}gnp"), "{message}");
            assert_eq!(line(&message), message, "a second time changes nothing");
        }
        assert_eq!(part("K\u{f6}ln/\u{6771}\u{4eac}.png"), "K\u{f6}ln/\u{6771}\u{4eac}.png");
    }

    #[test]
    fn long_names_are_shortened_in_their_middle() {
        let error = Error::invalid("x".repeat(5000) + "/end.png", "a picture", "text").fix("go");
        let message = error.to_string();
        assert!(message.len() < 600, "{}", message.len());
        assert!(message.ends_with("x/end.png: expected a picture, found text; go"), "{message}");
        assert!(Error::Usage("y".repeat(1 << 20)).to_string().len() < 3000);
    }
}
