//! Counts of scores in memory that does not grow with their number.
//!
//! f32 values are ordered as integers are once their sign is folded in. A bin holds the 256
//! neighbouring values that share the first 24 of these 32 bits: sign, exponent and 15 bits of the
//! mantissa, so values of a bin differ by at most 2^-15 of their size. 4096 bins make a page, which is
//! allocated when its first value comes: 40 KiB, and 16 of them for each power of two that the scores
//! span. A bin that met one value alone remembers it, so that nothing is lost of such a bin.
//! [`CoarseHistogram`] drops 14 bits instead of 8: values of a bin differ by at most 2^-9 of their size, and
//! a page holds 8 powers of two.

/// Bins of a page, and pages.
const PAGE: usize = 4096;

/// In [`Page::low`]: no value yet, and several.
const EMPTY: u16 = u16::MAX;
const SEVERAL: u16 = u16::MAX - 1;

/// A multiset of f32. -0.0 counts as 0.0, and every NaN as one value above all numbers. `DROPPED` is the
/// number of bits that the values of a bin do not share.
#[derive(Clone, Debug, Default)]
pub struct Histogram<const DROPPED: u32 = 8> {
    /// By the first bits; empty as long as there is no value.
    pages: Vec<Option<Box<Page>>>,
    count: u64,
    sum: f64,
}

/// For sets of which there are many: 5 KiB for each power of two.
pub type CoarseHistogram = Histogram<14>;

#[derive(Clone, Debug)]
struct Page {
    count: [u64; PAGE],
    /// The dropped bits of a bin's only value.
    low: [u16; PAGE],
}

/// Values of two multisets that cannot be told apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Step {
    pub counts: [u64; 2],
    /// They are equal; else they share a bin.
    pub tie: bool,
    /// No value of the step is greater, and no smaller one of another step is.
    pub greatest: f32,
}

impl<const DROPPED: u32> Histogram<DROPPED> {
    const PAGES: usize = (1 << (32 - DROPPED)) / PAGE;
    const MASK: u32 = (1 << DROPPED) - 1;

    pub fn push(&mut self, value: f32) {
        self.push_times(key(value), 1);
        self.sum += f64::from(value);
    }

    fn push_times(&mut self, key: u32, times: u64) {
        if times == 0 {
            return;
        }
        let bin = (key >> DROPPED) as usize;
        let (page, bin) = (bin / PAGE, bin % PAGE);
        if self.pages.is_empty() {
            self.pages.resize_with(Self::PAGES, || None);
        }
        let page = self.pages[page]
            .get_or_insert_with(|| Box::new(Page { count: [0; PAGE], low: [EMPTY; PAGE] }));
        page.count[bin] += times;
        let low = (key & Self::MASK) as u16;
        page.low[bin] = match page.low[bin] {
            EMPTY => low,
            known if known == low => low,
            _ => SEVERAL,
        };
        self.count += times;
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their sum, in the order in which they came.
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// The same values in wider bins; exact where a bin of this one met one value alone.
    pub fn coarse(&self) -> CoarseHistogram {
        let mut coarse = CoarseHistogram::default();
        for (page, bin) in bins(&[self]) {
            let (count, low) = self.bin(page, bin);
            let first = Self::first(page, bin);
            // Of several values of this bin two are enough to say so there.
            let ends = if low == SEVERAL {
                [first, first | Self::MASK]
            } else {
                [first | u32::from(low); 2]
            };
            coarse.push_times(ends[0], count - 1);
            coarse.push_times(ends[1], 1);
        }
        coarse.sum = self.sum;
        coarse
    }

    /// The value that `rank` others of all `sets` exceed, within its bin (exact if that
    /// has no other value); None if there are not as many.
    pub fn descending(sets: &[&Self], rank: u64) -> Option<f32> {
        let mut seen = 0;
        for (page, bin) in bins(sets) {
            seen += sets.iter().map(|set| set.bin(page, bin).0).sum::<u64>();
            if seen > rank {
                let one = sets.iter().map(|set| set.bin(page, bin).1).find(|low| *low != EMPTY);
                let low = one.filter(|low| *low < SEVERAL).map(u32::from);
                let first = Self::first(page, bin);
                // Where unknown, the end next to zero: infinities stay what they are.
                let zero = if first >> 31 == 1 { 0 } else { Self::MASK };
                return Some(value(first | low.unwrap_or(zero)));
            }
        }
        None
    }

    /// The key of the least value of a bin.
    fn first(page: usize, bin: usize) -> u32 {
        ((page * PAGE + bin) as u32) << DROPPED
    }

    /// The values of two multisets, each the union of several, from the greatest to the least.
    pub(super) fn steps(unions: [&[&Self]; 2], mut each: impl FnMut(Step)) {
        let all = [unions[0], unions[1]].concat();
        for (page, bin) in bins(&all) {
            let of = |set: &&Self| set.bin(page, bin);
            let first = Self::first(page, bin);
            if all.iter().map(of).any(|(_, low)| low == SEVERAL) {
                let count = |sets: &[&Self]| sets.iter().map(|s| of(s).0).sum();
                let counts = [count(unions[0]), count(unions[1])];
                each(Step { counts, tie: false, greatest: value(first | Self::MASK) });
                continue;
            }
            let mut lows: Vec<u16> = all.iter().map(|s| of(s).1).filter(|l| *l != EMPTY).collect();
            lows.sort_unstable_by(|a, b| b.cmp(a));
            lows.dedup();
            for low in lows {
                let count = |sets: &[&Self]| {
                    sets.iter().map(of).filter(|(_, l)| *l == low).map(|(count, _)| count).sum()
                };
                let counts = [count(unions[0]), count(unions[1])];
                each(Step { counts, tie: true, greatest: value(first | u32::from(low)) });
            }
        }
    }

    /// Count, and the last bits of the only value.
    fn bin(&self, page: usize, bin: usize) -> (u64, u16) {
        match self.pages.get(page) {
            Some(Some(page)) => (page.count[bin], page.low[bin]),
            _ => (0, EMPTY),
        }
    }
}

/// Page and bin of every value of `sets`, from the greatest to the least.
fn bins<'a, const DROPPED: u32>(
    sets: &'a [&'a Histogram<DROPPED>],
) -> impl Iterator<Item = (usize, usize)> + 'a {
    let there =
        |set: &&Histogram<DROPPED>, page: usize| matches!(set.pages.get(page), Some(Some(_)));
    (0..Histogram::<DROPPED>::PAGES)
        .rev()
        .filter(move |page| sets.iter().any(|set| there(set, *page)))
        .flat_map(|page| (0..PAGE).rev().map(move |bin| (page, bin)))
        .filter(|(page, bin)| sets.iter().any(|set| set.bin(*page, *bin).0 > 0))
}

