//! SIGINT (Ctrl-C) and SIGTERM. A command that runs over a list finishes the images under way, keeps what is
//! done and says how to go on ([`Watch`]); any other one is ended at once, and so is the former at the second
//! signal. Either way no temporary file stays, and the exit code is 128 plus the signal: 130 or 143.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread;

use ddu::data::remove_temporary_files;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::note;

/// The signal that came; 0 for none.
static RECEIVED: AtomicI32 = AtomicI32::new(0);
/// Whether a command looks at [`RECEIVED`] itself.
static WATCHED: AtomicBool = AtomicBool::new(false);

/// Handles both signals from now on, on a thread of its own.
///
/// # Errors
/// A system that lets no handler be installed.
pub fn install() -> std::io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            let first = RECEIVED.swap(signal, Ordering::SeqCst) == 0;
            if first && WATCHED.load(Ordering::SeqCst) {
                continue;
            }
            remove_temporary_files();
            note("interrupted");
            std::process::exit(128 + signal);
        }
    })?;
    Ok(())
}

/// While it lives, the first signal only sets what [`Watch::exit_code`] tells.
pub struct Watch(());

impl Watch {
    pub fn new() -> Self {
        WATCHED.store(true, Ordering::SeqCst);
        Watch(())
    }

    /// How the process is to end if a signal has come.
    pub fn exit_code(&self) -> Option<ExitCode> {
        match RECEIVED.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(ExitCode::from(128 + signal as u8)),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        WATCHED.store(false, Ordering::SeqCst);
    }
}
