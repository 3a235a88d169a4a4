//! Whether the scans of a JPEG are complete.
//!
//! `zune-jpeg` gives a picture for a scan that stops at an early end-of-image marker, and the maps of
//! such a picture look valid. So the Huffman codes are walked here, without transforming anything: each
//! scan (and each restart interval) must hold exactly the codes of its blocks, no fewer and no more,
//! restart markers must count up, and no coefficient may be left half refined.
//!
//! Found: scans cut short, whatever follows; a height or width that the data does not have; blocks,
//! restart intervals and refinement scans that are missing or there twice. Not found: damage inside a
//! scan after which as many blocks as before come out: Huffman codes fall into step again, so that even
//! missing bytes may cost the values of a few blocks and no block. Restart markers, where an encoder
//! writes them, narrow that down. Source: ITU-T T.81, annexes B, F.2 and G.2.

mod huffman;

use huffman::{Bits, Stop, Table};

/// What is wrong, in words that follow "found"; None where nothing is, or where this is no sequential
/// or progressive Huffman JPEG, which is for the decoder to refuse.
pub fn damage(bytes: &[u8]) -> Option<String> {
    Walk::default().file(bytes).err().flatten()
}

/// Err(None): stop without a verdict.
type Walked<T> = Result<T, Option<String>>;

fn found<T>(what: impl Into<String>) -> Walked<T> {
    Err(Some(what.into()))
}

#[derive(Default)]
struct Walk {
    width: usize,
    height: usize,
    progressive: bool,
    components: Vec<Component>,
    /// DC tables 0 to 3, then AC tables 0 to 3.
    tables: [Option<Table>; 8],
    /// MCUs between two restart markers; 0: no such markers.
    interval: usize,
    scans: usize,
}

struct Component {
    id: u8,
    h: usize,
    v: usize,
    /// Bit 64 b + k: whether coefficient k of block b is non-zero so far, for refinement scans.
    nonzero: Vec<u64>,
    /// Blocks from one row of blocks to the next in `nonzero`.
    stride: usize,
    /// The lowest bit of each coefficient that a scan has brought.
    low: [Option<u8>; 64],
}

impl Walk {
    fn file(mut self, bytes: &[u8]) -> Walked<()> {
        let mut at = 2;
        loop {
            let Some(marker) = next_marker(bytes, &mut at) else {
                // Without an end-of-image marker nothing is lost if every scan was whole.
                return self.complete();
            };
            match marker {
                // Only the first picture of the file is taken.
                0xd9 => return self.complete(),
                0x01 | 0xd0..=0xd8 => continue,
                _ => {}
            }
            let length =
                bytes.get(at..at + 2).map(|b| usize::from(u16::from_be_bytes([b[0], b[1]])));
            let segment = length.filter(|n| *n >= 2).and_then(|n| bytes.get(at + 2..at + n));
            let Some(segment) = segment else {
                return found("a file that ends in its header");
            };
            at += 2 + segment.len();
            match marker {
                0xc0..=0xc2 => self.frame(segment, marker == 0xc2)?,
                0xc4 => self.huffman(segment)?,
                // Lossless, hierarchical, arithmetic: nothing that the decoder takes.
                0xc3 | 0xc5..=0xcf => return Err(None),
                0xdd => {
                    self.interval =
                        segment.get(..2).map_or(0, |b| usize::from(b[0]) << 8 | usize::from(b[1]))
                }
                0xda => at = self.scan(segment, bytes, at)?,
                _ => {}
            }
        }
    }

    /// SOF
    fn frame(&mut self, segment: &[u8], progressive: bool) -> Walked<()> {
        let &[8, h1, h0, w1, w0, _, ref parts @ ..] = segment else { return Err(None) };
        (self.height, self.width) =
            (usize::from(h1) << 8 | usize::from(h0), usize::from(w1) << 8 | usize::from(w0));
        self.progressive = progressive;
        let component = |part: &[u8; 3]| Component {
            id: part[0],
            h: usize::from(part[1] >> 4),
            v: usize::from(part[1] & 15),
            nonzero: Vec::new(),
            stride: 0,
            low: [None; 64],
        };
        self.components = parts.as_chunks::<3>().0.iter().map(component).collect();
        let sound = |c: &Component| (1..=4).contains(&c.h) && (1..=4).contains(&c.v);
        // A height of 0 comes later, in a DNL segment, which the decoder does not take.
        if self.width * self.height == 0
            || !(1..=4).contains(&self.components.len())
            || !self.components.iter().all(sound)
        {
            return Err(None);
        }
        let (across, down) = self.mcus();
        for component in &mut self.components {
            component.stride = across * component.h;
            if progressive {
                component.nonzero = vec![0; component.stride * down * component.v];
            }
        }
        Ok(())
    }

