//! The one error type of the library: every message is one line that says which file or thing,
//! what was expected, what was found and, where it helps, what to do.

use std::path::{Path, PathBuf};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        path: PathBuf,
        /// A verb: "read", "create", "write".
        action: &'static str,
        source: std::io::Error,
    },
    /// A file or value is not what it should be.
    #[error("{what}: expected {expected}, found {found}{}", fix.as_ref().map(|f| format!("; {f}")).unwrap_or_default())]
    Invalid {
        /// The file, tensor or option.
        what: String,
        expected: String,
        found: String,
        /// What the user can do about it.
        fix: Option<String>,
    },
    /// A kernel failed on its device: which, where, why.
    #[error("{0}")]
    Kernel(String),
    /// The command line asks for something that does not exist or contradicts itself.
    #[error("{0}")]
    Usage(String),
    /// A run would not fit the memory of its device.
    #[error("{what}: needs {} MiB, {} MiB are available; {fix}", needed >> 20, available >> 20)]
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
