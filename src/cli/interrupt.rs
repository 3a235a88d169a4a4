//! SIGINT (Ctrl-C) and SIGTERM. While a network runs over a list ([`Watch`]), the first signal lets the images
//! under way finish and ends the list there; the command keeps what is done and says how to go on. At any other
//! time, and at the second signal, the process ends at once. Either way no temporary file stays, and the exit
//! code is 128 plus the signal: 130 or 143.
//!
//! SIGXFSZ (a file that grows beyond `ulimit -f`) would end the process as well: handled, it leaves the write
//! to fail as on a full disk.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread;

use ddu::data::remove_temporary_files;
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use super::note;

/// The signal that came; 0 for none.
static SIGNAL: AtomicU8 = AtomicU8::new(0);
/// Whether a list looks at [`SIGNAL`].
static WATCHED: AtomicBool = AtomicBool::new(false);

/// Handles the signals from now on, on a thread of its own.
///
/// # Errors
/// A system that lets no handler or thread be made.
pub fn install() -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGXFSZ])?;
    let started = thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            if signal == SIGXFSZ {
                continue;
            }
            let first = SIGNAL.swap(signal as u8, Ordering::SeqCst) == 0;
            if first && WATCHED.load(Ordering::SeqCst) {
                continue;
            }
            remove_temporary_files();
            note("interrupted");
            std::process::exit(128 + signal);
        }
    });
    started.map_err(|error| ddu::host::too_few_threads("one that waits for signals", error))?;
    Ok(())
}

/// Whether a signal has come.
pub fn requested() -> bool {
    SIGNAL.load(Ordering::SeqCst) != 0
}

/// That of a command which a signal ended.
pub fn exit_code() -> ExitCode {
    ExitCode::from(128 + SIGNAL.load(Ordering::SeqCst))
}

/// While it lives, the first signal only shows in [`requested`].
pub struct Watch(());

impl Watch {
    pub fn new() -> Self {
        WATCHED.store(true, Ordering::SeqCst);
        Watch(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        WATCHED.store(false, Ordering::SeqCst);
    }
}