    /// MCUs of an interleaved scan: across, down.
    fn mcus(&self) -> (usize, usize) {
        let (h, v) = self.largest();
        (self.width.div_ceil(8 * h), self.height.div_ceil(8 * v))
    }

    /// The largest sampling factors: horizontal, vertical.
    fn largest(&self) -> (usize, usize) {
        let largest = |of: fn(&Component) -> usize| self.components.iter().map(of).max();
        (largest(|c| c.h).unwrap_or(1), largest(|c| c.v).unwrap_or(1))
    }

    /// DHT
    fn huffman(&mut self, mut segment: &[u8]) -> Walked<()> {
        while let Some((&[place, ref counts @ ..], rest)) = segment.split_first_chunk::<17>() {
            let symbols = counts.iter().map(|n| usize::from(*n)).sum();
            let Some((symbols, rest)) = rest.split_at_checked(symbols) else { return Err(None) };
            let slot = usize::from(place >> 4) * 4 + usize::from(place & 15);
            if place >> 4 > 1 || place & 15 > 3 {
                return Err(None);
            }
            self.tables[slot] = Some(Table::new(counts, symbols)?);
            segment = rest;
        }
        Ok(())
    }

    /// SOS and the codes behind it; gives the place where they end.
    fn scan(&mut self, segment: &[u8], bytes: &[u8], at: usize) -> Walked<usize> {
        self.scans += 1;
        let Some((&count, rest)) = segment.split_first() else { return Err(None) };
        let Some((parts, &[first, last, bits])) = rest.split_at_checked(2 * usize::from(count))
        else {
            return Err(None);
        };
        let (high, low) = (bits >> 4, bits & 15);
        let mut members = Vec::with_capacity(parts.len() / 2);
        for part in parts.as_chunks::<2>().0 {
            let place = self.components.iter().position(|c| c.id == part[0]);
            let (Some(component), 0..=3, 0..=3) = (place, part[1] >> 4, part[1] & 15) else {
                return Err(None);
            };
            members.push(Member {
                component,
                dc: usize::from(part[1] >> 4),
                ac: 4 + usize::from(part[1] & 15),
            });
        }
        let band = match self.progressive {
            false => Band { first: 0, last: 63, refine: false, low: 0 },
            true => Band { first: first.into(), last: last.into(), refine: high > 0, low },
        };
        let one = members.len() == 1;
        if members.is_empty()
            || band.last > 63
            || band.first > band.last
            || (self.progressive && (band.first == 0) != (band.last == 0))
            || (band.first > 0 && !one)
        {
            return Err(None);
        }
        for member in &members {
            let known = &mut self.components[member.component].low;
            for bit in &mut known[band.first..=band.last] {
                *bit = Some(band.low);
            }
        }
        // A scan of one component has no MCUs of several blocks and no padding blocks.
        let (across, down) = match one {
            false => self.mcus(),
            true => {
                let (c, (h, v)) = (&self.components[members[0].component], self.largest());
                ((self.width * c.h).div_ceil(8 * h), (self.height * c.v).div_ceil(8 * v))
            }
        };
        let mut bits = Bits::new(bytes, at);
        let mut blocks = Blocks { skip: 0, band };
        let total = across * down;
        for mcu in 0..total {
            if self.interval > 0 && mcu > 0 && mcu.is_multiple_of(self.interval) {
                let expected = 0xd0 + ((mcu / self.interval - 1) % 8) as u8;
                let marker = bits.end().and_then(|()| {
                    next_marker(bytes, &mut bits.at)
                        .filter(|m| *m == expected)
                        .ok_or(Some(String::new()))
                });
                if marker.is_err() {
                    return found(self.place(
                        "a restart marker missing or out of order",
                        mcu,
                        total,
                    ));
                }
                bits = Bits::new(bytes, bits.at);
                blocks.skip = 0;
            }
            let (row, column) = (mcu / across, mcu % across);
            for member in &members {
                let component = &mut self.components[member.component];
                let (h, v) = if one { (1, 1) } else { (component.h, component.v) };
                for block in 0..h * v {
                    let (y, x) = (row * v + block / h, column * h + block % h);
                    let mut none = 0;
                    let nonzero =
                        component.nonzero.get_mut(y * component.stride + x).unwrap_or(&mut none);
                    let tables = (self.tables[member.dc].as_ref(), self.tables[member.ac].as_ref());
                    if let Err(Stop) = blocks.walk(&mut bits, tables, self.progressive, nonzero) {
                        return found(self.place("a scan that ends or breaks", mcu, total));
                    }
                }
            }
        }
        let mut more = bits.end().is_err() || blocks.skip > 0;
        // Some encoders put a restart marker behind the last interval too.
        if let Some([0xff, 0xd0..=0xd7]) = bytes.get(bits.at..bits.at + 2) {
            bits.at += 2;
            more |= bytes.get(bits.at).is_some_and(|byte| *byte != 0xff);
        }
        if more {
            let what = "more data than the size in its header has room for";
            return found(self.place(what, total, total));
        }
        Ok(bits.at)
    }

