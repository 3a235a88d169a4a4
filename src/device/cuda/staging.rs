//! Copies through pinned memory, which the GPU reads and writes itself: two buffers each way, so that the
//! host fills or empties one while the other is on its way.

use super::driver::{Event, Pinned, Result, Stream};

/// Of one buffer. A picture of 513 x 513 fits; above about 1 MiB a copy is at the bus's full speed.
const BYTES: usize = 4 << 20;

pub struct Staging {
    up: [Lane; 2],
    down: [Lane; 2],
    /// The buffer of `up` that is filled next.
    next: usize,
}

struct Lane {
    pinned: Pinned,
    /// The last copy from or to it.
    copied: Event,
}

impl Lane {
    fn new(write_combined: bool) -> Result<Self> {
        Ok(Lane { pinned: Pinned::new(BYTES, write_combined)?, copied: Event::new(false)? })
    }

    /// Waits until no copy uses the buffer.
    fn host(&mut self) -> Result<&mut [u8]> {
        self.copied.wait()?;
        // SAFETY: every copy from or to it is followed by a record of `copied`, which is past.
        Ok(unsafe { self.pinned.host() })
    }
}

impl Staging {
    pub fn new() -> Result<Self> {
        // The host never reads what it uploads.
        let (up, down) =
            ([Lane::new(true)?, Lane::new(true)?], [Lane::new(false)?, Lane::new(false)?]);
        Ok(Staging { up, down, next: 0 })
    }

    /// Returns when `from` has been copied to staging; the copy to the device may still be running.
    ///
    /// # Safety
    /// `from.len()` bytes at `to` stay alive until the stream has ended.
    pub unsafe fn upload(&mut self, stream: &Stream, to: u64, from: &[u8]) -> Result<()> {
        let mut to = to;
        for part in from.chunks(BYTES) {
            let lane = &mut self.up[self.next];
            self.next = 1 - self.next;
            lane.host()?[..part.len()].copy_from_slice(part);
            // SAFETY: the part lies inside the caller's range; nobody touches the buffer before `copied`.
            unsafe { stream.upload(to, &lane.pinned, part.len())? };
            stream.record(&lane.copied)?;
            to += part.len() as u64;
        }
        Ok(())
    }

    /// Waits for what the stream was given before.
    ///
    /// # Safety
    /// `to.len()` bytes at `from` are alive.
    pub unsafe fn download(&mut self, stream: &Stream, to: &mut [u8], from: u64) -> Result<()> {
        let mut from = from;
        let mut previous: Option<(usize, &mut [u8])> = None;
        for (i, part) in to.chunks_mut(BYTES).enumerate() {
            let lane = &mut self.down[i % 2];
            // SAFETY: the part lies inside the caller's range; the buffer's last copy is past: it was emptied
            // two parts ago.
            unsafe { stream.download(&mut lane.pinned, from, part.len())? };
            stream.record(&lane.copied)?;
            from += part.len() as u64;
            if let Some((lane, part)) = previous.replace((i % 2, part)) {
                part.copy_from_slice(&self.down[lane].host()?[..part.len()]);
            }
        }
        if let Some((lane, part)) = previous {
            part.copy_from_slice(&self.down[lane].host()?[..part.len()]);
        }
        Ok(())
    }
}