/// An integer that is greater where the value is.
fn key(value: f32) -> u32 {
    let value = if value.is_nan() { f32::NAN.abs() } else { value + 0.0 };
    let bits = value.to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

fn value(key: u32) -> f32 {
    f32::from_bits(if key >> 31 == 1 { key & !(1 << 31) } else { !key })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(values: &[f32]) -> Histogram {
        let mut histogram: Histogram = Histogram::default();
        values.iter().for_each(|value| histogram.push(*value));
        histogram
    }

    proptest::proptest! {
        #[test]
        fn keys_are_ordered_as_values_are(a: f32, b: f32) {
            if !a.is_nan() && !b.is_nan() {
                proptest::prop_assert_eq!(a.partial_cmp(&b), Some(key(a).cmp(&key(b))));
                proptest::prop_assert_eq!(value(key(a)), a);
            }
        }
    }

    #[test]
    fn ranks_are_exact_where_bins_are_pure_and_near_elsewhere() {
        let set = histogram(&[3.0, f32::NEG_INFINITY, -2.5, f32::INFINITY, 3.0]);
        let rank = |rank| Histogram::descending(&[&set], rank);
        let expected = [f32::INFINITY, 3.0, 3.0, -2.5, f32::NEG_INFINITY];
        assert_eq!([0, 1, 2, 3, 4].map(rank), expected.map(Some));
        assert_eq!(rank(5), None);
        let near = histogram(&[150.001, 150.002, -150.001, -150.002]);
        for (i, exact) in [150.002, 150.001, -150.001, -150.002].into_iter().enumerate() {
            let found = Histogram::descending(&[&near], i as u64).unwrap();
            assert!((found - exact).abs() <= 150.1 / 32768.0, "{found} {exact}");
        }
    }

    #[test]
    fn memory_does_not_grow_with_the_number_of_values() {
        let pages = |set: &Histogram| set.pages.iter().flatten().count();
        let values: Vec<f32> = (0..10_000).map(|i| i as f32 / 3000.0).collect();
        let mut set = histogram(&values);
        let before = pages(&set);
        (0..20).flat_map(|_| &values).for_each(|value| set.push(*value));
        assert_eq!(set.count(), 210_000);
        assert_eq!(pages(&set), before);
        // From 2^-12 to 4: 14 powers of two of 16 pages, and that of zero.
        assert!(before <= 14 * 16 + 1, "{before}");
    }
}
