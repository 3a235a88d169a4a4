//! Placing buffers in one arena: two buffers share memory if they are never needed at the same time.

use super::Buffer;

/// Buffers start at multiples of this many elements (256 bytes of f32).
const ALIGN: usize = 64;

/// The ops (by index) between which a buffer holds data, both inclusive.
#[derive(Clone, Copy, Debug)]
pub struct Lifetime {
    pub first: usize,
    pub last: usize,
}

impl Lifetime {
    pub fn overlaps(self, other: Lifetime) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Sets each buffer's offset; returns the arena's length in elements, None where it exceeds usize.
///
/// Greedy by size: the largest buffer first, each at the lowest offset that none has which it may be needed together with
/// (`overlap`).
pub fn place(buffers: &mut [Buffer], overlap: impl Fn(usize, usize) -> bool) -> Option<usize> {
    let mut order: Vec<usize> = (0..buffers.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(buffers[i].len), i));
    let mut placed: Vec<usize> = Vec::new();
    let mut total = 0;
    for i in order {
        let mut taken: Vec<(usize, usize)> = placed
            .iter()
            .filter(|&&j| overlap(i, j))
            .map(|&j| (buffers[j].offset, buffers[j].offset + buffers[j].len))
            .collect();
        taken.sort_unstable();
        let mut offset = 0usize;
        for (start, end) in taken {
            if offset.checked_add(buffers[i].len)? <= start {
                break;
            }
            offset = offset.max(end.checked_next_multiple_of(ALIGN)?);
        }
        buffers[i].offset = offset;
        total = total.max(offset.checked_add(buffers[i].len)?);
        placed.push(i);
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Size;
    use proptest::prelude::*;

    proptest! {
        /// No two buffers that live at the same time overlap, and all lie inside the arena.
        #[test]
        fn live_buffers_never_overlap(
            spec in prop::collection::vec((1usize..5000, 0usize..20, 0usize..6), 1..24)
        ) {
            let mut buffers: Vec<Buffer> = spec
                .iter()
                .map(|&(len, ..)| Buffer { size: Size::new(1, len), channels: 1, offset: 0, len })
                .collect();
            let lives: Vec<Lifetime> = spec
                .iter()
                .map(|&(_, first, span)| Lifetime { first, last: first + span })
                .collect();
            let overlap = |a: usize, b: usize| lives[a].overlaps(lives[b]);
            let total = place(&mut buffers, overlap).unwrap();
            for i in 0..buffers.len() {
                prop_assert!(buffers[i].offset.is_multiple_of(ALIGN));
                prop_assert!(buffers[i].offset + buffers[i].len <= total);
                for j in 0..i {
                    let disjoint = buffers[i].offset + buffers[i].len <= buffers[j].offset
                        || buffers[j].offset + buffers[j].len <= buffers[i].offset;
                    prop_assert!(disjoint || !lives[i].overlaps(lives[j]));
                }
            }
        }
    }
}
