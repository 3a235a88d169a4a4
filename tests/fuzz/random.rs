//! Seeded numbers, and mutations of bytes that know no format.

/// SplitMix64 (Steele et al. 2014).
pub struct Random(u64);

impl Random {
    /// A sequence of its own for each input of a campaign.
    pub fn of(seed: u64, input: u64) -> Self {
        let mut random = Random(seed);
        Random(random.next() ^ input.wrapping_mul(0xd134_2543_de82_ef95))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// Mostly near the start or the end, where headers and directories are.
    fn place(&mut self, length: usize) -> usize {
        let near = length.min(600);
        match self.below(3) {
            0 => self.below(near),
            1 => length - near + self.below(near),
            _ => self.below(length),
        }
    }

    /// One to five changes: flipped, random, missing, repeated and moved bytes, an end cut off, numbers
    /// at their limits, and words of the format.
    pub fn mutate(&mut self, bytes: &mut Vec<u8>, words: &[&[u8]]) {
        const LIMITS: [u64; 10] =
            [0, 1, 0x7f, 0xff, 0x7fff, 0x8000, 0x7fff_ffff, 0xffff_ffff, 1 << 62, u64::MAX];
        for _ in 0..=self.below(5) {
            let at = self.place(bytes.len());
            let end = (at + 1 + self.below(32)).min(bytes.len());
            if at >= end {
                bytes.push(self.next() as u8);
                continue;
            }
            match self.below(9) {
                0 | 1 => bytes[at] ^= 1 << self.below(8),
                2 => bytes[at] = self.next() as u8,
                3 if self.below(4) == 0 => bytes.truncate(at),
                3 => drop(bytes.drain(at..end)),
                4 => {
                    let part = bytes[at..end].to_vec();
                    let to = self.place(bytes.len());
                    bytes.splice(to..to, part);
                }
                5 => bytes.insert(at, self.next() as u8),
                6 if !words.is_empty() => {
                    let word = words[self.below(words.len())];
                    let over = self.below(2) * word.len().min(bytes.len() - at);
                    bytes.splice(at..at + over, word.iter().copied());
                }
                _ => {
                    let number = match self.below(3) {
                        0 => self.next() >> self.below(64),
                        _ => LIMITS[self.below(LIMITS.len())],
                    };
                    let little = self.below(2) == 0;
                    let width = [1, 2, 4, 8][self.below(4)].min(bytes.len() - at);
                    let number = match little {
                        true => number.to_le_bytes(),
                        false => (number << (64 - 8 * width)).to_be_bytes(),
                    };
                    bytes[at..at + width].copy_from_slice(&number[..width]);
                }
            }
        }
    }
}