    fn place(&self, what: &str, mcu: usize, total: usize) -> String {
        format!("{what} (scan {}, block {mcu} of {total})", self.scans)
    }

    /// Every component came, and every bit of what came.
    fn complete(&self) -> Walked<()> {
        for component in &self.components {
            let half = component.low.iter().flatten().any(|low| *low > 0);
            if component.low[0].is_none() || half {
                return found("a file without all of its scans");
            }
        }
        Ok(())
    }
}

/// A component of a scan, and its tables.
struct Member {
    component: usize,
    dc: usize,
    ac: usize,
}

/// What a scan brings of each block.
struct Band {
    /// Coefficients, in zigzag order.
    first: usize,
    last: usize,
    /// One more bit of coefficients that came before.
    refine: bool,
    /// The lowest bit that comes.
    low: u8,
}

struct Blocks {
    band: Band,
    /// Blocks to come that bring nothing new (EOBRUN).
    skip: u32,
}

impl Blocks {
    /// Passes over the codes of one block.
    fn walk(
        &mut self,
        bits: &mut Bits,
        (dc, ac): (Option<&Table>, Option<&Table>),
        progressive: bool,
        nonzero: &mut u64,
    ) -> Result<(), Stop> {
        let dc = || dc.ok_or(Stop);
        if !progressive {
            let size = bits.symbol(dc()?)?;
            bits.take(size.into())?;
            let ac = ac.ok_or(Stop)?;
            let mut k = 1;
            while k < 64 {
                let symbol = bits.symbol(ac)?;
                let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
                match (run, size) {
                    (15, 0) => k += 16,
                    (_, 0) => break,
                    _ => {
                        k += run + 1;
                        if k > 64 {
                            return Err(Stop);
                        }
                        bits.take(size)?;
                    }
                }
            }
            return Ok(());
        }
        match (self.band.first, self.band.refine) {
            (0, false) => {
                let size = bits.symbol(dc()?)?;
                bits.take(size.into())?;
                Ok(())
            }
            (0, true) => bits.take(1).map(drop),
            (_, false) => self.first(bits, ac.ok_or(Stop)?, nonzero),
            (_, true) => self.refine(bits, ac.ok_or(Stop)?, nonzero),
        }
    }

    fn first(&mut self, bits: &mut Bits, ac: &Table, nonzero: &mut u64) -> Result<(), Stop> {
        if self.skip > 0 {
            self.skip -= 1;
            return Ok(());
        }
        let mut k = self.band.first;
        while k <= self.band.last {
            let symbol = bits.symbol(ac)?;
            let (run, size) = (symbol >> 4, u32::from(symbol & 15));
            match (run, size) {
                (15, 0) => k += 16,
                (_, 0) => {
                    self.skip = (1u32 << run) - 1 + bits.take(run.into())?;
                    break;
                }
                _ => {
                    k += usize::from(run);
                    if k > 63 {
                        return Err(Stop);
                    }
                    bits.take(size)?;
                    *nonzero |= 1 << k;
                    k += 1;
                }
            }
        }
        Ok(())
    }

    fn refine(&mut self, bits: &mut Bits, ac: &Table, nonzero: &mut u64) -> Result<(), Stop> {
        let mut k = self.band.first;
        while self.skip == 0 && k <= self.band.last {
            let symbol = bits.symbol(ac)?;
            let (mut run, size) = (symbol >> 4, u32::from(symbol & 15));
            if size == 0 && run < 15 {
                self.skip = (1u32 << run) + bits.take(run.into())?;
                break;
            }
            // The sign of a coefficient that becomes non-zero.
            if size > 1 {
                return Err(Stop);
            }
            bits.take(size)?;
            while k <= self.band.last {
                if *nonzero >> k & 1 == 1 {
                    bits.take(1)?;
                } else if run == 0 {
                    break;
                } else {
                    run -= 1;
                }
                k += 1;
            }
            if size > 0 && k < 64 {
                *nonzero |= 1 << k;
            }
            k += 1;
        }
        if self.skip > 0 {
            while k <= self.band.last {
                bits.take((*nonzero >> k & 1) as u32)?;
                k += 1;
            }
            self.skip -= 1;
        }
        Ok(())
    }
}

/// The code of the next marker from `at` on, which moves behind it.
fn next_marker(bytes: &[u8], at: &mut usize) -> Option<u8> {
    loop {
        let code = *bytes.get(*at + 1)?;
        if bytes[*at] == 0xff && !matches!(code, 0 | 0xff) {
            *at += 2;
            return Some(code);
        }
        *at += 1;
    }
}
