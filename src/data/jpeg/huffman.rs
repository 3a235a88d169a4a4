//! Huffman codes of a JPEG's scan: the bits without stuffing, and the tables (ITU-T T.81, annexes C and F.2.2.3).

/// Codes of up to this many bits are looked up in one step.
const FAST: u32 = 9;

/// The codes ended early or are invalid.
pub(super) struct Stop;

/// The codes of a scan: bytes without stuffing, up to a marker.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    /// Of the next byte.
    pub(super) at: usize,
    /// The lowest `count` bits are still to be taken.
    held: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    /// The codes that start at byte `at`.
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Bits { bytes, at, held: 0, count: 0 }
    }

    fn fill(&mut self) {
        while self.count <= 48 {
            let byte = match self.bytes.get(self.at) {
                Some(0xff) if self.bytes.get(self.at + 1) == Some(&0) => {
                    self.at += 1;
                    0xff
                }
                // A marker, or the end of the file.
                Some(0xff) | None => return,
                Some(byte) => *byte,
            };
            self.at += 1;
            self.held = self.held << 8 | u64::from(byte);
            self.count += 8;
        }
    }

    /// The next `n <= 16` bits.
    pub(super) fn take(&mut self, n: u32) -> Result<u32, Stop> {
        if n > 16 {
            return Err(Stop);
        }
        if self.count < n {
            self.fill();
        }
        self.count = self.count.checked_sub(n).ok_or(Stop)?;
        Ok((self.held >> self.count) as u32 & ((1 << n) - 1))
    }

    pub(super) fn symbol(&mut self, table: &Table) -> Result<u8, Stop> {
        if self.count < 16 {
            self.fill();
        }
        // Beyond the end come zeros, which are then not there to be taken.
        let next = match self.count {
            16.. => (self.held >> (self.count - 16)) as u32 & 0xffff,
            count => ((self.held as u32) << (16 - count)) & 0xffff,
        };
        let (length, symbol) = table.look_up(next).ok_or(Stop)?;
        self.count = self.count.checked_sub(length).ok_or(Stop)?;
        Ok(symbol)
    }

    /// Nothing is left but bits that fill the last byte, or bytes of zeros or ones as some cameras
    /// append them.
    pub(super) fn end(&mut self) -> Result<(), Option<String>> {
        self.count -= self.count % 8;
        loop {
            self.fill();
            if self.count == 0 {
                return Ok(());
            }
            self.count -= 8;
            if !matches!((self.held >> self.count) as u8, 0 | 0xff) {
                return Err(Some(String::new()));
            }
        }
    }
}

/// A Huffman table.
pub(super) struct Table {
    /// By the next [`FAST`] bits: length (0: longer) and symbol.
    fast: Vec<(u8, u8)>,
    /// By length - 1: the first code that is longer, aligned to 16 bits; and what to add to a code for
    /// the place of its symbol.
    limit: [u32; 16],
    offset: [i32; 16],
    symbols: Vec<u8>,
}

impl Table {
    pub(super) fn new(counts: &[u8], symbols: &[u8]) -> Result<Self, Option<String>> {
        let mut table = Table {
            fast: vec![(0, 0); 1 << FAST],
            limit: [0; 16],
            offset: [0; 16],
            symbols: symbols.to_vec(),
        };
        let (mut code, mut place) = (0u32, 0usize);
        for (i, &count) in counts.iter().enumerate().take(16) {
            let length = i as u32 + 1;
            table.offset[i] = place as i32 - code as i32;
            if code + u32::from(count) > 1 << length {
                return Err(None);
            }
            for _ in 0..count {
                if length <= FAST {
                    let start = (code << (FAST - length)) as usize;
                    table.fast[start..start + (1 << (FAST - length))]
                        .fill((length as u8, symbols[place]));
                }
                code += 1;
                place += 1;
            }
            table.limit[i] = code << (16 - length);
            code <<= 1;
        }
        Ok(table)
    }

    /// Length and symbol of the code that the 16 bits of `next` start with.
    fn look_up(&self, next: u32) -> Option<(u32, u8)> {
        let (length, symbol) = self.fast[(next >> (16 - FAST)) as usize];
        if length > 0 {
            return Some((length.into(), symbol));
        }
        let i = self.limit.iter().position(|limit| next < *limit)?;
        let length = i as u32 + 1;
        let place = (next >> (16 - length)) as i32 + self.offset[i];
        Some((length, *self.symbols.get(usize::try_from(place).ok()?)?))
    }
}
