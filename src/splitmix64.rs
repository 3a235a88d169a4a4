//! SplitMix64 (Steele, Lea and Flood 2014): a generator of 64 bits of state, and by its finaliser a hash.

/// Advances the state and gives its next 64 bits. With a fresh copy of a number as the state: a hash of it.
pub(crate) fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first numbers of seed 1234567 by the authors' C code.
    #[test]
    fn it_is_the_published_generator() {
        let mut state = 1234567;
        let found = [0; 3].map(|_: u8| splitmix64(&mut state));
        assert_eq!(found, [6457827717110365317, 3203168211198807973, 9817491932198370423]);
    }
}
