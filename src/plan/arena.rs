//! Placing buffers in one arena: two buffers share memory if they are never needed at the same time.

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

/// The offset of each buffer, by their lengths in elements, and the arena's length; None where it exceeds usize.
///
/// Greedy by size: the largest buffer first, each at the lowest offset that none has which it may be needed together with
/// (`overlap`).
pub fn place(
    lens: &[usize],
    overlap: impl Fn(usize, usize) -> bool,
) -> Option<(Vec<usize>, usize)> {
    let mut order: Vec<usize> = (0..lens.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(lens[i]), i));
    let (mut offsets, mut placed) = (vec![0; lens.len()], Vec::<usize>::new());
    let mut total = 0;
    for i in order {
        let mut taken: Vec<(usize, usize)> = placed
            .iter()
            .filter(|&&j| overlap(i, j))
            .map(|&j| (offsets[j], offsets[j] + lens[j]))
            .collect();
        taken.sort_unstable();
        let mut offset = 0usize;
        for (start, end) in taken {
            if offset.checked_add(lens[i])? <= start {
                break;
            }
            offset = offset.max(end.checked_next_multiple_of(ALIGN)?);
        }
        offsets[i] = offset;
        total = total.max(offset.checked_add(lens[i])?);
        placed.push(i);
    }
    Some((offsets, total))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// No two buffers that live at the same time overlap, and all lie inside the arena.
        #[test]
        fn live_buffers_never_overlap(
            spec in prop::collection::vec((1usize..5000, 0usize..20, 0usize..6), 1..24)
        ) {
            let lens: Vec<usize> = spec.iter().map(|&(len, ..)| len).collect();
            let lives: Vec<Lifetime> = spec
                .iter()
                .map(|&(_, first, span)| Lifetime { first, last: first + span })
                .collect();
            let overlap = |a: usize, b: usize| lives[a].overlaps(lives[b]);
            let (offsets, total) = place(&lens, overlap).unwrap();
            for i in 0..lens.len() {
                prop_assert!(offsets[i].is_multiple_of(ALIGN));
                prop_assert!(offsets[i] + lens[i] <= total);
                for j in 0..i {
                    let disjoint = offsets[i] + lens[i] <= offsets[j]
                        || offsets[j] + lens[j] <= offsets[i];
                    prop_assert!(disjoint || !lives[i].overlaps(lives[j]));
                }
            }
        }
    }
}
